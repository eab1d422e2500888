"""One run from its command line to its record: `nerp train` and `nerp test`."""

import contextlib
import json
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor
from yacs.config import CfgNode

from nerp.clip.model import Clip, build_clip, pick_device
from nerp.config import Request, build_config, card_file, difference, digest
from nerp.correction.flipping import Correction
from nerp.correction.wrapper import NeRP, build_nerp
from nerp.data.benchmark import Benchmark, Item, open_benchmark, split_digest
from nerp.data.images import Normalise, eval_transform
from nerp.data.reference import cached_mean_image, load_reference
from nerp.data.selection import select_run
from nerp.engine.checkpoint import (
    Checkpoint,
    checkpoint_file,
    file_digest,
    load_trainer,
    read_checkpoint,
)
from nerp.engine.evaluate import compute_logits, result_block, result_record
from nerp.engine.log import RunLog, environment, say
from nerp.engine.train import STATE_FILE, TrainingRun
from nerp.errors import NerpError, OtherRunError
from nerp.paths import replacing, write_text
from nerp.protocols import NERP_SUFFIX, plain_name, run_dir
from nerp.registry import TRAINERS
from nerp.trainers.base import Classes, Trainer

RESULT_FILE = "result.json"
CONFIG_FILE = "config.yaml"
PREDICTIONS_FILE = "predictions.npz"
CD_SOURCE = "ImageNet"  # the source of a checkpoint that does not name its own


@dataclass
class EvaluationFlags:
    """What `nerp test` takes besides a `Request`."""

    model_dir: str = ""
    load_epoch: int | None = None
    save_logits: bool = False
    overwrite: bool = False


def run_training(request: Request, overwrite: bool = False) -> Path:
    """Train, save, test on the same classes; the folder with the record.

    A finished run is left as it is, an interrupted one goes on. Raises NerpError for anything in
    the request that cannot be done; nothing is written before the work can begin.
    """
    if request.trainer.endswith(NERP_SUFFIX):
        plain = plain_name(request.trainer)
        raise NerpError(f"NeRP trains nothing: train {plain}, then test {request.trainer} with "
                        "--model-dir")
    with RunLog() as log:
        cfg = build_config(request)
        if not TRAINERS[request.trainer].folder:
            raise NerpError(f"{request.trainer} learns nothing: nerp test --trainer "
                            f"{request.trainer}")
        directory = output_dir(cfg, request, "train")
        bench = run_benchmark(cfg)
        if not bench.train:
            raise NerpError(f"{bench.name}: the training split is empty")
        identity = {"config": digest(cfg), "train": split_digest(bench.train)}
        if is_finished(directory, identity, cfg, overwrite):
            return directory
        clip = open_clip_model(cfg)
        torch.manual_seed(cfg.SEED)
        trainer = TRAINERS[cfg.TRAINER.NAME](cfg, clip, class_set(cfg, bench, seen=True))
        say(f"{cfg.TRAINER.NAME}: {sum(p.numel() for p in trainer.parameters()):,} learned "
            f"parameters; {len(bench.train)} training images of {len(bench.classnames)} classes")
        training = TrainingRun(trainer, bench, cfg, directory, identity)
        with recording(log, directory, cfg) as record:
            training.run()
            say("Finish training")
            if not cfg.TEST.NO_TEST:
                items = tested_items(bench, cfg)
                logits = compute_logits(trainer, items, bench.image_dir, cfg)
                record.update(measure(items, logits, bench, None))
            record.update(kind="train", identity=identity, epoch=cfg.OPTIM.MAX_EPOCH)
    return directory


def run_test(request: Request, flags: EvaluationFlags) -> Path:
    """Test a checkpoint (or zero-shot CLIP), corrected with NeRP where the name ends in _NeRP.

    A finished test is left as it is. Raises NerpError for anything that cannot be done; nothing
    is written before the work can begin.
    """
    with RunLog() as log:
        cfg = build_config(request)
        checkpoint = open_checkpoint(cfg, flags)
        directory = output_dir(cfg, request, "test")
        bench = run_benchmark(cfg)
        items = tested_items(bench, cfg)
        identity = {
            "config": digest(cfg),
            "test": split_digest(items),
            "checkpoint": file_digest(checkpoint.path) if checkpoint else "",
        }
        wanted = [PREDICTIONS_FILE] if flags.save_logits else []
        if is_finished(directory, identity, cfg, flags.overwrite, wanted):
            return directory
        clip = open_clip_model(cfg)
        classes = class_set(cfg, bench, seen=is_seen(cfg, checkpoint))
        trainer = open_trainer(cfg, clip, classes, checkpoint)
        nerp = open_nerp(trainer, cfg, directory)
        with recording(log, directory, cfg) as record:
            logits = compute_logits(trainer, items, bench.image_dir, cfg)
            correction = None
            if cfg.TRAINER.NAME.endswith(NERP_SUFFIX):
                correction = nerp.correct(logits) if nerp else Correction.none(logits)
            if nerp:
                record["nerp"] = {"pairs": nerp.pairs.source, "looked_at": nerp.pairs.looked_at}
            record.update(measure(items, logits, bench, correction))
            epoch = checkpoint.epoch if checkpoint else 0
            record.update(kind="test", identity=identity, epoch=epoch)
            if flags.save_logits:
                save_predictions(directory, items, logits, bench.classnames, nerp, correction)
    return directory


