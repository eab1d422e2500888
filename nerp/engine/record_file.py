"""A run's record, result.json, checked so that its readers can rely on it."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict, cast

from nerp.base.errors import NerpError
from nerp.base.printable import is_printable
from nerp.engine.measures import METRICS, OPEN_WORLD
from nerp.files.json_file import (
    Check,
    Fields,
    check_fields,
    is_count,
    is_node,
    is_number,
    is_percent,
    is_text,
    read_json,
)
from nerp.settings.protocols import RESULT_FILE, protocol


class RunIdentity(TypedDict, total=False):
    config: str  # a digest of it


class NerpNode(TypedDict, total=False):
    """The correction by NeRP, and the origin of its inputs."""

    rule: dict[str, object]
    on_base: bool
    references: dict[str, str]
    pairs: str
    n_pairs: int
    pairs_looked_at: str
    looked_at: str
    thresholds: str
    strength: str
    calibration: str
    findings: dict[str, object]
    stream: dict[str, object]


class OpenWorldNode(TypedDict):
    base_classes: list[str]
    predicted_as: str
    stands_for: list[str]


class CalibrationNode(TypedDict):
    name: str
    looked_at: str
    note: str


class FeaturesNode(TypedDict):
    read: int
    encoded: int


class RunRecord(TypedDict, total=False):
    """The fields of result.json that `read_record` has checked. A record also has the numbers in
    `_NUMBERS`, their uncorrected values (`number`), and the method's own fields.

    A training without a test has no fields from `accuracy` on. Only corrected tests have flips.
    """

    kind: str
    task: str
    trainer: str
    dataset: str
    classes: str
    shots: int
    seed: int
    backbone: str
    command: object  # unchecked: it is only shown in messages
    identity: RunIdentity
    contradiction: str
    substitute: str
    also_seen: str
    accuracy: float
    macro_f1: float
    uncorrected_accuracy: float
    total: int
    correct: int
    per_class_accuracy: dict[str, float | None]
    bins: int
    base: float
    novel: float
    h: float
    base_alone: float
    novel_alone: float
    auroc: float
    openworld_auc: float
    alone: dict[str, dict[str, float]]
    nerp: NerpNode
    open_world: OpenWorldNode
    calibration: CalibrationNode
    features: FeaturesNode
    flips: int
    helped: int
    hurt: int
    neutral: int


Wanted = tuple[Check, str]  # whether a value fits, and the fitting values in words

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


_NAME: Wanted = (_is_name, "a name")
_LINE: Wanted = (_is_line, "a text")
_COUNT: Wanted = (is_count, "a whole number of at least 0")
_PERCENT: Wanted = (is_percent, "a number from 0 to 100")
_NODE: Wanted = (is_node, "an object")
_AMOUNT: Wanted = (lambda value: is_number(value) and value >= 0, "a number of at least 0")
_NAMES: Wanted = (lambda value: isinstance(value, list) and all(map(_is_line, value)),
                  "a list of names")
_FLAG: Wanted = (lambda value: isinstance(value, bool), "true or false")
_TEXTS: Wanted = (lambda value: is_node(value) and all(map(_is_line, value.values())),
                  "names with texts")
_EFFECT = dict.fromkeys(("flips", "helped", "hurt", "neutral"), _COUNT)

_KINDS = {name: _PERCENT if metric.percent else _AMOUNT for name, metric in METRICS.items()}
_CONFIDENCE = {name: _KINDS[name] for name, metric in METRICS.items() if metric.of}
_NUMBERS = {**_KINDS, **dict.fromkeys(OPEN_WORLD, _PERCENT)}

_FIELDS: Fields = {
    "kind": (lambda value: value in ("train", "test"), "train or test"),
    "task": (_is_task, "a protocol"),
    "trainer": _NAME,
    "dataset": _NAME,
    "classes": (lambda value: value in ("all", "base", "new"), "all, base or new"),
    "shots": (lambda value: type(value) is int and -1 <= value <= _MOST_SHOTS, "a whole number"),
    "seed": _COUNT,
}
_OPTIONAL: Fields = {
    **_NUMBERS, **{f"uncorrected_{name}": kind for name, kind in _NUMBERS.items()},
    "bins": _COUNT, "alone": _NODE, "open_world": _NODE, "calibration": _NODE,
    "features": _NODE,
    "per_class_accuracy": (_is_per_class, "an accuracy for each class"),
    "total": _COUNT, "correct": _COUNT, **_EFFECT,
    "identity": _NODE, "nerp": _NODE, "substitute": _LINE,
    "also_seen": _LINE, "contradiction": _LINE, "backbone": _NAME,
}
# As in `nerp.correction.looked_at`, which needs torch.
_LOOKED_AT = ("nothing", "training images", "training labels", "test images already seen",
              "test images", "unknown", "test labels")
_KNOWN: Wanted = (lambda value: value in _LOOKED_AT, f"one of {', '.join(_LOOKED_AT)}")
_NERP = {"looked_at": _KNOWN}
_NERP_OPTIONAL = {
    "rule": _NODE, "on_base": _FLAG, "references": _TEXTS, "pairs": _LINE, "n_pairs": _COUNT,
    "thresholds": _LINE, "strength": _LINE, "calibration": _LINE, "findings": _NODE,
    "pairs_looked_at": _KNOWN,
    "stream": _NODE,
}
_FEATURES = {"read": _COUNT, "encoded": _COUNT}
_OPEN_WORLD = {"base_classes": _NAMES, "predicted_as": _LINE, "stands_for": _NAMES}
_CALIBRATION = {"name": _NAME, "looked_at": _KNOWN, "note": _LINE}
# Name, fields and optional fields of each node that a record may have.
_NODES: tuple[tuple[str, Fields, Fields], ...] = (
    ("nerp", _NERP, _NERP_OPTIONAL), ("open_world", _OPEN_WORLD, {}),
    ("calibration", _CALIBRATION, {}), ("features", _FEATURES, {}),
)


def read_record(path: str | Path) -> RunRecord:
    """A run's record. Optional fields may be missing; every other field has its type and range,
    including the node `nerp` if there is one.

    Raises NerpError, naming file and field.
    """
    content = read_json(path)
    where = f"{path}: not a run's record"
    check_fields(content, _FIELDS, _OPTIONAL, where)
    record = cast(RunRecord, content)  # its own fields are checked; its nodes are checked next
    for name, fields, optional in _NODES:
        if name in content:
            node = cast(Mapping[str, object], content[name])
            check_fields(node, fields, optional, f"{where}: {name}")
    for half, numbers in record.get("alone", {}).items():
        check_fields({half: numbers}, {half: _NODE}, {}, f"{where}: alone")
        check_fields(numbers, {}, _CONFIDENCE, f"{where}: alone: {half}")
    digest = record.get("identity", {}).get("config", "")
    if not is_text(digest) or not re.fullmatch("[0-9a-f]*", digest):
        raise NerpError(f"{where}: identity.config is no digest")
    return record


def number(record: RunRecord, name: str) -> float | None:
    """One of a record's numbers, by the name of a metric; None if it has no such number."""
    value = record.get(name)
    return float(value) if is_number(value) else None


def flips_of(record: RunRecord) -> dict[str, int]:
    """How many predictions a corrected test changed, and how many changes helped, hurt or were
    neutral."""
    return {"flips": record["flips"], "helped": record["helped"], "hurt": record["hurt"],
            "neutral": record["neutral"]}


def run_digest(identity: object) -> str:
    """16 hex digits of a run's identity; predictions.npz holds them too."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def check_owner(said: object, record: RunRecord, file: Path) -> None:
    """Raise NerpError if predictions do not belong to a record's run. said: the identity that the
    predictions state."""
    if str(said) != run_digest(record.get("identity")):
        raise NerpError(f"{file}: it is of another run than {RESULT_FILE} beside it; nerp test "
                        "--overwrite --save-logits makes both anew")


def read_measured(path: str | Path, fields: Iterable[str]) -> RunRecord:
    """`read_record` of a test, which must also have the fields of a test."""
    content = read_record(path)
    wanted = {name: _OPTIONAL[name] for name in fields}
    check_fields(content, wanted, {}, f"{path}: not the record of a test")
    return content
