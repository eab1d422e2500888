"""Reliability diagrams: the accuracy of predictions against their confidence."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nerp.engine.confidence import BINS, Bins, judge
from nerp.files.arrays import FLOATS, WHOLE, Kind, read_arrays
from nerp.results.plots import SETTINGS

_ARRAYS = {"logits": Kind(FLOATS, 2), "labels": Kind(WHOLE, 1)}
# In the order in which a test makes them. The test predicts with the last one that exists.
_STAGES = {"logits": "Uncorrected", "corrected_logits": "Corrected",
           "calibrated_logits": "Calibrated"}
_PANEL = (2.5, 2.9)  # inches
_BLUE, _ORANGE = "#0072B2", "#E69F00"


@dataclass(frozen=True)
class Panel:
    """One diagram."""

    title: str
    bins: Bins


def panels(file: Path) -> list[Panel]:
    """The diagrams of a test's predictions.npz: its logits uncorrected, corrected and calibrated,
    as far as it has them; for an open-world test also each half with only its own classes.

    Raises NerpError for another kind of file.
    """
    stages = {name: Kind(FLOATS, 2) for name in _STAGES if name not in _ARRAYS}
    arrays = read_arrays(file, _ARRAYS, {**stages, "base": Kind(WHOLE, 1)})
    labels = arrays["labels"]
    there = [name for name in _STAGES if name in arrays]
    plain = ["All classes"] if len(there) == 1 else [_STAGES[name] for name in there]
    found = [_panel(title, arrays[name], labels)
             for title, name in zip(plain, there, strict=True)]
    if "base" in arrays:
        base = arrays["base"].astype(bool)
        for half, classes in (("Base alone", base), ("Novel alone", ~base)):
            columns, shown = np.flatnonzero(classes), classes[labels]
            found.append(_panel(half, arrays[there[-1]][shown][:, columns],
                                np.searchsorted(columns, labels[shown])))
    return found


def _panel(title: str, logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Panel:
    return Panel(title, judge(logits, labels).equal_width(BINS))


def reliability_diagram(file: Path) -> Figure:
    """One diagram per panel, with one bar per bin of confidence. The bar's height is the accuracy
    of the bin's predictions; the shaded gap reaches to their mean confidence. The number of images
    per bin is below."""
    drawn = panels(file)
    with matplotlib.rc_context(SETTINGS):
        width, height = _PANEL
        figure = Figure(figsize=(width * len(drawn), height + 0.3), layout="constrained")
        grid = figure.subplots(2, len(drawn), sharex=True, squeeze=False,
                               gridspec_kw={"height_ratios": [4, 1]})
        for panel, (above, below) in zip(drawn, grid.T, strict=True):
            _draw(panel, above, below)
        grid[0, 0].set_ylabel("share that is right")
        grid[1, 0].set_ylabel("images")
        grid[0, 0].legend(loc="upper left")
        figure.supxlabel(f"confidence, the largest probability ({BINS} bins)", fontsize=8)
    return figure


def _draw(panel: Panel, above: Axes, below: Axes) -> None:
    bins = panel.bins
    full = bins.images > 0
    left, size = bins.edges[:-1][full], np.diff(bins.edges)[full]
    right, sure = bins.accuracy[full], bins.confidence[full]
    above.bar(left, right, size, align="edge", color=_BLUE, edgecolor="white", label="right")
    above.bar(left, sure - right, size, bottom=right, align="edge", color=_ORANGE, alpha=0.45,
              edgecolor=_ORANGE, hatch="///", label="gap to confidence")
    above.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    above.set_xlim(0, 1)
    above.set_ylim(0, 1)
    above.set_title(f"{panel.title}: ECE {100 * bins.error:.1f} %")
    below.bar(left, bins.images[full], size, align="edge", color="#7F7F7F", edgecolor="white")
