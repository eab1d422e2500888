"""Records into tables: one row a method, one group of columns a dataset.

How numbers are made, here and nowhere else:
- a cell is the mean over the seeds and ± their population standard deviation (divided by n, as
  `tools/parse_test_res.py` and the field's papers have it);
- H of a dataset is 2bn / (b + n) of each seed, averaged over the seeds;
- an Average is taken over all datasets of the table, and only where none of them lacks a seed; its
  H is that of the average base and the average novel accuracy, as in published tables.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean, pstdev

from nerp.engine.measures import METRICS
from nerp.engine.metrics import harmonic_mean
from nerp.results.grid import (
    BASE,
    BORROWED,
    INCOMPLETE,
    NOVEL,
    Grid,
    Part,
    cautions,
    meanings,
    split,
)
from nerp.results.published import (
    AVERAGE,
    MEDICAL_AVERAGE,
    Published,
    average_over,
    rows_of,
    with_papers,
)
from nerp.results.readings import ACCURACY, ALONE, MEANS
from nerp.results.records import Record

TITLES = {
    "base_to_novel": "Base-to-novel",
    "open_world": "Open world",
    "cross_dataset": "Cross-dataset",
    "domain_generalisation": "Domain generalisation",
    "few_shot": "Few-shot",
}
H = "H"
_ALONE = " alone"
_OPEN_NOTES = [
    "Halves alone: the images of base or of novel classes with the classes of their half as "
    "answers; open: all images, with all classes as answers.",
    "AUROC: of the probability of the likeliest base class, telling images of base classes from "
    "the others. OpenworldAUC: share of pairs of a base and a novel image that are right among "
    "their half and that this probability tells apart; both in percent (docs/openworld.md).",
]
_MOST_MISSING = 6  # named in a note

Column = tuple[str, str]  # a group (a dataset or AVERAGE) and a part of it; "" for the accuracy


@dataclass(frozen=True)
class Cell:
    """A number in percent.

    Attributes:
        std: over the seeds; None where there is no spread to give.
        marks: characters of `MARKS` or `INCOMPLETE` (nerp.results.grid).
    """

    mean: float
    std: float | None = None
    marks: str = ""


@dataclass
class Row:
    """`cells` lacks the columns whose runs are missing. kind: "measured", "published" or
    "difference" (measured - published)."""

    label: str
    cells: dict[Column, Cell] = field(default_factory=dict)
    kind: str = "measured"


@dataclass
class Table:
    """`notes` are lines to stand below it."""

    protocol: str
    title: str
    columns: list[Column]
    rows: list[Row]
    notes: list[str]
    less_is_better: bool = False


def build_tables(
    records: Iterable[Record], *, seeds: Iterable[int] = (), protocols: Iterable[str] = (),
    by_config: bool = False, against_published: bool = False,
) -> list[Table]:
    """A table for each protocol, and for each number of shots but in few-shot; drawn benchmarks,
    which are no evidence about CLIP, have their own.

    Args:
        seeds: those that every cell must have; by default all that occur.
        protocols: names of `TITLES`; by default those that have results.
        by_config: one row a method and configuration instead of one a method.
        against_published: add published rows and the differences from them.

    Raises NerpError as `split` does.
    """
    tables = []
    for part in split(records, seeds, by_config):
        if not protocols or part.name in protocols:
            table = _table(part)
            if against_published:
                _compare(table, part)
            tables.append(table)
    return sorted(tables, key=lambda table: list(TITLES).index(table.protocol))


def _title(part: Part) -> str:
    # A run that was asked for no protocol has base-to-novel's name.
    whole = part.name == "base_to_novel" and not any(part.grid.parts)
    return "All classes" if whole else TITLES[part.name]


def _table(part: Part) -> Table:
    grid, averaged = part.grid, part.averaged
    average = [AVERAGE] if len(averaged) > 1 else []
    groups = [*part.source, *averaged, *average] if part.source else [*average, *averaged]
    shown = [*grid.parts, H] if _has_means(part) else grid.parts
    rows = [
        Row(label, {
            column: cell for group in groups for column, cell in _cells(part, label, group)
        })
        for label in grid.rows
    ]
    return Table(
        protocol=part.name,
        title=", ".join([_title(part), *([f"{part.shots} shots"] if part.shots else []),
                         *(["drawn benchmarks"] if part.drawn else [])]),
        columns=[_column(part, group, name) for group in groups for name in shown],
        rows=rows,
        notes=_notes(part, rows),
        less_is_better=not METRICS[part.metric].more_is_better,
    )


def _has_means(part: Part) -> bool:
    """Whether H of base and novel accuracy stands beside the two, made here."""
    return part.name == "base_to_novel" and NOVEL in part.grid.parts and part.metric == ACCURACY


def _column(part: Part, group: str, name: str) -> Column:
    """Where a number stands. An open-world test has two groups of columns for each dataset: its
    halves each by itself, and all classes at once."""
    if part.name != "open_world":
        return group, name
    if name in ALONE:
        return f"{group} halves alone", name.removesuffix(_ALONE)
    return f"{group} open", name if part.metric == ACCURACY else ""


def _cells(part: Part, label: str, group: str) -> Iterator[tuple[Column, Cell]]:
    """The cells of a row in one group of columns."""
    grid = part.grid
    datasets = part.averaged if group == AVERAGE else [group]
    series = {}
    for name in grid.parts:
        # One dataset that lacks a seed is shown with those it has; an average over it is not.
        if group == AVERAGE:
            series[name] = grid.average(label, datasets, name)
        else:
            series[name] = grid.series(label, group, name)
        if series[name]:
            cell = _cell(series[name], grid.marks(label, datasets, [name]), grid)
            if group == AVERAGE and name in MEANS:
                cell = replace(cell, mean=harmonic_mean(*(
                    fmean(grid.average(label, datasets, half).values()) for half in MEANS[name]
                )))
            yield _column(part, group, name), cell
    if _has_means(part):
        base, novel = series[BASE], series[NOVEL]
        harmonic = {seed: harmonic_mean(base[seed], novel[seed]) for seed in base.keys() & novel}
        if harmonic:
            cell = _cell(harmonic, grid.marks(label, datasets, grid.parts), grid)
            if group == AVERAGE:
                mean = harmonic_mean(fmean(base.values()), fmean(novel.values()))
                cell = replace(cell, mean=mean)
            yield (group, H), cell


def _cell(series: Mapping[int, float], marks: str, grid: Grid) -> Cell:
    values = list(series.values())
    if len(values) < len(grid.seeds):
        marks += INCOMPLETE
    return Cell(fmean(values), pstdev(values) if len(values) > 1 else None, marks)


def _notes(part: Part, rows: list[Row]) -> list[str]:
    grid = part.grid
    seeds = ", ".join(map(str, grid.seeds))
    what = METRICS[part.metric].text.format(bins=part.bins)
    notes = [f"{what}, seed {seeds}."]
    if len(grid.seeds) > 1:
        notes = [f"{what}, mean ± population standard deviation over seeds {seeds}."]
    if not METRICS[part.metric].more_is_better:
        notes.append("Less is better.")
    if any(part == H for row in rows for _, part in row.cells):
        notes.append("H: harmonic mean of base and novel of each seed, averaged; of Average: "
                     "that of the average base and novel accuracy.")
    if part.name == "open_world":
        notes += _OPEN_NOTES[: None if part.metric == ACCURACY else 1]
    if part.calibrators:
        notes.append("Calibrated: " + "; ".join(
            f"{name} (looked at {seen})" for name, seen in sorted(part.calibrators.items())) + ".")
    if grid.borrows:
        notes.append(BORROWED)
    shown = "".join(cell.marks for row in rows for cell in row.cells.values())
    notes += [*part.cautions, *cautions(part.name, grid.rows), *meanings(shown)]
    missing = grid.missing(grid.rows)
    if missing:
        more = len(missing) - _MOST_MISSING
        listed = "; ".join(missing[:_MOST_MISSING]) + (f"; and {more} more" if more > 0 else "")
        notes.append(f"Missing ({INCOMPLETE}: some seeds; –: all of them, and no average over "
                     f"such): {listed}.")
    return notes


def _compare(table: Table, part: Part) -> None:
    """Put published rows and the differences from them below the rows they belong to.

    A published average is compared with an average over the same datasets only.
    """
    rows: list[Row] = []
    shown: list[Published] = []
    without = []
    average = average_over([*part.averaged, *part.source], table.protocol)
    columns = [column for column in table.columns if average or column[0] != AVERAGE]
    for row in table.rows:
        papers = [
            {AVERAGE if name == average else name: line for name, line in lines.items()
             if name == average or name not in (AVERAGE, MEDICAL_AVERAGE)}
            for lines in rows_of(table.protocol, row.label.split(" ")[0], part.shots).values()
        ]
        there = [lines for lines in papers if _published_cells(lines, columns)]
        rows += [row, *(beside for lines in there for beside in _beside(row, lines, columns))]
        shown += [line for lines in there for line in lines.values()]
        without += [] if there else [row.label]
    table.rows = rows
    if shown:
        papers_shown = "; ".join(with_papers(shown))
        table.notes.append(f"Published numbers: {papers_shown}; ours - theirs below them.")
    if any(line.variant for line in shown):
        table.notes.append("In brackets: what a paper varied in the method; "
                           "no difference is taken.")
    if without:
        table.notes.append("No published numbers for these datasets and shots: "
                           f"{', '.join(without)}.")


def _published_cells(lines: Mapping[str, Published], columns: list[Column]) -> dict[Column, Cell]:
    return {
        (group, name): Cell(value) for group, name in columns
        if group in lines and (value := lines[group].accuracy(name)) is not None
    }


def _beside(row: Row, lines: Mapping[str, Published], columns: list[Column]) -> Iterator[Row]:
    """A published row and, unless it is of a variant, the difference of `row` from it."""
    cells, line = _published_cells(lines, columns), next(iter(lines.values()))
    yield Row(line.label, cells, "published")
    if not line.variant:
        yield Row("difference", {
            column: Cell(row.cells[column].mean - cell.mean)
            for column, cell in cells.items() if column in row.cells
        }, "difference")
