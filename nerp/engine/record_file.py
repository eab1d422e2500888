"""A run's record, result.json, as its readers may rely on it."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from nerp.base.errors import NerpError
from nerp.base.printable import is_printable
from nerp.files.json_file import (
    check_fields,
    is_count,
    is_node,
    is_number,
    is_percent,
    is_text,
    read_json,
)
from nerp.settings.protocols import RESULT_FILE, protocol

_LONGEST_NAME = 200
_MOST_SHOTS = 10**6


def _is_name(value: object) -> bool:
    return is_text(value) and 0 < len(value) <= _LONGEST_NAME and is_printable(value)


def _is_line(value: object) -> bool:
    return is_text(value) and is_printable(value)


def _is_task(value: object) -> bool:
    try:
        return is_text(value) and bool(protocol(value))
    except NerpError:
        return False


def _is_per_class(value: object) -> bool:
    return is_node(value) and all(rate is None or is_percent(rate) for rate in value.values())


_NAME, _LINE = (_is_name, "a name"), (_is_line, "a text")
_COUNT = (is_count, "a whole number of at least 0")
_PERCENT = (is_percent, "a number from 0 to 100")
_NODE = (is_node, "an object")
_AMOUNT = (lambda value: is_number(value) and value >= 0, "a number of at least 0")
_NAMES = (lambda value: isinstance(value, list) and all(map(_is_line, value)), "a list of names")
_FLAG = (lambda value: isinstance(value, bool), "true or false")
_TEXTS = (lambda value: is_node(value) and all(map(_is_line, value.values())), "names with texts")
_EFFECT = dict.fromkeys(("flips", "helped", "hurt", "neutral"), _COUNT)

_CONFIDENCE = {"ece": _PERCENT, "adaptive_ece": _PERCENT, "mce": _PERCENT, "nll": _AMOUNT,
               "brier": _AMOUNT}
_NUMBERS = {
    "accuracy": _PERCENT, "macro_f1": _PERCENT, **_CONFIDENCE,
    **dict.fromkeys(("base", "novel", "h", "base_alone", "novel_alone", "auroc", "openworld_auc"),
                    _PERCENT),
}

_FIELDS = {
    "kind": (lambda value: value in ("train", "test"), "train or test"),
    "task": (_is_task, "a protocol"),
    "trainer": _NAME,
    "dataset": _NAME,
    "classes": (lambda value: value in ("all", "base", "new"), "all, base or new"),
    "shots": (lambda value: type(value) is int and -1 <= value <= _MOST_SHOTS, "a whole number"),
    "seed": _COUNT,
}
_OPTIONAL = {
    **_NUMBERS, **{f"uncorrected_{name}": kind for name, kind in _NUMBERS.items()},
    "bins": _COUNT, "alone": _NODE, "open_world": _NODE, "calibration": _NODE,
    "per_class_accuracy": (_is_per_class, "an accuracy for each class"),
    "total": _COUNT, "correct": _COUNT, **_EFFECT,
    "identity": _NODE, "nerp": _NODE, "substitute": _LINE,
    "also_seen": _LINE,
}
# As in `nerp.correction.looked_at`, which needs torch.
_LOOKED_AT = ("nothing", "training images", "training labels", "test images already seen",
              "test images", "unknown", "test labels")
_NERP = {
    "looked_at": (lambda value: value in _LOOKED_AT, f"one of {', '.join(_LOOKED_AT)}"),
}
_NERP_OPTIONAL = {
    "rule": _NODE, "on_base": _FLAG, "references": _TEXTS, "pairs": _LINE, "n_pairs": _COUNT,
    "thresholds": _LINE, "strength": _LINE, "calibration": _LINE, "findings": _NODE,
    "pairs_looked_at": (lambda value: value in _LOOKED_AT, f"one of {', '.join(_LOOKED_AT)}"),
    "stream": _NODE,
}
_OPEN_WORLD = {"base_classes": _NAMES, "predicted_as": _LINE, "stands_for": _NAMES}
_CALIBRATION = {"name": _NAME, "looked_at": _NERP["looked_at"], "note": _LINE}


def read_record(path: str | Path) -> dict:
    """A run's record. What is not there, of what may be missing, is not there; the rest is of its
    type and range, the node `nerp` included where there is one.

    Raises NerpError, naming file and field.
    """
    content = read_json(path)
    where = f"{path}: not a run's record"
    check_fields(content, _FIELDS, _OPTIONAL, where)
    if "nerp" in content:
        check_fields(content["nerp"], _NERP, _NERP_OPTIONAL, f"{where}: nerp")
    for node, fields in (("open_world", _OPEN_WORLD), ("calibration", _CALIBRATION)):
        if node in content:
            check_fields(content[node], fields, {}, f"{where}: {node}")
    for half, numbers in content.get("alone", {}).items():
        check_fields({half: numbers}, {half: _NODE}, {}, f"{where}: alone")
        check_fields(numbers, {}, _CONFIDENCE, f"{where}: alone: {half}")
    digest = content.get("identity", {}).get("config", "")
    if not is_text(digest) or not re.fullmatch("[0-9a-f]*", digest):
        raise NerpError(f"{where}: identity.config is no digest")
    return content


def run_digest(identity: object) -> str:
    """16 hex digits of a run's identity, which predictions.npz says, too."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def check_owner(said: object, record: Mapping[str, object], file: Path) -> None:
    """Raise NerpError where predictions are not those of the run that a record is of; `said`: whose
    they say they are."""
    if str(said) != run_digest(record.get("identity")):
        raise NerpError(f"{file}: it is of another run than {RESULT_FILE} beside it; nerp test "
                        "--overwrite --save-logits makes both anew")


def read_measured(path: str | Path, fields: Iterable[str]) -> dict:
    """`read_record` of a test, which has those of the fields that may be missing, too."""
    content = read_record(path)
    wanted = {name: _OPTIONAL[name] for name in fields}
    check_fields(content, wanted, {}, f"{path}: not the record of a test")
    return content
