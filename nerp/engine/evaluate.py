"""Evaluation: the logits of all images, and the record computed from them."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.distributed import interleave, rank, world_size
from nerp.base.errors import NerpError
from nerp.base.progress import progress
from nerp.clip.model import Clip
from nerp.correction.correction import Correction
from nerp.data.benchmark import Item, distinct
from nerp.data.images import ImageSet, Normalise, eval_loader, eval_set
from nerp.engine.calibrators import Calibrator
from nerp.engine.confidence import BINS
from nerp.engine.metrics import accuracy_record, confusion_matrix, flip_effect
from nerp.engine.probable import confidence_record, of_halves, of_probabilities
from nerp.engine.record_file import RunRecord
from nerp.trainers.base import Trainer

# Number of images whose frozen features are computed at once, for all methods: the last bits of a
# feature may depend on it, and all methods share the features.
FEATURE_BATCH = 100

Rows = TypeVar("Rows", list[Item], Tensor)


@torch.inference_mode()
def compute_logits(
    trainer: Trainer, items: list[Item], image_dir: Path, cfg: CfgNode,
    keep: Callable[[Callable[[], Tensor]], Tensor] = lambda compute: compute(),
) -> Tensor:
    """Logits [N, C] in float32, on the CPU, of N images in the order of `items`.

    Several processes share the images, and each returns all logits.

    Args:
        keep: called with a function that computes the frozen features [N, D] of the images, not
            normalised, if the method uses them; returns these features.

    Raises NerpError, naming the file, for an image that cannot be decoded or whose logits are not
    finite.
    """
    clip = trainer.clip
    if not items:
        return torch.zeros(0, len(trainer.classes.names))
    if not trainer.frozen_images:
        with clip.autocast():
            of_images = trainer.classifier()
        return _finite(encode_images(of_images, clip, items, image_dir, cfg).cpu(), items)

    def compute() -> Tensor:
        return encode_images(clip.image_output, clip, items, image_dir, cfg, FEATURE_BATCH).cpu()

    outputs = keep(compute).to(clip.device)
    with clip.autocast():
        trainer = trainer.having_seen(outputs)
        of_features = trainer.feature_classifier()

    def classify(output: Tensor) -> Tensor:
        return of_features(trainer.from_frozen(output))

    batches = share(outputs).split(cfg.DATALOADER.TEST.BATCH_SIZE)
    return _finite(_apply(classify, clip, batches, len(items)).cpu(), items)


def _finite(logits: Tensor, items: list[Item]) -> Tensor:
    wrong = ~logits.isfinite().all(dim=1)
    if wrong.any():
        raise NerpError(f"the logits of {int(wrong.sum())} of {len(items)} images are not finite "
                        f"(first: {items[int(wrong.nonzero()[0])].path}): the model's numbers are "
                        "too large, or its precision too low")
    return logits


@torch.inference_mode()
def encode_images(
    function: Callable[[Tensor], Tensor], clip: Clip, items: list[Item], image_dir: Path,
    cfg: CfgNode, batch: int = 0,
) -> Tensor:
    """The outputs of `function` for images [B, 3, H, W], batch by batch: [N, ...] in float32, in
    the order of `items`, of which there is at least one.

    Several processes share the images, and each returns all of it. Raises as `compute_logits`.
    """
    return encode_set(function, clip, eval_set(share(items), image_dir, cfg, clip.size), len(items),
                      cfg, batch)


@torch.inference_mode()
def encode_set(
    function: Callable[[Tensor], Tensor], clip: Clip, images: ImageSet, total: int, cfg: CfgNode,
    batch: int = 0, epoch: int = 0, what: str = "test",
) -> Tensor:
    """`encode_images` of this process's share of `total` images. A random transform is that of
    `epoch`."""
    loader = eval_loader(images, cfg, clip.device, batch, epoch)
    normalise = Normalise(cfg, clip.device)
    shown = progress(loader, what, len(loader), "batch")
    return _apply(function, clip, (normalise(pixels) for pixels, _ in shown), total)


def share(rows: Rows) -> Rows:
    """This process's share of the work. An empty share gets one row, which is left out of the
    result later."""
    mine = rows[rank() :: world_size()]
    return mine if len(mine) else rows[:1]


def _apply(
    function: Callable[[Tensor], Tensor], clip: Clip, batches: Iterable[Tensor], total: int
) -> Tensor:
    """The outputs of `function` for this process's batches, and all processes' outputs in order."""
    with clip.autocast():
        parts = [function(batch) for batch in batches]
    return interleave(torch.cat(parts).float(), total)


def result_record(
    labels: npt.NDArray[np.int64], logits: Tensor, classnames: list[str],
    correction: Correction | None, base: npt.NDArray[np.bool_] | None = None,
    calibrator: Calibrator | None = None,
) -> RunRecord:
    """The measured part of result.json.

    Args:
        labels: [N]. logits: [N, C]. correction: the correction by NeRP, None for a plain trainer.
        base: [C] whether a class was trained on, in the open world. calibrator: None for none.
    """
    before = logits.argmax(1).numpy()
    after = before if correction is None else correction.predictions.numpy()
    numbers = accuracy_record(confusion_matrix(labels, after, len(classnames)))
    per_class = dict(zip(distinct(classnames), numbers["per_class_accuracy"], strict=True))
    record: dict[str, object] = {**numbers, "per_class_accuracy": per_class}
    if correction is not None:
        old = accuracy_record(confusion_matrix(labels, before, len(classnames)))
        record["uncorrected_accuracy"] = old["accuracy"]
        record["uncorrected_macro_f1"] = old["macro_f1"]
        record.update(flip_effect(labels, before, after))
        uncorrected = of_probabilities(logits, labels, base, calibrator)
        record |= {f"uncorrected_{name}": value for name, value in uncorrected.items()}
        logits = correction.apply(logits)
    record |= of_probabilities(logits, labels, base, calibrator)
    record["bins"] = BINS
    if base is not None:
        record["alone"] = of_halves(logits, labels, base, calibrator)
    if calibrator:
        record["calibration"] = {
            "name": calibrator.name, "looked_at": calibrator.looked_at, "note": calibrator.note,
            "uncalibrated": confidence_record(logits, labels),
        }
    return cast(RunRecord, record)  # with the names that a record has


def result_block(record: RunRecord) -> str:
    """The lines that parsers of Dassl's logs read, followed by the effect of NeRP."""
    total, correct = record["total"], record["correct"]
    lines = [
        "=> result",
        f"* total: {total:,}",
        f"* correct: {correct:,}",
        f"* accuracy: {record['accuracy']:.2f}%",
        f"* error: {100 - record['accuracy']:.2f}%",
        f"* macro_f1: {record['macro_f1']:.2f}%",
    ]
    if "flips" in record:
        lines.append(
            f"NeRP: {record['uncorrected_accuracy']:.2f}% before, {record['accuracy']:.2f}% after; "
            f"{record['flips']} flips: {record['helped']} helped, {record['hurt']} hurt, "
            f"{record['neutral']} neutral"
        )
    if "openworld_auc" in record:
        lines.append(
            f"open world: base {record['base']:.2f}%, novel {record['novel']:.2f}%, H "
            f"{record['h']:.2f}%; alone {record['base_alone']:.2f}% and "
            f"{record['novel_alone']:.2f}%; AUROC {record['auroc']:.2f}%, OpenworldAUC "
            f"{record['openworld_auc']:.2f}%"
        )
    return "\n".join(lines)