def open_checkpoint(cfg: CfgNode, flags: EvaluationFlags) -> Checkpoint | None:
    """The checkpoint under test; None for a method that learns nothing."""
    folder = TRAINERS[plain_name(cfg.TRAINER.NAME)].folder
    if not folder:
        return None
    if not flags.model_dir:
        raise NerpError(f"{cfg.TRAINER.NAME} needs --model-dir, the --output-dir of its training "
                        "run")
    return read_checkpoint(checkpoint_file(flags.model_dir, folder, flags.load_epoch))


def tested_items(bench: Benchmark, cfg: CfgNode) -> list[Item]:
    """The items of TEST.SPLIT. Raises NerpError if there are none."""
    items = getattr(bench, cfg.TEST.SPLIT)
    if not items:
        raise NerpError(f"{bench.name}: the split {cfg.TEST.SPLIT} is empty")
    return items


def output_dir(cfg: CfgNode, request: Request, phase: str) -> Path:
    """--output-dir, or the run's place below `output/`."""
    if cfg.OUTPUT_DIR:
        return Path(cfg.OUTPUT_DIR).expanduser()
    return run_dir(
        "output",
        task=cfg.TASK,
        phase=phase,
        classes=cfg.DATASET.SUBSAMPLE_CLASSES,
        dataset=card_file(request).stem,
        shots=cfg.DATASET.NUM_SHOTS,
        trainer=cfg.TRAINER.NAME,
        config=Path(request.config_file).stem if request.config_file else "default",
        seed=cfg.SEED,
    )


def run_benchmark(cfg: CfgNode) -> Benchmark:
    """The images and classes of this run."""
    bench = open_benchmark(cfg)
    return select_run(bench, cfg.DATASET.NUM_SHOTS, cfg.SEED, cfg.DATASET.SUBSAMPLE_CLASSES)


def open_clip_model(cfg: CfgNode) -> Clip:
    """The backbone in the method's precision, and what the log should know of it."""
    method = TRAINERS[plain_name(cfg.TRAINER.NAME)]
    backbone = cfg.MODEL.BACKBONE
    clip, notes = build_clip(
        backbone.NAME,
        backbone.PATH,
        backbone.ACTIVATION,
        cfg.TRAINER[method.node].PREC,
        pick_device(cfg.USE_CUDA),
    )
    for note in notes:
        say(note)
    if max(cfg.INPUT.SIZE) != clip.size:
        say(f"INPUT.SIZE {cfg.INPUT.SIZE} gives way to the backbone's {clip.size} pixels")
    return clip


def class_set(cfg: CfgNode, bench: Benchmark, seen: bool) -> Classes:
    """The benchmark's classes with its prompts."""
    return Classes(tuple(bench.classnames), cfg.DATASET.TEMPLATE, cfg.DATASET.NEUTRAL, seen)


def is_seen(cfg: CfgNode, checkpoint: Checkpoint | None) -> bool:
    """Whether the tested classes are the ones that were trained on, by the protocol."""
    if cfg.TASK == "CD":
        return (checkpoint and checkpoint.source or CD_SOURCE) == cfg.DATASET.NAME
    return cfg.DATASET.SUBSAMPLE_CLASSES != "new"


def open_trainer(
    cfg: CfgNode, clip: Clip, classes: Classes, checkpoint: Checkpoint | None
) -> Trainer:
    """The trainer in a checkpoint, or one that learns nothing."""
    if checkpoint is None:
        return TRAINERS[plain_name(cfg.TRAINER.NAME)](cfg, clip, classes)
    trainer, notes = load_trainer(cfg, clip, classes, checkpoint)
    for note in notes:
        say(note)
    return trainer


def open_nerp(trainer: Trainer, cfg: CfgNode, directory: Path) -> NeRP | None:
    """Priors and pairs for the classes under test; None where nothing is to be corrected."""
    if not cfg.TRAINER.NAME.endswith(NERP_SUFFIX):
        return None
    if trainer.classes.seen and not cfg.NERP.ON_BASE:
        say("NeRP: these classes were trained on, so nothing is corrected (NERP.ON_BASE True does)")
        return None
    image = reference_image(cfg, directory)
    clip = trainer.clip
    pixels = eval_transform(cfg, clip.size)(image)[None]
    nerp = build_nerp(trainer, Normalise(cfg, clip.device)(pixels), cfg)
    say(f"NeRP: {nerp.pairs.note} (looked at {nerp.pairs.looked_at})")
    return nerp


