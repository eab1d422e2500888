"""A figure of trainings: loss, accuracy and learning rate, from metrics.csv."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nerp.base.errors import NerpError
from nerp.engine.history import METRICS_FILE, Row, read_history
from nerp.results.plots import SETTINGS, style_of


def training_curves(folders: Iterable[Path]) -> Figure:
    """Loss and, if a method reports it, accuracy over epochs, with the learning rate below; one
    colour per run. Thick lines are means per epoch, thin lines the rows of metrics.csv.

    Raises NerpError if a folder's metrics.csv cannot be read or has no row yet.
    """
    with matplotlib.rc_context(SETTINGS):
        histories = {folder: _rows(folder) for folder in folders}
        told = any(row.accuracy is not None for rows in histories.values() for row in rows)
        drawn = {"loss": "loss"} | ({"accuracy": "accuracy (%)"} if told else {})
        figure = Figure(figsize=(5.2, 2.6 + 1.6 * len(drawn)), layout="constrained")
        *upper, rates = figure.subplots(
            len(drawn) + 1, sharex=True, height_ratios=(*[3] * len(drawn), 1.5)
        )
        for i, (folder, rows) in enumerate(histories.items()):
            colour, marker = style_of(i)
            passed = [row.step * rows[-1].epoch / rows[-1].step for row in rows]  # in epochs
            for axes, name in zip(upper, drawn, strict=True):
                values = [getattr(row, name) for row in rows]
                if None in values:
                    continue
                axes.plot(passed, values, color=colour, linewidth=0.6, alpha=0.5)
                means = _epoch_means(rows, values)
                axes.plot(list(means), list(means.values()), color=colour, marker=marker,
                          markersize=3, markevery=max(1, len(means) // 20),
                          label=str(folder) if name == "loss" else None)
            rates.step([0.0, *passed], [rows[0].rate, *(row.rate for row in rows)], color=colour)
        for axes, label in zip(upper, drawn.values(), strict=True):
            axes.set_ylabel(label)
        rates.set_ylabel("learning rate")
        rates.set_xlabel("epoch (thick: means of an epoch)")
        rates.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.align_ylabels()
        figure.legend(loc="outside upper center")
    return figure


def _rows(folder: Path) -> list[Row]:
    rows = read_history(folder / METRICS_FILE)
    if not rows:
        raise NerpError(f"{folder / METRICS_FILE}: the training has no row yet")
    return rows


def _epoch_means(rows: list[Row], values: list[float]) -> dict[int, float]:
    """Epoch -> mean of the values of its rows, weighted by their numbers of steps."""
    weighted: dict[int, list[tuple[int, float]]] = defaultdict(list)
    before = 0
    for row, value in zip(rows, values, strict=True):
        weighted[row.epoch].append((row.step - before, value))
        before = row.step
    return {epoch: fmean([value for _, value in of], [steps for steps, _ in of])
            for epoch, of in weighted.items()}
