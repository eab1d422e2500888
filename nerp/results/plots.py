"""Figures: few-shot curves, base against novel accuracy, closed against open, what NeRP gains.

They are readable in print and by colour-blind readers: the colours are Okabe and Ito's, and markers
repeat whatever colours say. NeRP is drawn like its plain method, but hollow and dashed.
"""

import io
import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, TypedDict

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from nerp.results.grid import (
    BASE,
    BORROWED,
    INCOMPLETE,
    NOVEL,
    Part,
    cautions,
    meanings,
    trainer_of,
    with_nerp,
    without_nerp,
)
from nerp.results.output import Written, write
from nerp.results.published import AVERAGE
from nerp.results.readings import BASE_ALONE, NOVEL_ALONE, OPEN_BASE, OPEN_H, OPEN_NOVEL
from nerp.settings.backbones import DEFAULT_BACKBONE, folder_of
from nerp.settings.catalogue import methods
from nerp.settings.protocols import bare_name

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

Marker = str | tuple[int, int, int]
STYLES: tuple[tuple[str, Marker], ...] = (
    ("#000000", "X"), ("#E69F00", "s"), ("#56B4E9", "^"), ("#009E73", "D"), ("#D55E00", "v"),
    ("#0072B2", "o"), ("#CC79A7", "P"), ("#F0E442", "*"), ("#7F7F7F", "<"), ("#8C564B", ">"),
    ("#332288", "p"), ("#AA4499", "h"), ("#117733", "d"), ("#882255", "8"), ("#88CCEE", "H"),
    ("#999933", (4, 1, 0)), ("#661100", (6, 1, 0)), ("#6699CC", (3, 1, 0)), ("#DDCC77", (8, 1, 0)),
    ("#44AA99", (3, 0, 30)), ("#CC6677", (4, 1, 45)), ("#AA4466", (3, 1, 60)),
    ("#4477AA", (7, 0, 0)), ("#BBBBBB", (9, 1, 0)), ("#EE8866", (6, 1, 30)),
    ("#225522", (5, 1, 0)), ("#663333", (7, 1, 0)), ("#CCBB44", (12, 1, 0)),
    ("#66CCEE", (5, 0, 0)), ("#AA3377", (8, 0, 22)), ("#228833", (3, 0, -30)),
    ("#994455", (4, 0, 20)), ("#004488", (5, 1, 36)), ("#997700", (7, 1, 25)),
    ("#EEDD88", (3, 1, 30)), ("#777711", (10, 1, 18)), ("#AAAA00", (5, 0, 36)),
)
_PANEL = (2.6, 2.2)  # inches
_ONLY_PANEL = (4.0, 3.2)
_PANELS_A_ROW = 4
_LEGEND_ENTRY = (1.5, 0.17)  # inches
_MOST_TICKS = 5  # per axis of a panel, so that labels with a decimal do not touch
_ROOM = (0.08, 0.07)  # size of a label, across and up, as shares of its panel
_NOTE = (0.058, 0.13)  # inches: width of a note's character, height of its line
SETTINGS: "dict[RcKeyType, object]" = {
    "font.size": 8, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "lines.linewidth": 1.2, "lines.markersize": 5, "errorbar.capsize": 1.5, "legend.frameon": False,
    "text.parse_math": False,  # a name may contain a $
    "svg.fonttype": "none", "svg.hashsalt": "nerp", "savefig.dpi": 200,
}


class Style(TypedDict):
    """The drawing style of a row, in matplotlib's words."""

    color: str
    marker: Marker
    linestyle: str
    markerfacecolor: str


def save_figure(figure: Figure, directory: Path, name: str) -> list[Written]:
    """Write a figure as PNG and SVG, and return the files. Equal figures give equal bytes."""
    files = []
    for kind in ("png", "svg"):
        content = io.BytesIO()
        with matplotlib.rc_context(SETTINGS):
            figure.savefig(content, format=kind, metadata={"Date": None} if kind == "svg" else None)
        files.append(write(directory / f"{name}.{kind}", content.getvalue()))
    return files


