"""What the commands do, from Python: `nerp.train`, `nerp.test`, `nerp.correct`, `nerp.features`.

    import nerp

    trained = nerp.train("MMRL", "demo_landcover", classes="base", config="trainers/MMRL/tiny.yaml")
    novel = nerp.correct("MMRL", "demo_landcover", trained, classes="new",
                         config="trainers/MMRL/tiny.yaml")
    print(novel.uncorrected_accuracy, novel.accuracy, novel.flips)

The same checks and the same records as on the command line: each call leaves a run's folder, and
one that has been finished is read, not repeated. Everything raises `nerp.NerpError` for what cannot
be done, with one line that says why.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nerp.base.log import on_terminal
from nerp.base.progress import silence
from nerp.base.registry import REFERENCES
from nerp.engine.features import save_features
from nerp.engine.record import PREDICTIONS_FILE
from nerp.engine.record_file import read_measured, read_record
from nerp.engine.run import run_test, run_training
from nerp.engine.tested import ModelFlags
from nerp.files.arrays import FLOATS, TEXTS, WHOLE, Kind, read_arrays
from nerp.settings.config import Request
from nerp.settings.protocols import NERP_SUFFIX, RESULT_FILE, plain_name

Array = npt.NDArray[Any]

_MEASURED = ("accuracy", "macro_f1", "per_class_accuracy")
_FLIPS = ("flips", "helped", "hurt", "neutral")
_EFFECT = ("uncorrected_accuracy", *_FLIPS)
_ITEMS = {"labels": Kind(WHOLE, 1), "paths": Kind(TEXTS, 1), "classnames": Kind(TEXTS, 1)}
_PREDICTIONS = {"logits": Kind(FLOATS, 2), **_ITEMS}
_OF_NERP = {"corrected_logits": Kind(FLOATS, 2), "pairs": Kind(WHOLE, 2)}
_FEATURES = {
    "image_features": Kind(FLOATS, 2), "class_features": Kind(FLOATS, 2),
    "frozen_class_features": Kind(FLOATS, 2), **_ITEMS,
}


@dataclass(frozen=True)
class Trained:
    """A finished training run.

    Attributes:
        path: its folder, which `test` and `correct` take as `model`.
        accuracy, macro_f1: in percent, on the test images of the classes trained on; None where
            TEST.NO_TEST leaves that out.
        per_class: accuracy in percent by class name; None for a class without test images.
        record: all of result.json.
    """

    path: Path
    accuracy: float | None
    macro_f1: float | None
    per_class: Mapping[str, float | None]
    record: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Tested:
    """A finished test.

    Attributes:
        path: the run's folder. accuracy, macro_f1, per_class, record: see `Trained`.
        logits: [N, C] of the N images and C classes, float32. labels: [N].
        paths: [N], below the dataset's image folder. classnames: [C].
    """

    path: Path
    accuracy: float
    macro_f1: float
    per_class: Mapping[str, float | None]
    record: Mapping[str, Any] = field(repr=False)
    logits: Array = field(repr=False)
    labels: Array = field(repr=False)
    paths: tuple[str, ...] = field(repr=False)
    classnames: tuple[str, ...] = field(repr=False)

    @property
    def predictions(self) -> Array:
        """[N] predicted labels."""
        predicted: Array = np.argmax(self.logits, axis=1)
        return predicted


@dataclass(frozen=True)
class Corrected(Tested):
    """A finished test with NeRP; `accuracy` and the rest are those after the correction.

    Attributes:
        corrected_logits: [N, C]. priors: by reference, [C] each. pairs: [P, 2] class indices.
        flips: how many predictions changed, and of them helped, hurt, neutral.
        uncorrected_accuracy: in percent. looked_at: what the correction has looked at.
        Where nothing was to be corrected (classes that were trained on, NERP.ON_BASE) logits are
        as they were, and there are no priors.
    """

    corrected_logits: Array = field(repr=False)
    priors: Mapping[str, Array] = field(repr=False)
    pairs: Array = field(repr=False)
    flips: Mapping[str, int]
    uncorrected_accuracy: float
    looked_at: str

    @property
    def predictions(self) -> Array:
        """[N] predicted labels, corrected."""
        predicted: Array = np.argmax(self.corrected_logits, axis=1)
        return predicted


@dataclass(frozen=True)
class Features:
    """What a model makes of a split's images and of its classes, each of length 1.

    Attributes:
        path: the npz file with the same arrays.
        image: [N, D]. text, frozen_text: [C, D] of the classes, tuned and frozen; of a method
            whose text depends on the image, `text` is that for the reference image.
        labels: [N]. paths: [N]. classnames: [C].
    """

    path: Path
    image: Array = field(repr=False)
    text: Array = field(repr=False)
    frozen_text: Array = field(repr=False)
    labels: Array = field(repr=False)
    paths: tuple[str, ...] = field(repr=False)
    classnames: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class _Asked:
    """The arguments that all calls share, as a command line has them."""

    request: Request
    progress: bool

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Say what a run says, or nothing."""
        with on_terminal(self.progress), contextlib.nullcontext() if self.progress else silence():
            yield


