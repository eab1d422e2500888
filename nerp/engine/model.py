"""A trained model by itself: predictions for any images, without a dataset on disk.

The checkpoint holds method, backbone, prompts and classes; the configuration beside it, if there is
one, holds the rest. Published checkpoints hold neither classes nor prompts, so those are given. A
correction or a calibration may look at images of the training dataset; then it needs that dataset.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.log import on_terminal
from nerp.base.registry import TRAINERS
from nerp.base.wording import in_the_callers_words
from nerp.correction.correction import Informed
from nerp.correction.looked_at import SEEN_IMAGES, TEST_IMAGES, TEST_LABELS
from nerp.correction.matched import FromTest
from nerp.correction.running import Running
from nerp.correction.wrapper import NeRP
from nerp.data.decode import as_rgb, open_image
from nerp.data.images import Normalise, eval_transform, worker_count
from nerp.engine.built_on import completed
from nerp.engine.calibrate import open_calibrator
from nerp.engine.calibrators import Calibrator
from nerp.engine.checkpoint import (
    Checkpoint,
    checkpoint_file,
    load_trainer,
    methods_of_files,
    read_checkpoint,
)
from nerp.engine.correct import open_nerp
from nerp.engine.tested import Tested, open_clip_model
from nerp.files.yaml_file import load_yaml
from nerp.settings.cards import find_card, read_card
from nerp.settings.options import options_of
from nerp.settings.protocols import CONFIG_FILE, NERP_SUFFIX, plain_name, training_node
from nerp.settings.resolve import Request, Resolved, resolve
from nerp.settings.tree import CARD, CHECKPOINT, COMMAND_LINE, METHOD, Draft, Origin, get, leaves
from nerp.trainers.base import Trainer
from nerp.trainers.texts import Classes

Picture = str | Path | Image.Image | npt.NDArray[np.uint8]

# The keys of a run's configuration that affect a prediction, besides the method's own node.
_READ = ("INPUT.", "MODEL.", "DATASET.", "TASK", "SEED")
_NOT_READ = ("DATASET.ROOT",)


@dataclass(frozen=True)
class Failure:
    """An image that could not be read. index: its position in the input. reason: in one line."""

    index: int
    reason: str


class Model:
    """A trained model and the classes that it predicts.

    Attributes:
        classes: [C] names. trained: the names of the classes it was trained on, if known.
        resolved: its configuration. trainer: the method, `nerp.trainers`.
        finishing: corrects and calibrates its logits; None: neither.
    """

    def __init__(
        self, trainer: Trainer, resolved: Resolved, trained: Collection[str],
        finishing: "Finishing | None" = None,
    ):
        self.trainer = trainer
        self.resolved = resolved
        self.trained = trained
        self.finishing = finishing
        self._finish = finishing.steps(trainer) if finishing else ()
        self._classify: Callable[[Tensor], Tensor] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.trainer.classes.names

    def for_classes(self, names: Sequence[str]) -> "Model":
        """The same model for other classes. Raises NerpError for names that are not distinct
        texts."""
        classes = _asked(names, self.trained, self.resolved.cfg.DATASET)
        return Model(self.trainer.for_classes(classes), self.resolved, self.trained, self.finishing)

    def predict(
        self, images: Picture | Iterable[Picture], stream: Running | None = None
    ) -> tuple[list[str], npt.NDArray[np.float32]]:
        """The predicted names of N images, and the probabilities [N, C] of the classes.

        Args:
            images: one or several: paths, PIL images, or uint8 arrays [H, W, 3].
            stream: corrects each image by the images before it, in this call and earlier calls; the
                correction then has looked at test images already seen.

        Raises NerpError, naming the image, for an image that cannot be read, and for a stream with
        another number of classes.
        """
        logits: list[Tensor] = []
        for found in self.logits(images):
            if isinstance(found, Failure):
                raise NerpError(found.reason)
            logits.append(found - stream.update(found) if stream else found)
        if not logits:
            return [], np.zeros((0, len(self.classes)), np.float32)
        probabilities = torch.stack(logits).softmax(1).numpy()
        return [self.classes[i] for i in probabilities.argmax(1)], probabilities

    @torch.inference_mode()
    def logits(self, images: Picture | Iterable[Picture]) -> Iterator[Tensor | Failure]:
        """For each image, in order, its logits [C] in float32 on the CPU, corrected and calibrated
        if the model does so; or a `Failure` if it cannot be read."""
        pictures: list[Picture]
        if isinstance(images, str | Path | Image.Image | np.ndarray):
            pictures = [images]
        else:
            pictures = list(images)
        cfg, clip = self.resolved.cfg, self.trainer.clip
        normalise = Normalise(cfg, clip.device)
        loader = DataLoader(
            _Pictures(pictures, eval_transform(cfg, clip.size)),
            batch_size=cfg.DATALOADER.TEST.BATCH_SIZE, collate_fn=list,
            num_workers=worker_count(cfg, clip.device) if len(pictures) > 1 else 0,
        )
        for batch in loader:
            pixels = [found for found in batch if isinstance(found, Tensor)]
            rows: Iterator[Tensor] = iter(())
            if pixels:
                with clip.autocast():
                    logits = self._classifier()(normalise(torch.stack(pixels))).float().cpu()
                for step in self._finish:
                    logits = step(logits)
                rows = iter(logits)
            for found in batch:
                yield next(rows) if isinstance(found, Tensor) else found

    def _classifier(self) -> Callable[[Tensor], Tensor]:
        if self._classify is None:
            self._classify = self.trainer.classifier()
        return self._classify


@dataclass(frozen=True)
class Finishing:
    """The correction and the calibration of a model, computed anew for each set of classes.

    Attributes: request: a test with the same correction and calibration.
    """

    request: Request

    def steps(self, trainer: Trainer) -> tuple[Callable[[Tensor], Tensor], ...]:
        """The functions of logits [N, C] of the trainer's classes, in order. Raises NerpError as
        `opened` does."""
        nerp, calibrator = self.opened(trainer)
        correct = [lambda logits: nerp.correct(logits).apply(logits)] if nerp else []
        return (*correct, *([calibrator.apply] if calibrator else []))

    def opened(self, trainer: Trainer) -> tuple[NeRP | None, Calibrator | None]:
        """The correction and the calibration of the trainer's logits, None if there is none.
        Raises NerpError if images that they look at are missing, or if an image's correction
        depends on more than its own logits."""
        part = "base" if trainer.classes.seen else "new"
        opts = [*self.request.opts, "DATASET.SUBSAMPLE_CLASSES", part]
        tested = _Untested(resolve(replace(self.request, opts=opts)))
        tested.trainer = trainer
        nerp, calibrator = open_nerp(tested), open_calibrator(tested)
        if nerp:
            _check_by_itself(nerp)
        return nerp, calibrator


class _Untested(Tested):
    """A test whose own images the model never sees; the user gives other images."""

    @cached_property
    def logits(self) -> Tensor:
        raise NerpError(f"these settings of NERP look at the tested images of {self.bench.name}, "
                        "and here others are given; nerp test computes them")


def _check_by_itself(nerp: NeRP) -> None:
    """Raise NerpError if an image's correction depends on more than its own logits."""
    name = nerp.rule.name
    # Images come in batches, and such a rule would correct each batch as if it were all images.
    if isinstance(nerp.rule, FromTest) or nerp.looked_at in (
            SEEN_IMAGES, TEST_IMAGES, TEST_LABELS):
        raise NerpError(f"NERP.RULE {name} corrects an image by other tested images too; for one "
                        "image after the other, nerp.load(...).predict(images, stream)")
    if isinstance(nerp.rule, Informed):
        raise NerpError(f"NERP.RULE {name} needs more of an image than its logits; nerp test "
                        "computes it")


