"""The commands from Python: `nerp.train`, `nerp.test`, `nerp.correct`, `nerp.features`.

    import nerp

    trained = nerp.train("MMRL", "demo_landcover", classes="base", config="trainers/MMRL/tiny.yaml")
    novel = nerp.correct("MMRL", "demo_landcover", trained, classes="new",
                         config="trainers/MMRL/tiny.yaml")
    print(novel.uncorrected_accuracy, novel.accuracy, novel.flips)

Checks and records are those of the command line. Each call leaves a run directory. If the run has
finished before, the call reads its result instead of repeating it. Errors are raised as
`nerp.NerpError`, with one line that says what to do.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nerp.base.log import on_terminal
from nerp.base.progress import silence
from nerp.base.registry import REFERENCES
from nerp.base.wording import in_the_callers_words
from nerp.engine.confidence import probabilities
from nerp.engine.features import save_features
from nerp.engine.record_file import check_owner, flips_of, read_measured, read_record
from nerp.engine.run import run_test, run_training
from nerp.files.arrays import FLOATS, TEXTS, WHOLE, Kind, read_arrays
from nerp.settings.protocols import NERP_SUFFIX, PREDICTIONS_FILE, RESULT_FILE, plain_name
from nerp.settings.resolve import Request, resolve

Array = npt.NDArray[Any]

_MEASURED = ("accuracy", "macro_f1", "per_class_accuracy")
_EFFECT = ("uncorrected_accuracy", "flips", "helped", "hurt", "neutral")
_ITEMS = {"labels": Kind(WHOLE, 1), "paths": Kind(TEXTS, 1), "classnames": Kind(TEXTS, 1)}
_PREDICTIONS = {"identity": Kind(TEXTS, 0), "logits": Kind(FLOATS, 2), **_ITEMS}
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
        accuracy: in percent, on the test images of the classes trained on; None with TEST.NO_TEST.
        macro_f1: in percent, on the same images.
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
        path: the run's folder.
        accuracy: in percent, on the test images.
        macro_f1: in percent.
        per_class: in percent by class name.
        record: all of result.json.
        logits: [N, C] of the N images and C classes, float32.
        labels: [N].
        paths: [N], relative to the dataset's image folder.
        classnames: [C].
        calibrated_logits: [N, C], corrected and calibrated (TEST.CALIBRATION) if the run did so;
            their softmax is `probabilities`.
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
    calibrated_logits: Array = field(repr=False)

    @property
    def probabilities(self) -> Array:
        """[N, C] probability of each class, float64."""
        parts = [p for _, p, _ in probabilities(self.calibrated_logits)]
        return np.concatenate(parts) if parts else np.zeros(self.calibrated_logits.shape)

    @property
    def predictions(self) -> Array:
        """[N] predicted labels."""
        predicted: Array = np.argmax(self.logits, axis=1)
        return predicted


@dataclass(frozen=True)
class Corrected(Tested):
    """A finished test with NeRP; `accuracy` and the rest are those after the correction.

    Attributes:
        corrected_logits: [N, C].
        priors: reference -> [C].
        pairs: [P, 2] class indices.
        flips: number of changed predictions, and how many of them are helped, hurt and neutral.
        uncorrected_accuracy: in percent.
        looked_at: which data the correction has looked at.

    If the classes were trained on, nothing is corrected (NERP.ON_BASE): the logits are unchanged
    and there are no priors.
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
    """A model's features of a split's images and of its classes, each of length 1.

    Attributes:
        path: the npz file with the same arrays.
        image: [N, D].
        text: [C, D] of the tested classes, from the tuned model. If a method's text features depend
            on the image, these are the ones for the reference image.
        frozen_text: [C, D] of the tested classes, from the frozen model.
        labels: [N].
        paths: [N], relative to the dataset's image folder.
        classnames: [C].
    """

    path: Path
    image: Array = field(repr=False)
    text: Array = field(repr=False)
    frozen_text: Array = field(repr=False)
    labels: Array = field(repr=False)
    paths: tuple[str, ...] = field(repr=False)
    classnames: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class Settings:
    """What a call asks for besides trainer, dataset and model. A call takes these attributes by
    name (`nerp.train("MMRL", "eurosat", shots=4)`), as one object, or both; then the names replace
    the object's values (`nerp.train("MMRL", "eurosat", settings, seed=2)`).

    Attributes:
        config: a method configuration's file, a path or a name below the shipped configs/.
        root: the folder that holds the datasets' folders.
        classes: "all", "base" or "new"; "" is "new" for `correct` and "all" for the others.
        task: "B2N", "CD", "FS" or "OW".
        shots: training images per class, 0 for all.
        seed: a whole number; -1: a seed is drawn.
        epoch: of the tested checkpoint; None: the best if there is one (TEST.FINAL_MODEL best_val),
            otherwise the newest.
        output_dir: the run's folder; "" for its place below output/.
        options: further configuration keys, such as {"OPTIM.MAX_EPOCH": 5}.
        overwrite: whether the results of another run in the folder are replaced.
        progress: whether the run prints its progress.
    """

    config: str = ""
    root: str = "data"
    classes: str = ""
    task: str = "B2N"
    shots: int = 16
    seed: int = 1
    epoch: int | None = None
    output_dir: str | Path = ""
    options: Mapping[str, object] = field(default_factory=dict)
    overwrite: bool = False
    progress: bool = False

    def request(self, trainer: str, dataset: str, model: "Trained | str | Path" = "") -> Request:
        """The request that a command line with these settings makes."""
        opts = {"TASK": self.task, "DATASET.NUM_SHOTS": self.shots,
                "DATASET.SUBSAMPLE_CLASSES": self.classes or "all", **self.options}
        return Request(
            trainer, dataset, config_file=self.config, root=self.root, seed=self.seed,
            output_dir=str(self.output_dir),
            opts=[str(word) for pair in opts.items() for word in pair],
            model_dir=str(model.path if isinstance(model, Trained) else model),
            load_epoch=self.epoch,
        )

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Let a run print only if `progress` is set; errors name Python arguments, not options."""
        quiet = contextlib.nullcontext() if self.progress else silence()
        with in_the_callers_words(), on_terminal(self.progress), quiet:
            yield


_DEFAULTS = Settings()


def train(
    trainer: str, dataset: str, settings: Settings = _DEFAULTS, **changes: Any
) -> Trained:
    """Train a method, save its checkpoint, and test it on the same classes.

    Args:
        trainer: see `nerp methods`.
        dataset: a card's name, or the file of a card.
        settings: see `Settings`.
        changes: some of its attributes by name.

    Raises NerpError for whatever cannot be done.
    """
    settings = replace(settings, **changes)
    with settings.heard():
        path = run_training(settings.request(trainer, dataset), overwrite=settings.overwrite)
    record = read_record(path / RESULT_FILE)
    return Trained(path, record.get("accuracy"), record.get("macro_f1"),
                   record.get("per_class_accuracy", {}), record)


def test(
    trainer: str, dataset: str, model: Trained | str | Path = "", settings: Settings = _DEFAULTS,
    **changes: Any,
) -> Tested:
    """Test a model. If the trainer's name ends in _NeRP, its predictions are corrected (see
    `correct`).

    Args:
        trainer: see `nerp methods`; it may end in _NeRP.
        dataset: a card's name, or the file of a card.
        model: what `train` returned, or its folder; "" for a method that learns nothing.
        settings: see `Settings`.
        changes: some of its attributes by name.

    Raises NerpError for whatever cannot be done.
    """
    settings = replace(settings, **changes)
    with settings.heard():
        path = run_test(settings.request(trainer, dataset, model), save_logits=True,
                        overwrite=settings.overwrite)
    return _read(path, corrected=trainer.endswith(NERP_SUFFIX))


def correct(
    trainer: str, dataset: str, model: Trained | str | Path = "", settings: Settings = _DEFAULTS,
    **changes: Any,
) -> Corrected:
    """Test a model and correct its predictions with NeRP.

    Args:
        trainer: with or without _NeRP.
        dataset: a card's name, or the file of a card.
        model: what `train` returned, or its folder; "" for a method that learns nothing.
        settings: see `Settings`; its options may hold NERP.RULE and the like.
        changes: some of its attributes by name.

    Raises NerpError for whatever cannot be done.
    """
    settings = replace(settings, **changes)
    settings = replace(settings, classes=settings.classes or "new")
    result = test(plain_name(trainer) + NERP_SUFFIX, dataset, model, settings)
    assert isinstance(result, Corrected)
    return result


def features(
    file: str | Path, trainer: str, dataset: str, model: Trained | str | Path = "",
    settings: Settings = _DEFAULTS, **changes: Any,
) -> Features:
    """Write a model's image and text features of a split to an npz file.

    Args:
        file: the npz.
        trainer: see `nerp methods`.
        dataset: a card's name, or the file of a card.
        model: what `train` returned, or its folder; "" for a method that learns nothing.
        settings: see `Settings`; its option TEST.SPLIT names another split.
        changes: some of its attributes by name.

    Raises NerpError for whatever cannot be done.
    """
    settings = replace(settings, **changes)
    with settings.heard():
        path = save_features(Path(file), resolve(settings.request(trainer, dataset, model)))
    arrays = read_arrays(path, _FEATURES)
    return Features(
        path, arrays["image_features"], arrays["class_features"], arrays["frozen_class_features"],
        arrays["labels"], tuple(arrays["paths"].tolist()), tuple(arrays["classnames"].tolist()),
    )


def _read(path: Path, corrected: bool) -> Tested:
    record = read_measured(path / RESULT_FILE, (*_MEASURED, *(_EFFECT if corrected else ())))
    priors = {f"{name}_prior": Kind(FLOATS, 1) for name in REFERENCES.names()}
    optional = {**_OF_NERP, **priors, "calibrated_logits": Kind(FLOATS, 2)}
    arrays = read_arrays(path / PREDICTIONS_FILE, _PREDICTIONS, optional)
    uncalibrated = arrays.get("corrected_logits", arrays["logits"])
    check_owner(arrays.pop("identity"), record, path / PREDICTIONS_FILE)
    tested = Tested(
        path=path, record=record,
        accuracy=record["accuracy"], macro_f1=record["macro_f1"],
        per_class=record["per_class_accuracy"],
        logits=arrays["logits"], labels=arrays["labels"],
        paths=tuple(arrays["paths"].tolist()),
        classnames=tuple(arrays["classnames"].tolist()),
        calibrated_logits=arrays.get("calibrated_logits", uncalibrated),
    )
    if not corrected:
        return tested
    return Corrected(
        **vars(tested),
        corrected_logits=uncalibrated,
        priors={name.removesuffix("_prior"): value for name, value in arrays.items()
                if name.endswith("_prior")},
        pairs=arrays.get("pairs", np.zeros((0, 2), np.int64)),
        flips=flips_of(record),
        uncorrected_accuracy=record["uncorrected_accuracy"],
        looked_at=record.get("nerp", {}).get("looked_at", "nothing"),
    )
