"""The results of a sweep over NeRP's settings: a table, a CSV file, a heat map."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from nerp.correction.sweep import Grid, Outcome
from nerp.results.output import Written, write

_MEASURED = ("accuracy", "flips", "helped", "hurt")


def outcome_table(outcomes: Sequence[Outcome], grid: Grid, most: int) -> str:
    """The `most` best settings; of equally good ones, those with fewer flips come first."""
    best = sorted(outcomes, key=lambda o: (-o.accuracy, o.flips))[:most]
    rows = [[*o.settings, f"{o.accuracy:.2f}", o.flips, o.helped, o.hurt] for o in best]
    headers = [*grid, "accuracy %", *_MEASURED[1:]]
    return str(tabulate(rows, headers=headers, disable_numparse=True))


def write_outcomes(file: Path, outcomes: Sequence[Outcome], grid: Grid) -> Written:
    """Every setting as a line of CSV, in the order of the sweep."""
    content = io.StringIO()
    writer = csv.writer(content)
    writer.writerow([*grid, *_MEASURED])
    for o in outcomes:
        writer.writerow([*o.settings, *(getattr(o, name) for name in _MEASURED)])
    return write(file, content.getvalue())


def draw_heat_map(
    file: Path, outcomes: Sequence[Outcome], grid: Grid, plain: float
) -> Written:
    """Gain in points over the uncorrected accuracy `plain`, for the two settings that vary."""
    import numpy as np
    from matplotlib.figure import Figure

    y_key, x_key = sorted((k for k in grid if len(grid[k]) > 1), key=lambda k: k != "TAU")
    gains = np.zeros((len(grid[y_key]), len(grid[x_key])))
    for o in outcomes:
        chosen = dict(zip(grid, o.settings, strict=True))
        y, x = (grid[k].index(chosen[k]) for k in (y_key, x_key))
        gains[y, x] = o.accuracy - plain
    limit = max(np.abs(gains).max(), 0.01)
    figure = Figure(figsize=(1.8 + 0.62 * gains.shape[1], 1.6 + 0.42 * gains.shape[0]),
                    layout="constrained")
    axes = figure.subplots()
    # Blue to orange through white: distinct for colour-blind readers, and in grey.
    image = axes.imshow(gains, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(gains.shape[1]), grid[x_key])
    axes.set_yticks(range(gains.shape[0]), grid[y_key])
    axes.set(xlabel=x_key, ylabel=y_key, title=f"gain over {plain:.2f} %  (test labels)")
    if gains.size <= 400:
        for (y, x), gain in np.ndenumerate(gains):
            dark = abs(gain) > 0.65 * limit
            axes.text(x, y, f"{gain:+.2f}", ha="center", va="center", fontsize=7,
                      color="white" if dark else "black")
    figure.colorbar(image, ax=axes, label="points")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return write(file, content.getvalue())