class _Pictures(Dataset[Tensor | Failure]):
    """Images as uint8 [3, S, S]; a `Failure` for an image that cannot be read."""

    def __init__(self, pictures: Sequence[Picture], transform: Callable[[Image.Image], Tensor]):
        self.pictures = pictures
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor | Failure:
        try:
            return self.transform(_opened(self.pictures[index], index))
        except NerpError as error:
            return Failure(index, str(error))


def _opened(picture: Picture, index: int) -> Image.Image:
    if isinstance(picture, str | Path):
        return open_image(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise NerpError(f"image {index}: an array of {picture.dtype} {picture.shape}; it takes "
                            "uint8 [H, W, 3]")
        picture = Image.fromarray(picture)
    try:
        return as_rgb(picture)
    except ValueError as error:
        raise NerpError(f"image {index}: {error}") from None


@in_the_callers_words()
def load(
    model: str | Path, classes: Sequence[str] = (), *, trainer: str = "", dataset: str = "",
    root: str = "data", epoch: int | None = None, options: Mapping[str, object] | None = None,
    precision: str = "",
) -> Model:
    """The model in a run's folder, a checkpoint's folder or a checkpoint file.

    Args:
        model: the folder or file.
        classes: names of the classes to predict; default: the classes it was trained on, which
            published checkpoints do not name.
        trainer: with a name that ends in _NeRP, predictions for classes that were not trained on
            are corrected, as in `nerp test`. The option TEST.CALIBRATION calibrates them.
        dataset: the card whose prompts a published checkpoint was trained with, and whose images a
            correction or a calibration looks at.
        root: the folder that holds the dataset's folder.
        epoch: of the checkpoint; default: the best if there is one, otherwise the newest.
        options: further configuration keys, such as {"MODEL.BACKBONE.PATH": "ViT-B-16.pt"}.
        precision: fp32, amp, fp16 or bf16; default: the method's PREC.
    Raises NerpError for a checkpoint that cannot be read, or that does not name its classes if no
    `classes` are given.
    """
    file = _find(model, epoch)
    checkpoint = read_checkpoint(file)
    resolved = _resolved(checkpoint, dataset, options or {})
    names = tuple(classes) or checkpoint.classnames
    if not names:
        raise NerpError(f"{file}: it does not say the names of its classes, as no published "
                        "checkpoint does: give them (--classes, or a text file with a name per "
                        "line)")
    cfg = resolved.cfg
    with on_terminal(False):  # whose lines are the images'
        clip = open_clip_model(resolved, precision)
    if checkpoint.backbone not in ("", clip.digest):
        raise NerpError(f"{file}: it was trained on other weights than those of {clip.name}: give "
                        "its backbone, MODEL.BACKBONE.PATH FILE or MODEL.BACKBONE.NAME NAME")
    asked = _asked(names, checkpoint.classnames, cfg.DATASET)
    method, _ = load_trainer(resolved, clip, asked, completed(checkpoint, cfg))
    finishing = None
    if trainer.endswith(NERP_SUFFIX) or cfg.TEST.CALIBRATION != "none":
        finishing = Finishing(_test_request(trainer, resolved, dataset, root, options or {}))
    return Model(method, resolved, checkpoint.classnames, finishing)


def _find(model: str | Path, epoch: int | None) -> Path:
    """The checkpoint file of a folder, of any method."""
    there = Path(model).expanduser()
    folders = {TRAINERS[name].folder for name in methods_of_files()} - {""}
    inside = [folder for folder in sorted(folders) if (there / folder).is_dir()]
    if not there.exists():
        raise NerpError(f"{there}: no such file or folder")
    return checkpoint_file(there, inside[0] if inside else ".", epoch)


def _resolved(
    checkpoint: Checkpoint, dataset: str, options: Mapping[str, object]
) -> Resolved:
    """The configuration from a checkpoint and the files beside it."""
    method, file = checkpoint.trainer, str(checkpoint.path)
    draft = Draft(TRAINERS[method])
    nodes = TRAINERS[method].node, training_node(method)
    wanted = (*_READ, *(f"TRAINER.{node}." for node in nodes if node))
    for folder in list(checkpoint.path.parents)[:2]:  # the checkpoint's folder, or the run's
        beside = folder / CONFIG_FILE
        if beside.is_file():
            for name, value in leaves(load_yaml(beside)):
                if name.startswith(wanted) and name not in _NOT_READ:
                    draft.put(name, value, Origin(METHOD, str(beside)))
            break
    for name, value in {**_card_keys(checkpoint), **checkpoint.inputs}.items():
        draft.put(name, value, Origin(CHECKPOINT, file))
    if dataset:
        card = find_card(dataset)
        draft.merge(read_card(card), Origin(CARD, str(card)))
    for name, value in options_of([str(w) for pair in options.items() for w in pair]).items():
        draft.put(name, value, Origin(COMMAND_LINE))
    draft.put("TRAINER.NAME", method, Origin(CHECKPOINT, file))
    draft.cfg.freeze()
    return Resolved(Request(method, model_dir=file), draft.cfg, Path(), None, Path(),
                    plain_name(method), draft.origins)


def _test_request(
    trainer: str, resolved: Resolved, dataset: str, root: str, options: Mapping[str, object]
) -> Request:
    """The test that has the model's correction and calibration."""
    cfg = resolved.cfg
    read = (name for name in resolved.origins if name.startswith(("INPUT.", "MODEL.", "TASK")))
    opts = {name: get(cfg, name) for name in (*read, "DATASET.NUM_SHOTS")}
    return Request(
        trainer or resolved.method, dataset or cfg.DATASET.NAME, root=root, seed=cfg.SEED,
        opts=[str(word) for pair in {**opts, **options}.items() for word in pair],
        model_dir=resolved.request.model_dir,
    )


def _card_keys(checkpoint: Checkpoint) -> dict[str, object]:
    return {f"DATASET.{name}": value for name, value in checkpoint.card.items()}


def _asked(names: Sequence[str], trained: Collection[str], card: CfgNode) -> Classes:
    """The classes to tell apart; in the training's order if they are all of its classes."""
    checked = _checked(names)
    return Classes(checked, card.TEMPLATE, card.NEUTRAL, seen=set(checked) <= set(trained),
                   dataset=card.NAME)


def _spaced(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name.replace("_", " ") for name in names)


def _checked(names: Sequence[str]) -> tuple[str, ...]:
    """Class names with spaces for underscores. Raises NerpError if two are the same or one is
    empty."""
    spaced = _spaced(names)
    if not spaced or not all(name.strip() for name in spaced):
        raise NerpError("the class names: at least one, none of them empty")
    twice = {name for name in spaced if spaced.count(name) > 1}
    if twice:
        raise NerpError(f"the class names: {min(twice)!r} occurs more than once")
    return spaced
