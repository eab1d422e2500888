"""Figures: few-shot curves, base against novel accuracy, and what NeRP gains.

Readable in print and by colour-blind readers: the colours are Okabe and Ito's, and whatever a
colour says a marker says too. NeRP is drawn like its plain method, hollow and dashed.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean, pstdev

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nerp.experiments.catalogue import methods
from nerp.paths import replacing
from nerp.protocols import NERP_SUFFIX, plain_name
from nerp.results.grid import BASE, INCOMPLETE, NOVEL, Part, meanings
from nerp.results.published import AVERAGE

STYLES = (  # colour, marker
    ("#000000", "X"), ("#E69F00", "s"), ("#56B4E9", "^"), ("#009E73", "D"), ("#D55E00", "v"),
    ("#0072B2", "o"), ("#CC79A7", "P"), ("#F0E442", "*"),
)
_PANEL = (2.6, 2.2)  # inches
_PANELS_A_ROW = 4
_LEGEND_ENTRY = 1.5  # inches
SETTINGS = {
    "font.size": 8, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "lines.linewidth": 1.2, "lines.markersize": 5, "errorbar.capsize": 1.5, "legend.frameon": False,
    "svg.fonttype": "none", "svg.hashsalt": "nerp", "savefig.dpi": 200,
}


def save_figure(figure: Figure, directory: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG; the same figure gives the same bytes. Returns the files."""
    paths = [directory / f"{name}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        undated = {"Date": None} if path.suffix == ".svg" else None
        with matplotlib.rc_context(SETTINGS), replacing(path) as partial:
            figure.savefig(partial, format=path.suffix[1:], metadata=undated)
    return paths


def figures(parts: Iterable[Part]) -> dict[str, Figure]:
    """File stem -> figure, for everything that `parts` has the runs for."""
    drawn: dict[str, Figure | None] = {}
    with matplotlib.rc_context(SETTINGS):
        for part in parts:
            world = "_drawn" if part.drawn else ""
            if part.name == "few_shot":
                drawn[f"few_shot_curves{world}"] = few_shot_curves(part)
                continue
            stem = f"{part.name}_{part.shots}_shots{world}"
            if part.name == "base_to_novel":
                drawn[f"{stem}_scatter"] = base_novel_scatter(part)
            drawn[f"{stem}_nerp_gain"] = nerp_gain(part)
    return {stem: figure for stem, figure in drawn.items() if figure}


def few_shot_curves(part: Part) -> Figure:
    """Accuracy over shots, a panel a dataset and one for their average; bars: std over seeds."""
    figure, panels = _panels(part)
    shots = {name: int(name.removesuffix("-shot")) for name in part.grid.parts}
    for axes, group in panels:
        for label in part.grid.rows:
            series = {shots[name]: list(_series(part, label, group, name).values())
                      for name in part.grid.parts}
            series = {k: values for k, values in series.items() if values}
            axes.errorbar(
                list(series), [fmean(v) for v in series.values()],
                [pstdev(v) for v in series.values()], elinewidth=0.8, label=label, **_style(label),
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(shots.values()), [str(k) for k in shots.values()])
        axes.minorticks_off()
    _finish(figure, part, part.grid.rows, "training images a class (shots)", "accuracy (%)")
    return figure


def base_novel_scatter(part: Part) -> Figure:
    """Base against novel accuracy, a panel a dataset and one for their average; bars: std over
    seeds; a line joins a method and the same with NeRP; grey lines: equal harmonic mean."""
    figure, panels = _panels(part)
    for axes, group in panels:
        points = {}
        for label in part.grid.rows:
            base, novel = (list(_series(part, label, group, p).values()) for p in (BASE, NOVEL))
            if base and novel:
                points[label] = x, y = fmean(base), fmean(novel)
                style = {**_style(label), "linestyle": "none"}
                axes.errorbar(x, y, pstdev(novel), pstdev(base), elinewidth=0.6, label=label,
                              **style)
        for label, point in points.items():
            if label + NERP_SUFFIX in points:
                colour = _style(label)["color"]
                axes.plot(*zip(point, points[label + NERP_SUFFIX], strict=True), color=colour,
                          linewidth=0.8)
        if points:
            _lines_of_equal_h(axes)
    _finish(figure, part, part.grid.rows, "accuracy on base classes (%)",
            "accuracy on novel classes (%)")
    return figure


def nerp_gain(part: Part) -> Figure | None:
    """Accuracy with NeRP minus without, of the same seed and checkpoint, a line a dataset; bars:
    std over seeds. On novel classes in base-to-novel, on the targets elsewhere. None where no
    method was run both ways."""
    grid = part.grid
    name = NOVEL if NOVEL in grid.parts else grid.parts[0]
    pairs = [row for row in grid.rows if row + NERP_SUFFIX in grid.rows]
    gains = {row: {d: _gain(part, row, d, name) for d in part.averaged} for row in pairs}
    gains = {row: {d: g for d, g in by_set.items() if g} for row, by_set in gains.items()}
    if not any(gains.values()):
        return None
    datasets = [d for d in part.averaged if any(d in by_set for by_set in gains.values())]
    figure = Figure(figsize=(5.2, 1.2 + 0.42 * len(datasets)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color="black", linewidth=0.8)
    offsets = np.linspace(-0.3, 0.3, len(pairs)) if len(pairs) > 1 else [0.0]
    for row, offset in zip(pairs, offsets, strict=True):
        there = gains[row]
        axes.errorbar(
            [fmean(there[d]) for d in there], [datasets.index(d) + offset for d in there],
            xerr=[pstdev(there[d]) for d in there], elinewidth=0.8, label=row + NERP_SUFFIX,
            **{**_style(row), "linestyle": "none"},
        )
    axes.set_yticks(range(len(datasets)), datasets)
    axes.set_ylim(len(datasets) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    for line in range(1, len(datasets)):
        axes.axhline(line - 0.5, color="#e4e4e4", linewidth=0.6)
    where = "novel classes" if name == NOVEL else "the target datasets"
    _finish(figure, part, [row + NERP_SUFFIX for row in pairs],
            f"what NeRP adds to the accuracy on {where} (points)", "", paired=True)
    return figure


def _gain(part: Part, row: str, dataset: str, name: str) -> list[float]:
    """NeRP's gain for each seed that was run both ways."""
    plain = part.grid.series(row, dataset, name)
    corrected = part.grid.series(row + NERP_SUFFIX, dataset, name)
    return [corrected[seed] - plain[seed] for seed in plain if seed in corrected]


def _series(part: Part, label: str, group: str, name: str) -> dict[int, float]:
    if group == AVERAGE:
        return part.grid.average(label, part.averaged, name)
    return part.grid.series(label, group, name)


def _panels(part: Part) -> tuple[Figure, list[tuple[Axes, str]]]:
    """A figure with a panel for the average, where there is more than one dataset, and each."""
    groups = [AVERAGE, *part.averaged] if len(part.averaged) > 1 else part.averaged
    columns = min(_PANELS_A_ROW, len(groups))
    lines = math.ceil(len(groups) / columns)
    size = (max(4.0, _PANEL[0] * columns), 0.6 + _PANEL[1] * lines)
    figure = Figure(figsize=size, layout="constrained")
    panels = []
    for place, group in enumerate(groups):
        axes = figure.add_subplot(lines, columns, place + 1)
        title = f"Average of {len(part.averaged)} datasets" if group == AVERAGE else group
        axes.set_title(title, fontweight="bold" if group == AVERAGE else "normal")
        panels.append((axes, group))
    return figure, panels


def _style(label: str) -> dict:
    plain = plain_name(label.split(" ")[0])
    known = methods()
    colour, marker = STYLES[(known.index(plain) if plain in known else len(known)) % len(STYLES)]
    hollow = NERP_SUFFIX in label
    return {"color": colour, "marker": marker, "linestyle": "--" if hollow else "-",
            "markerfacecolor": "white" if hollow else colour}


def _lines_of_equal_h(axes: Axes) -> None:
    """Grey curves n = hb / (2b - h) in the visible range, with h written where they leave it."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x = np.linspace(left, right, 200)
    for h in _round_values(2 * left * bottom / (left + bottom), 2 * right * top / (right + top)):
        with np.errstate(divide="ignore", invalid="ignore"):
            y = np.where(2 * x > h, h * x / (2 * x - h), np.nan)
        axes.plot(x, y, color="#bbbbbb", linewidth=0.6, zorder=0)
        inside = np.flatnonzero((y >= bottom) & (y <= top))
        if len(inside):
            axes.annotate(f"H {h:g}", (x[inside[-1]], y[inside[-1]]), fontsize=6, color="#777777",
                          ha="right", va="center", zorder=0,
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def _round_values(low: float, high: float) -> Iterator[float]:
    """About four round numbers between two."""
    step = next((s for s in (0.5, 1, 2, 5, 10, 20) if (high - low) / s <= 5), 25)
    value = max(step, math.ceil(low / step) * step)
    while value < high:
        yield value
        value += step


def _finish(
    figure: Figure, part: Part, rows: Iterable[str], x: str, y: str, paired: bool = False
) -> None:
    """Axis titles, one legend in the order of `rows`, and what its marks mean.

    Args:
        paired: whether what is drawn of a NeRP row needs the runs of the plain one too.
    """
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    grid, names = part.grid, {}
    for row in rows:
        if row in handles:
            plain = [row.removesuffix(NERP_SUFFIX)] if paired else []
            lacking = INCOMPLETE if grid.missing([row, *plain]) else ""
            names[row] = row + grid.marks(row, part.averaged, grid.parts) + lacking
    fitting = int(figure.get_figwidth() / _LEGEND_ENTRY)
    figure.legend([handles[row] for row in names], names.values(), loc="outside upper center",
                  ncols=min(fitting, len(names)))
    shown = "".join(names.values())
    notes = meanings(shown)
    if INCOMPLETE in shown:
        notes.append(f"{INCOMPLETE} runs are missing: nerp table lists them.")
    figure.supxlabel("\n".join([x, *notes]), fontsize=8)
    figure.supylabel(y, fontsize=8)
