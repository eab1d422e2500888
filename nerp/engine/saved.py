"""Reading a finished run's folder."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nerp.base.errors import NerpError
from nerp.base.printable import brief, is_printable
from nerp.base.registry import REFERENCES, RULES
from nerp.correction.correction import CorrectionRule
from nerp.correction.looked_at import NOTHING, TRAINING_IMAGES
from nerp.correction.sweep import Saved
from nerp.engine.record_file import RunRecord, check_owner, read_record
from nerp.files.arrays import FLOATS, TEXTS, WHOLE, Kind, read_arrays
from nerp.files.json_file import is_node, is_number, is_text
from nerp.files.opening import reading
from nerp.settings.protocols import PREDICTIONS_FILE, RESULT_FILE, SAVE_LOGITS

_FIRST = "run nerp test --trainer <method>_NeRP --save-logits on novel classes first"
_ANEW = "nerp test <method>_NeRP on novel classes with --save-logits --overwrite makes it anew"
_PRIOR = Kind(FLOATS, 1)
_ARRAYS = {"logits": Kind(FLOATS, 2), "labels": Kind(WHOLE, 1), "text_prior": _PRIOR,
           "pairs": Kind(WHOLE, 2),
           "identity": Kind(TEXTS, 0)}
_EXTRA = {
    "image_features": Kind(FLOATS, 2), "text_features": Kind(FLOATS, 2),
    "image_mean": Kind(FLOATS, 1), "scale": Kind(FLOATS, 0), "zero_shot_logits": Kind(FLOATS, 2),
    "labelled_logits": Kind(FLOATS, 2), "labelled_labels": Kind(WHOLE, 1),
}
_OPTIONAL = {**_EXTRA, "corrected_logits": Kind(FLOATS, 2), "paths": Kind(TEXTS, 1),
             "classnames": Kind(TEXTS, 1)}
# Kind of numbers -> the type in which such arrays are used.
_TYPES = {"f": np.float32, "i": np.int64, "u": np.int64}


@dataclass(frozen=True)
class SavedRun:
    """A NeRP test's record and arrays.

    Attributes:
        result: the content of result.json. rule: the rule of its correction.
        arrays: predictions.npz by name.
    """

    directory: Path
    result: RunRecord
    rule: CorrectionRule
    arrays: dict[str, np.ndarray]

    @property
    def looked_at(self) -> dict[str, str]:
        """What each known reference, and "pairs", have looked at."""
        record = self.result["nerp"]
        known = {"text": NOTHING, "image": TRAINING_IMAGES, **record.get("references", {})}
        pairs = record.get("pairs_looked_at")
        return {**known, "pairs": pairs} if pairs else known

    @property
    def saved(self) -> Saved:
        """The arrays that a sweep needs."""
        priors = {name.removesuffix("_prior"): array for name, array in self.arrays.items()
                  if name.endswith("_prior")}
        extra = {name: self.arrays[name] for name in _EXTRA if name in self.arrays}
        return Saved(self.arrays["logits"], self.arrays["labels"], priors, self.arrays["pairs"],
                     extra)


def load_run(directory: str | Path) -> SavedRun:
    """Read result.json and predictions.npz.

    Raises NerpError if one is missing or damaged, if the run was not corrected, or if the arrays do
    not agree on images and classes.
    """
    directory = Path(directory)
    result, predictions = directory / RESULT_FILE, directory / PREDICTIONS_FILE
    if not result.is_file():
        raise NerpError(f"no {result}: {_FIRST}")
    try:
        record = read_record(result)
    except NerpError as error:
        raise NerpError(f"{error}; {_ANEW}") from None
    if "rule" not in record.get("nerp", {}):
        raise NerpError(f"{directory}: not a corrected run: {_FIRST}")
    if not predictions.is_file():
        raise NerpError(f"no {predictions}; this writes it, from the logits kept beside the "
                        f"checkpoint where they are: {_saving(record, directory)}")
    try:
        with reading(result, "the record of a corrected run"):
            rule = _rule(record["nerp"]["rule"])
        names = {*REFERENCES.names(), *rule.references}  # a user's reference need not be imported
        optional = _OPTIONAL | {f"{name}_prior": _PRIOR for name in names}
        arrays = read_arrays(predictions, _ARRAYS, optional)
    except NerpError as error:
        raise NerpError(f"{error}; {_ANEW}") from None
    check_owner(arrays.pop("identity"), record, predictions)
    arrays = {name: array.astype(_TYPES.get(array.dtype.kind, array.dtype), copy=False)
              for name, array in arrays.items()}
    _check_agreement(arrays, predictions)
    with reading(result, "the record of a corrected run"):
        lacking = [name for name in rule.references if f"{name}_prior" not in arrays]
        if lacking:
            raise ValueError(f"{PREDICTIONS_FILE} has no prior of the reference {lacking[0]}")
    return SavedRun(directory, record, rule, arrays)


def _saving(record: RunRecord, directory: Path) -> str:
    """The command line that saves a finished run's logits in its folder. It is the run's own,
    quoted again, if the record has it."""
    try:
        words = shlex.split(str(record.get("command", "")))
    except ValueError:
        words = []
    if words[:2] != ["nerp", "test"] or not is_printable(" ".join(words)):
        words = ["nerp", "test", "--trainer", str(record["trainer"]), "--output-dir",
                 str(directory), "..."]
    return shlex.join([*words[:2], SAVE_LOGITS, *words[2:]])


def _rule(node: Mapping[str, object]) -> CorrectionRule:
    """The rule that a record describes. Raises ValueError, NerpError or what dataclasses raise."""
    settings: dict[str, Any] = {"name": "flip", **node}  # old records are all of flips
    rule = RULES[settings.pop("name")]
    default = rule()
    for name, value in settings.items():
        expected = getattr(default, name)
        fits = {
            bool: isinstance(value, bool), float: is_number(value), str: is_text(value),
            int: type(value) is int,
            dict: is_node(value) and all(map(is_number, value.values())),
        }
        if not fits[type(expected)]:
            raise ValueError(f"the rule's {name} is {brief(value)}")
        if isinstance(expected, float):
            settings[name] = float(value)  # whole numbers of JSON can have any size
        elif isinstance(expected, dict):
            settings[name] = {key: float(strength) for key, strength in value.items()}
    made: CorrectionRule = rule(**settings)
    return made


def _check_agreement(arrays: dict[str, np.ndarray], file: Path) -> None:
    images, classes = shape = arrays["logits"].shape
    labels, pairs = arrays["labels"], arrays["pairs"]
    sizes = {"labels": shape[:1], "paths": shape[:1], "classnames": shape[1:],
             "corrected_logits": shape, "pairs": (len(pairs), 2), **_extra_sizes(arrays)}
    wrong = [name for name, array in arrays.items() if name != "logits"
             and array.shape != sizes.get(name, shape[1:])]
    if not images or not classes:
        wrong = ["logits"]
    elif not wrong:
        wrong = [name for name, array in (("labels", labels), ("pairs", pairs))
                 if array.size and not 0 <= array.min() <= array.max() < classes]
    if wrong:
        raise NerpError(f"{file}: its arrays do not agree on the images and classes "
                        f"({wrong[0]}); nerp test --overwrite --save-logits makes it anew")


def _extra_sizes(arrays: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """The shapes, given logits [N, C], of the arrays that only few rules need."""
    shape = images, classes = arrays["logits"].shape
    width = arrays["image_mean"].shape[0] if "image_mean" in arrays else 0
    count = arrays["labelled_labels"].shape[0] if "labelled_labels" in arrays else 0
    return {
        "image_features": (images, width), "text_features": (classes, width),
        "image_mean": (width,), "scale": (), "zero_shot_logits": shape,
        "labelled_logits": (count, classes), "labelled_labels": (count,),
    }