def figures(parts: Iterable[Part]) -> dict[str, Figure]:
    """File stem -> figure, for all figures that `parts` has the runs for."""
    drawn: dict[str, Figure | None] = {}
    with matplotlib.rc_context(SETTINGS):
        for part in parts:
            world = "_drawn" if part.drawn else ""
            level = folder_of(part.backbone) if part.beside else ""
            world += f"_{level}" if level else ""
            if part.name == "few_shot":
                drawn[f"few_shot_curves{world}"] = few_shot_curves(part)
                continue
            stem = f"{part.name}_{part.shots}_shots{world}"
            if part.name == "base_to_novel":
                drawn[f"{stem}_scatter"] = base_novel_scatter(part)
            if part.name == "open_world":
                drawn[f"{stem}_arrows"] = open_world_arrows(part)
            drawn[f"{stem}_nerp_gain"] = nerp_gain(part)
    return {stem: figure for stem, figure in drawn.items() if figure}


def few_shot_curves(part: Part) -> Figure:
    """Accuracy over shots, one panel per dataset and one for their average."""
    figure, panels = _panels(part)
    shots = {name: int(name.removesuffix("-shot")) for name in part.grid.parts}
    for axes, group in panels:
        for label in part.grid.rows:
            series = {shots[name]: list(_series(part, label, group, name).values())
                      for name in part.grid.parts}
            series = {k: values for k, values in series.items() if values}
            axes.errorbar(
                list(series), [fmean(v) for v in series.values()], _spread(part, series.values()),
                elinewidth=0.8, label=label, **_style(label),
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(shots.values()), [str(k) for k in shots.values()])
        axes.minorticks_off()
    _finish(figure, part, part.grid.rows, "training images per class (shots)", "accuracy (%)")
    return figure


def base_novel_scatter(part: Part) -> Figure | None:
    """Base against novel accuracy, one panel per dataset and one for their average. Both axes have
    the same scale. A line joins a method and the same method with NeRP; grey lines show equal
    harmonic means. None if no method was run on both kinds of classes."""
    figure, panels = _panels(part)
    for axes, group in panels:
        points = {}
        for label in part.grid.rows:
            base, novel = (list(_series(part, label, group, p).values()) for p in (BASE, NOVEL))
            if base and novel:
                points[label] = x, y = fmean(base), fmean(novel)
                style: Style = {**_style(label), "linestyle": "none"}
                axes.errorbar(x, y, _spread(part, [novel]), _spread(part, [base]), elinewidth=0.6,
                              label=label, **style)
        for label, point in points.items():
            if (corrected := with_nerp(label)) in points:
                axes.plot(*zip(point, points[corrected], strict=True), linewidth=0.8,
                          color=_style(label)["color"])
        if points:
            _equal_scales(axes)
            _lines_of_equal_h(axes, list(points.values()))
    if not any(axes.containers for axes in figure.axes):
        return None
    _finish(figure, part, part.grid.rows, "accuracy on base classes (%)",
            "accuracy on novel classes (%)", [BORROWED] if part.grid.borrows else [])
    return figure


def open_world_arrows(part: Part) -> Figure | None:
    """Base against novel accuracy, one arrow per method. It starts at the accuracies of each half
    alone and ends at those with all classes as answers. Grey lines show equal harmonic means,
    closed for the start and open for the end. None if no method has both."""
    figure, panels = _panels(part)
    for axes, group in panels:
        ends_of: list[tuple[float, float]] = []
        for label in part.grid.rows:
            closed, opened = (
                [list(_series(part, label, group, name).values()) for name in names]
                for names in ((BASE_ALONE, NOVEL_ALONE), (OPEN_BASE, OPEN_NOVEL))
            )
            if not all((*closed, *opened)):
                continue
            start, end = ((fmean(base), fmean(novel)) for base, novel in (closed, opened))
            ends_of += [start, end]
            style: Style = {**_style(label), "linestyle": "none"}
            axes.plot(*start, **style, label=label)
            axes.plot(*end, alpha=0)  # so that the limits have room for it
            axes.annotate("", end, start, arrowprops={
                "arrowstyle": "-|>", "color": style["color"], "linewidth": 1.1, "shrinkB": 0,
                "linestyle": _style(label)["linestyle"]})
        if axes.lines:
            _equal_scales(axes)
            _lines_of_equal_h(axes, ends_of)
    if not any(axes.texts for axes in figure.axes):
        return None
    _finish(figure, part, part.grid.rows, "accuracy on base classes (%)",
            "accuracy on novel classes (%)",
            ["An arrow begins at the halves each alone and ends where all classes are answers."])
    return figure