def train(
    trainer: str, dataset: str, *, config: str = "", root: str = "data", classes: str = "all",
    task: str = "B2N", shots: int = 16, seed: int = 1, output_dir: str | Path = "",
    options: Mapping[str, object] | None = None, overwrite: bool = False, progress: bool = False,
) -> Trained:
    """Train a method, save its checkpoint, and test it on the same classes.

    Args:
        trainer: see `nerp methods`. dataset: a card's name, or the file of a card.
        config: a method configuration's file, in the folder or in the shipped configs/.
        root: the folder that holds the datasets' folders. classes: "all", "base" or "new".
        task: "B2N", "CD" or "FS". shots: images a class, 0 for all. seed: -1 draws one.
        output_dir: the run's folder; by default its place below output/.
        options: further configuration keys, such as {"OPTIM.MAX_EPOCH": 5}.
        overwrite: replace what the folder holds of another run. progress: print what it does.

    Raises NerpError for whatever cannot be done.
    """
    asked = _asked(trainer, dataset, config, root, classes, task, shots, seed, output_dir, options,
                   progress)
    with asked.heard():
        path = run_training(asked.request, overwrite=overwrite)
    record = read_record(path / RESULT_FILE)
    return Trained(path, record.get("accuracy"), record.get("macro_f1"),
                   record.get("per_class_accuracy", {}), record)


def test(
    trainer: str, dataset: str, model: Trained | str | Path = "", *, config: str = "",
    root: str = "data", classes: str = "all", task: str = "B2N", shots: int = 16, seed: int = 1,
    epoch: int | None = None, output_dir: str | Path = "",
    options: Mapping[str, object] | None = None, overwrite: bool = False, progress: bool = False,
) -> Tested:
    """Test a model; one whose trainer's name ends in _NeRP is corrected (see `correct`).

    Args:
        model: what `train` returned, or its folder; "" for a method that learns nothing.
        epoch: of the checkpoint; by default the newest. The rest as in `train`.

    Raises NerpError for whatever cannot be done.
    """
    asked = _asked(trainer, dataset, config, root, classes, task, shots, seed, output_dir, options,
                   progress)
    with asked.heard():
        path = run_test(asked.request, _flags(model, epoch), save_logits=True, overwrite=overwrite)
    return _read(path, corrected=trainer.endswith(NERP_SUFFIX))


def correct(
    trainer: str, dataset: str, model: Trained | str | Path = "", *, config: str = "",
    root: str = "data", classes: str = "new", task: str = "B2N", shots: int = 16, seed: int = 1,
    epoch: int | None = None, output_dir: str | Path = "",
    options: Mapping[str, object] | None = None, overwrite: bool = False, progress: bool = False,
) -> Corrected:
    """Test a model and correct its predictions with NeRP.

    Args: trainer: with or without _NeRP. The rest as in `test`; options: NERP.RULE and the like.

    Raises NerpError for whatever cannot be done.
    """
    result = test(
        plain_name(trainer) + NERP_SUFFIX, dataset, model, config=config, root=root,
        classes=classes, task=task, shots=shots, seed=seed, epoch=epoch, output_dir=output_dir,
        options=options, overwrite=overwrite, progress=progress,
    )
    assert isinstance(result, Corrected)
    return result


def features(
    file: str | Path, trainer: str, dataset: str, model: Trained | str | Path = "", *,
    config: str = "", root: str = "data", classes: str = "all", task: str = "B2N", shots: int = 16,
    seed: int = 1, epoch: int | None = None, options: Mapping[str, object] | None = None,
    progress: bool = False,
) -> Features:
    """Write a model's image and text features of a split to an npz file.

    Args: file: the npz. options: TEST.SPLIT names another split. The rest as in `test`.

    Raises NerpError for whatever cannot be done.
    """
    asked = _asked(trainer, dataset, config, root, classes, task, shots, seed, "", options,
                   progress)
    with asked.heard():
        path = save_features(Path(file), asked.request, _flags(model, epoch))
    arrays = read_arrays(path, _FEATURES)
    return Features(
        path, arrays["image_features"], arrays["class_features"], arrays["frozen_class_features"],
        arrays["labels"], tuple(arrays["paths"].tolist()), tuple(arrays["classnames"].tolist()),
    )


def _asked(
    trainer: str, dataset: str, config: str, root: str, classes: str, task: str, shots: int,
    seed: int, output_dir: str | Path, options: Mapping[str, object] | None, progress: bool,
) -> _Asked:
    opts = {"TASK": task, "DATASET.NUM_SHOTS": shots, "DATASET.SUBSAMPLE_CLASSES": classes,
            **(options or {})}
    words = [str(word) for pair in opts.items() for word in pair]
    return _Asked(Request(trainer, dataset, config_file=config, root=root, seed=seed,
                          output_dir=str(output_dir), opts=words), progress)


def _flags(model: Trained | str | Path, epoch: int | None) -> ModelFlags:
    return ModelFlags(str(model.path if isinstance(model, Trained) else model), epoch)


def _read(path: Path, corrected: bool) -> Tested:
    record = read_measured(path / RESULT_FILE, (*_MEASURED, *(_EFFECT if corrected else ())))
    priors = {f"{name}_prior": Kind(FLOATS, 1) for name in REFERENCES.names()}
    arrays = read_arrays(path / PREDICTIONS_FILE, _PREDICTIONS, _OF_NERP | priors)
    common = {
        "path": path, "record": record,
        "accuracy": record["accuracy"], "macro_f1": record["macro_f1"],
        "per_class": record["per_class_accuracy"],
        "logits": arrays["logits"], "labels": arrays["labels"],
        "paths": tuple(arrays["paths"].tolist()),
        "classnames": tuple(arrays["classnames"].tolist()),
    }
    if not corrected:
        return Tested(**common)
    return Corrected(
        **common,
        corrected_logits=arrays.get("corrected_logits", arrays["logits"]),
        priors={name.removesuffix("_prior"): value for name, value in arrays.items()
                if name.endswith("_prior")},
        pairs=arrays.get("pairs", np.zeros((0, 2), np.int64)),
        flips={name: record[name] for name in _FLIPS},
        uncorrected_accuracy=record["uncorrected_accuracy"],
        looked_at=record.get("nerp", {}).get("looked_at", "nothing"),
    )
