"""The effect of each rule on one run, as a table, a file and a figure."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import matplotlib
import numpy.typing as npt
from matplotlib.figure import Figure

from nerp.correction.comparison import Compared
from nerp.correction.looked_at import MARKS, with_caveat
from nerp.engine.metrics import asymmetry, confusion_matrix
from nerp.engine.saved import SavedRun
from nerp.files.json_file import (
    Fields,
    check_fields,
    is_node,
    is_number,
    is_percent,
    is_text,
    read_json,
)
from nerp.results.output import Written, write
from nerp.results.plots import SETTINGS
from nerp.settings.protocols import COMPARISON_FILE

HEADERS = ["rule", "accuracy %", "gain", "changed", "helped / hurt", "by chance", "asymmetry",
           "looked at"]
LEAST_WIDTH = 16
_BLUE, _ORANGE = "#0072B2", "#D55E00"


class _Gain(TypedDict):
    rule: str
    looked_at: str
    gain: float


class _Comparison(TypedDict):
    trainer: str
    dataset: str
    accuracy: float
    rules: list[dict[str, object]]


_OF_FILE: Fields = {
    "trainer": (is_text, "a name"), "dataset": (is_text, "a name"),
    "accuracy": (is_percent, "a number from 0 to 100"),
    "rules": (lambda value: isinstance(value, list) and all(map(is_node, value)),
              "a list of objects"),
}
_OF_RULE: Fields = {
    "rule": (is_text, "a name"), "looked_at": (is_text, "a text"), "gain": (is_number, "a number"),
}


def measured(run: SavedRun, compared: Sequence[Compared]) -> dict[str, Any]:
    """The whole content of the file."""
    labels, logits = run.arrays["labels"], run.arrays["logits"]
    classes = logits.shape[1]

    def one_sided(predictions: npt.NDArray[Any]) -> float | None:
        return asymmetry(confusion_matrix(labels, predictions, classes)).total

    before = logits.argmax(1)
    rules = []
    for done in compared:
        row: dict[str, Any] = {"rule": done.name, "looked_at": done.looked_at}
        if done.predictions is None:
            row["missing"] = done.missing
        else:
            row |= {"accuracy": done.accuracy, "gain": done.gain, "changed": done.changed,
                    "helped": done.helped, "hurt": done.hurt, "sign_test": done.chance,
                    "asymmetry": one_sided(done.predictions.numpy()), "remark": done.remark}
        rules.append(row)
    return {
        "trainer": run.result["trainer"], "dataset": run.result["dataset"],
        "images": len(labels), "classes": classes,
        "accuracy": 100 * float((before == labels).mean()),
        "asymmetry": _number(one_sided(before)), "rules": rules,
    }


def write_comparison(directory: Path, content: Mapping[str, Any]) -> Written:
    """Write the file into a run's folder."""
    return write(directory / COMPARISON_FILE, json.dumps(content, indent=1) + "\n")


def rows(content: Mapping[str, Any]) -> list[list[str]]:
    """The table's rows, in the order of the file. The row of a rule that lacks an input names
    it."""
    drawn = []
    for row in content["rules"]:
        if "missing" in row:
            drawn.append([row["rule"], *[""] * (len(HEADERS) - 2), row["missing"]])
            continue
        mark = MARKS.get(row["looked_at"], "")
        drawn.append([
            row["rule"], f"{row['accuracy']:.2f}{mark}", f"{row['gain']:+.2f}{mark}",
            str(row["changed"]), f"{row['helped']} / {row['hurt']}", f"{row['sign_test']:.2g}",
            _number(row["asymmetry"]), with_caveat(row["looked_at"]),
        ])
    return drawn


def notes(content: Mapping[str, Any]) -> list[str]:
    """The remarks of the rules, without repetitions, including warnings of unequal frequencies."""
    remarks = [row.get("remark") for row in content["rules"]]
    return list(dict.fromkeys(f"{line[0].upper()}{line[1:]}." for line in remarks if line))


def comparison_figure(directory: Path) -> Figure:
    """One bar per rule with its gain; bars of rules without test images are filled. Raises
    NerpError for a file that cannot be read."""
    content, done = _read(directory / COMPARISON_FILE)
    done.sort(key=lambda row: row["gain"])
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(5.2, 0.9 + 0.24 * len(done)), layout="constrained")
        axes = figure.subplots()
        for place, row in enumerate(done):
            mark = MARKS.get(row["looked_at"], "")
            colour = _BLUE if row["gain"] >= 0 else _ORANGE
            axes.barh(place, row["gain"], 0.7, edgecolor=colour, color="white" if mark else colour)
            axes.annotate(f" {row['gain']:+.2f}{mark} ", (row["gain"], place), fontsize=7,
                          va="center", ha="left" if row["gain"] >= 0 else "right")
        axes.set_yticks(range(len(done)), [row["rule"] for row in done])
        axes.axvline(0, color="black", linewidth=0.8)
        axes.margins(x=0.2)
        axes.grid(axis="y", visible=False)
        axes.set_title(f"{content['trainer']} on {content['dataset']}: {content['accuracy']:.1f} % "
                       "without a correction")
        axes.set_xlabel("points gained; hollow: looked at test images, all († ), already seen (s), "
                        "or unknown (§)")
    return figure


def _read(file: Path) -> tuple[_Comparison, list[_Gain]]:
    """The content of the file, and the gains of the rules that were carried out."""
    read, where = read_json(file), f"{file}: not what nerp correct writes"
    check_fields(read, _OF_FILE, {}, where)
    content = cast(_Comparison, read)  # its fields have been checked
    carried_out = [row for row in content["rules"] if "gain" in row]
    for row in carried_out:
        check_fields(row, _OF_RULE, {}, where)
    return content, cast(list[_Gain], carried_out)  # and the fields of these


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