def nerp_gain(part: Part) -> Figure | None:
    """Accuracy with NeRP minus accuracy without, for the same seed and checkpoint; one line per
    dataset and one for their average. It is on novel classes in base-to-novel and on the targets
    elsewhere; in the open world it is the difference in H. None if no method was run both ways."""
    grid = part.grid
    name = NOVEL if NOVEL in grid.parts else grid.parts[0]
    if part.name == "open_world":
        name = OPEN_H
    pairs = [row for row in grid.rows if with_nerp(row) in grid.rows]
    gains = {row: {g: _gain(part, row, g, name) for g in _groups(part)} for row in pairs}
    gains = {row: {g: values for g, values in there.items() if values}
             for row, there in gains.items()}
    groups = [g for g in _groups(part) if any(g in there for there in gains.values())]
    if not groups:
        return None
    figure = Figure(figsize=(5.2, 1.2 + 0.42 * len(groups)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color="black", linewidth=0.8)
    offsets = np.linspace(-0.3, 0.3, len(pairs)) if len(pairs) > 1 else [0.0]
    for row, offset in zip(pairs, offsets, strict=True):
        there = gains[row]
        style: Style = {**_style(row), "linestyle": "none"}
        axes.errorbar(
            [fmean(values) for values in there.values()], [groups.index(g) + offset for g in there],
            xerr=_spread(part, there.values()), elinewidth=0.8, label=with_nerp(row), **style,
        )
    axes.set_yticks(range(len(groups)), groups)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    for line in range(1, len(groups)):
        axes.axhline(line - 0.5, color="#e4e4e4", linewidth=0.6)
    if groups[0] == AVERAGE:
        axes.get_yticklabels()[0].set_fontweight("bold")
    where = "novel classes" if name == NOVEL else "the target datasets"
    what = "H in the open world" if name == OPEN_H else f"the accuracy on {where}"
    _finish(figure, part, list(map(with_nerp, pairs)),
            f"what NeRP adds to {what} (points)", "", difference_of=name)
    return figure


def _gain(part: Part, row: str, group: str, name: str) -> list[float]:
    """NeRP's gain for each seed that was run with and without it."""
    plain, corrected = (_series(part, r, group, name) for r in (row, with_nerp(row)))
    return [corrected[seed] - plain[seed] for seed in plain if seed in corrected]


def _series(part: Part, label: str, group: str, name: str) -> dict[int, float]:
    if group == AVERAGE:
        return part.grid.average(label, part.averaged, name)
    return part.grid.series(label, group, name)


def _groups(part: Part) -> list[str]:
    """The groups with a panel each: the average if there are several datasets, and each dataset."""
    return [AVERAGE, *part.averaged] if len(part.averaged) > 1 else part.averaged


def _spread(part: Part, points: Iterable[Sequence[float]]) -> list[float] | None:
    """The lengths of the points' error bars, the standard deviation over the seeds. Each point is
    given by its values for all seeds. None (no bars) for a single seed."""
    return [pstdev(values) for values in points] if len(part.grid.seeds) > 1 else None


def _panels(part: Part) -> tuple[Figure, list[tuple[Axes, str]]]:
    """A figure with one panel per group."""
    groups = _groups(part)
    columns = min(_PANELS_A_ROW, len(groups))
    lines = math.ceil(len(groups) / columns)
    width, height = _PANEL if columns > 1 else _ONLY_PANEL
    figure = Figure(figsize=(width * columns, 0.6 + height * lines), layout="constrained")
    panels = []
    for place, group in enumerate(groups):
        axes = figure.add_subplot(lines, columns, place + 1)
        title = f"Average of {len(part.averaged)} datasets" if group == AVERAGE else group
        axes.set_title(title, fontweight="bold" if group == AVERAGE else "normal")
        panels.append((axes, group))
    return figure, panels


def style_of(place: int) -> tuple[str, Marker]:
    """Colour and marker of the item at this place of a list. After the last style, colours are
    repeated with other markers."""
    count = len(STYLES)
    return STYLES[place % count][0], STYLES[(place + place // count) % count][1]


def _style(label: str) -> Style:
    plain = bare_name(trainer_of(label))
    known = methods()
    colour, marker = style_of(known.index(plain) if plain in known else len(known))
    hollow = without_nerp(label) != label
    return {"color": colour, "marker": marker, "linestyle": "--" if hollow else "-",
            "markerfacecolor": "white" if hollow else colour}


def _equal_scales(axes: Axes) -> None:
    """Give the panel equal scales and lengths on both axes, within 0 to 100 and a margin."""
    limits = axes.get_xlim(), axes.get_ylim()
    span = max(high - low for low, high in limits)
    margin = 0.04 * span
    starts = [min((low + high - span) / 2, 100 + margin - span) for low, high in limits]
    axes.set_xlim(starts[0], starts[0] + span)
    axes.set_ylim(starts[1], starts[1] + span)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(_round_step(span, _MOST_TICKS)))
    axes.set_box_aspect(1)


def _lines_of_equal_h(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Grey curves n = hb / (2b - h) in the visible range. Each has its h written near its lower
    end, where the markers at `points` leave room."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    # The text keeps a distance from the axes.
    wall, floor = left + 0.16 * (right - left), bottom + 0.04 * (top - bottom)
    x = np.linspace(left, right, 200)
    for h in _round_values(2 * left * bottom / (left + bottom), 2 * right * top / (right + top)):
        with np.errstate(divide="ignore", invalid="ignore"):
            y = np.where(2 * x > h, h * x / (2 * x - h), np.nan)
        axes.plot(x, y, color="#bbbbbb", linewidth=0.6, zorder=0)
        inside = np.flatnonzero((x >= wall) & (y >= floor) & (y <= top))
        free = [i for i in inside[::-1] if not any(
            -_ROOM[0] < (x[i] - at) / (right - left) < 2 * _ROOM[0]
            and abs(y[i] - up) / (top - bottom) < _ROOM[1] for at, up in points
        )]
        if free:
            axes.annotate(f"H {h:g}", (x[free[0]], y[free[0]]), fontsize=6, color="#777777",
                          ha="right", va="center", zorder=0,
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def _round_values(low: float, high: float) -> Iterator[float]:
    """About four round numbers between two."""
    step = _round_step(high - low, 5)
    value = max(step, math.ceil(low / step) * step)
    while value < high:
        yield value
        value += step


def _round_step(span: float, most: int) -> float:
    """A round number that fits at most `most` times into `span`."""
    return next((step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if span / step <= most), 25)


def _finish(
    figure: Figure, part: Part, rows: Iterable[str], x: str, y: str, notes: Iterable[str] = (),
    difference_of: str | None = None,
) -> None:
    """Add axis titles, one legend in the order of `rows`, and `notes`, including those on bars and
    marks.

    Args:
        difference_of: the part in which NeRP's difference from the plain method is drawn; then only
            the runs of both in that part are needed. None: no differences are drawn.
    """
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    grid, names, marks = part.grid, {}, ""
    for row in rows:
        if row in handles:
            needed, parts = [row], grid.parts
            if difference_of is not None:
                needed, parts = [row, without_nerp(row)], [difference_of]
            lacking = INCOMPLETE if grid.missing(needed, parts) else ""
            own = grid.marks(row, part.averaged, parts) + lacking
            names[row], marks = row + own, marks + own
    width, height = figure.get_size_inches()
    columns = min(int(width / _LEGEND_ENTRY[0]), len(names))
    figure.legend([handles[row] for row in names], names.values(), loc="outside upper center",
                  ncols=columns)
    lines = [x] if part.backbone == DEFAULT_BACKBONE else [x, f"Backbone: {part.backbone}."]
    if len(grid.seeds) > 1:
        seeds = ", ".join(map(str, grid.seeds))
        lines.append(f"Means and, as bars, standard deviations over seeds {seeds}.")
    lines += [*notes, *part.cautions, *cautions(part.name, names), *meanings(marks)]
    if INCOMPLETE in marks:
        lines.append(f"{INCOMPLETE} runs are missing: nerp table lists them.")
    lines = [line for note in lines for line in textwrap.wrap(note, int(width / _NOTE[0]))]
    figure.supxlabel("\n".join(lines), fontsize=8)
    figure.supylabel(y, fontsize=8)
    # The panels keep their size whatever is above and below them.
    figure.set_figheight(height + _LEGEND_ENTRY[1] * (math.ceil(len(names) / columns) - 1)
                         + _NOTE[1] * (len(lines) - 1))