def reference_image(cfg: CfgNode, directory: Path):
    """NERP.REFERENCE_IMAGE, or the mean of the training split, computed once and kept."""
    name = cfg.DATASET.REFERENCE or cfg.DATASET.NAME
    if cfg.NERP.REFERENCE_IMAGE:
        say(f"NeRP: reference image {cfg.NERP.REFERENCE_IMAGE}")
        return load_reference(cfg.NERP.REFERENCE_IMAGE, name)
    bench = open_benchmark(cfg)
    image, path = cached_mean_image(
        bench.train, bench.image_dir, name, [bench.directory, directory]
    )
    say(f"NeRP: reference image {path}, the mean of {len(bench.train)} training images")
    return image


def measure(
    items: list[Item], logits: Tensor, bench: Benchmark, correction: Correction | None
) -> dict:
    """The record of predictions, said and returned."""
    labels = np.array([item.label for item in items])
    record = result_record(labels, logits, bench.classnames, correction)
    say(result_block(record))
    return record


def save_predictions(
    directory: Path,
    items: list[Item],
    logits: Tensor,
    classnames: list[str],
    nerp: NeRP | None,
    correction: Correction | None,
) -> None:
    """Write predictions.npz: logits, labels, paths and classnames; with NeRP also
    corrected_logits, text_prior, image_prior and pairs (class indices)."""
    arrays = {
        "logits": logits.numpy(),
        "labels": np.array([item.label for item in items]),
        "paths": np.array([item.path for item in items]),
        "classnames": np.array(classnames),
    }
    if nerp is not None:
        arrays |= {
            "corrected_logits": correction.apply(logits).numpy(),
            "text_prior": nerp.text_prior.numpy(),
            "image_prior": nerp.image_prior.numpy(),
            "pairs": nerp.pairs.index.numpy(),
        }
    with replacing(directory / PREDICTIONS_FILE) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **arrays)


def is_finished(
    directory: Path, identity: dict, cfg: CfgNode, overwrite: bool, wants: list[str] = ()
) -> bool:
    """Whether the folder holds this very run, finished; with `overwrite` it is emptied of it.

    Raises NerpError where it holds a finished run that was asked for differently.
    """
    result = directory / RESULT_FILE
    if overwrite:
        for name in (RESULT_FILE, STATE_FILE, PREDICTIONS_FILE, "log.txt", CONFIG_FILE):
            (directory / name).unlink(missing_ok=True)
        return False
    if not result.is_file():
        return False
    try:
        found = json.loads(result.read_text())
    except ValueError:
        raise NerpError(f"{result} is damaged; --overwrite runs it again") from None
    if found.get("identity") != identity:
        changes = _changes(directory, cfg, found.get("identity", {}), identity)
        raise OtherRunError(f"{directory} holds a finished run of something else ({changes}): give "
                            "another --output-dir, or --overwrite to replace it")
    if all((directory / name).is_file() for name in wants):
        say(f"finished already, skipped: {directory}")
        return True
    return False


def _changes(directory: Path, cfg: CfgNode, old: dict, new: dict) -> str:
    if old.get("config") != new.get("config") and (directory / CONFIG_FILE).is_file():
        before = CfgNode(yaml.safe_load((directory / CONFIG_FILE).read_text()))
        lines = difference(before, CfgNode(yaml.safe_load(cfg.dump())))
        more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
        if lines:
            return "; ".join(lines[:3]) + more
    keys = [key for key in new if old.get(key) != new[key]]
    return "another " + " and ".join(keys)


@contextlib.contextmanager
def recording(log: RunLog, directory: Path, cfg: CfgNode) -> Iterator[dict]:
    """Log to the run's folder, and write result.json if the work ends without an error."""
    device = pick_device(cfg.USE_CUDA)
    versions = environment(device)
    listing = "\n".join(f"{name}: {value}" for name, value in versions.items())
    log.write_to(directory, f"** Configuration **\n{cfg.dump()}\n** Environment **\n{listing}\n")
    write_text(directory / CONFIG_FILE, cfg.dump())
    start = time.monotonic()
    record: dict = {
        "trainer": cfg.TRAINER.NAME,
        "dataset": cfg.DATASET.NAME,
        "task": cfg.TASK,
        "classes": cfg.DATASET.SUBSAMPLE_CLASSES,
        "shots": cfg.DATASET.NUM_SHOTS,
        "seed": cfg.SEED,
    }
    try:
        yield record
    except NerpError as error:
        say(f"error: {error}", file_only=True)
        raise
    record["seconds"] = round(time.monotonic() - start, 2)
    record["peak_memory_mib"] = _peak_memory(device)
    record["versions"] = versions
    write_text(directory / RESULT_FILE, json.dumps(record, indent=1) + "\n")


def _peak_memory(device: torch.device) -> int:
    """MiB: of the device where there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10
