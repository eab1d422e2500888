"""A figure of trainings: their loss and learning rate, from metrics.csv."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nerp.engine.history import METRICS_FILE, Row, read_history
from nerp.errors import NerpError
from nerp.results.plots import SETTINGS, style_of


def training_curves(folders: Iterable[Path]) -> Figure:
    """Loss over epochs, the mean of each as a thick line and what metrics.csv has as a thin one,
    and below it the learning rate; a colour a run.

    Raises NerpError where a folder's metrics.csv cannot be read, or has no row yet.
    """
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(5.2, 4.2), layout="constrained")
        losses, rates = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        for i, folder in enumerate(folders):
            rows = read_history(folder / METRICS_FILE)
            if not rows:
                raise NerpError(f"{folder / METRICS_FILE}: the training has no row yet")
            colour, marker = style_of(i)
            passed = [row.step * rows[-1].epoch / rows[-1].step for row in rows]  # in epochs
            losses.plot(passed, [row.loss for row in rows], color=colour, linewidth=0.6, alpha=0.5)
            means = _epoch_means(rows)
            losses.plot(list(means), list(means.values()), color=colour, marker=marker,
                        markersize=3, markevery=max(1, len(means) // 20), label=str(folder))
            rates.step([0.0, *passed], [rows[0].rate, *(row.rate for row in rows)], color=colour)
        losses.set_ylabel("loss")
        rates.set_ylabel("learning rate")
        rates.set_xlabel("epoch (thick: means of an epoch)")
        rates.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside upper center")
    return figure


def _epoch_means(rows: list[Row]) -> dict[int, float]:
    """Epoch -> mean loss of its steps."""
    weighted: dict[int, list[tuple[int, float]]] = defaultdict(list)
    before = 0
    for row in rows:
        weighted[row.epoch].append((row.step - before, row.loss))
        before = row.step
    return {epoch: fmean([loss for _, loss in of], [steps for steps, _ in of])
            for epoch, of in weighted.items()}
