"""Tables from records: one row per method, one group of columns per dataset, one block of rows per
backbone. `nerp.results.layout` has other arrangements.

The numbers are computed here and nowhere else:
- a cell is the mean over the seeds and ± their population standard deviation (divided by n, as in
  `tools/parse_test_res.py` and the field's papers);
- H of a dataset is 2bn / (b + n) for each seed, averaged over the seeds;
- an Average is over all datasets of the table, and only if none of them lacks a seed; its
  H is that of the average base and the average novel accuracy, as in published tables.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, pstdev

from nerp.engine.measures import METRICS
from nerp.engine.metrics import harmonic_mean
from nerp.results.against import compare
from nerp.results.cells import Cell, Column, Row, Table, add_gains, rank
from nerp.results.grid import (
    BASE,
    BORROWED,
    INCOMPLETE,
    NOVEL,
    Grid,
    Part,
    cautions,
    is_seedless,
    meanings,
    split,
    trainer_of,
)
from nerp.results.layout import SPREAD
from nerp.results.published import AVERAGE, Published
from nerp.results.readings import ACCURACY, ALONE, MEANS
from nerp.results.records import Record
from nerp.settings.backbones import DEFAULT_BACKBONE

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


def build_tables(
    records: Iterable[Record], *, seeds: Iterable[int] = (), protocols: Iterable[str] = (),
    by_config: bool = False, against: Sequence[Published] = (), gains: bool = False,
) -> list[Table]:
    """One table per protocol, and per number of shots except in few-shot. Drawn benchmarks, which
    are no evidence about CLIP, have tables of their own.

    Args:
        seeds: the seeds that every cell must have; default: all that occur.
        protocols: names of `TITLES`; default: those that have results.
        by_config: one row per method and configuration instead of one per method.
        against: published rows; they and the differences from them are put below the rows they
            belong to.
        gains: whether each corrected row is followed by its gain over the baseline.

    Raises NerpError as `split` does.
    """
    tables: dict[tuple[str, int, bool], Table] = {}
    for part in split(records, seeds, by_config):
        if not protocols or part.name in protocols:
            table = _table(part)
            rank(table)
            if against:
                compare(table, part, against)
            if gains:
                add_gains(table)
            there = tables.setdefault((part.name, part.shots, part.drawn), table)
            if there is not table:
                _join(there, table)
    return sorted(tables.values(), key=lambda table: list(TITLES).index(table.protocol))


def _title(part: Part) -> str:
    # A run without a protocol has the name of base-to-novel.
    whole = part.name == "base_to_novel" and not any(part.grid.parts)
    said = ["All classes" if whole else TITLES[part.name]]
    said += [f"{part.shots} shots"] if part.shots else []
    said += ["drawn benchmarks"] if part.drawn else []
    said += [part.backbone] if part.backbone != DEFAULT_BACKBONE and not part.beside else []
    return ", ".join(said)


def _table(part: Part) -> Table:
    grid, averaged = part.grid, part.averaged
    average = [AVERAGE] if len(averaged) > 1 else []
    groups = [*part.source, *averaged, *average] if part.source else [*average, *averaged]
    shown = [*grid.parts, H] if _has_means(part) else grid.parts
    rows = [
        Row(label, {
            column: cell for group in groups for column, cell in _cells(part, label, group)
        }, block=part.backbone if part.beside else "")
        for label in grid.rows
    ]
    return Table(
        protocol=part.name,
        title=_title(part),
        columns=[_column(part, group, name) for group in groups for name in shown],
        rows=rows,
        notes=_notes(part, rows),
        less_is_better=not METRICS[part.metric].more_is_better,
    )


def _join(table: Table, other: Table) -> None:
    """Append the rows of another backbone to `table`, which has the same columns."""
    table.rows += other.rows
    table.notes = list(dict.fromkeys([*table.notes, *other.notes]))


def _has_means(part: Part) -> bool:
    """Whether the table has H of base and novel accuracy, computed here."""
    return part.name == "base_to_novel" and NOVEL in part.grid.parts and part.metric == ACCURACY


def _column(part: Part, group: str, name: str) -> Column:
    """The column of a number. An open-world test has two groups of columns per dataset: each half
    by itself, and all classes at once."""
    if part.name != "open_world":
        return group, name
    if name in ALONE:
        return f"{group} halves alone", name.removesuffix(_ALONE)
    return f"{group} open", name if part.metric == ACCURACY else ""


def _cells(part: Part, label: str, group: str) -> Iterator[tuple[Column, Cell]]:
    """The cells of a row in one group of columns."""
    grid, seedless = part.grid, is_seedless(trainer_of(label))
    datasets = part.averaged if group == AVERAGE else [group]
    series = {}
    for name in grid.parts:
        # A dataset that lacks a seed is shown with the seeds it has; an average over it is not.
        if group == AVERAGE:
            series[name] = grid.average(label, datasets, name)
        else:
            series[name] = grid.series(label, group, name)
        if series[name]:
            cell = _cell(series[name], grid.marks(label, datasets, [name]), grid, seedless)
            if group == AVERAGE and name in MEANS:
                cell = replace(cell, mean=harmonic_mean(*(
                    fmean(grid.average(label, datasets, half).values()) for half in MEANS[name]
                )))
            yield _column(part, group, name), cell
    if _has_means(part):
        base, novel = series[BASE], series[NOVEL]
        harmonic = {seed: harmonic_mean(base[seed], novel[seed]) for seed in base.keys() & novel}
        if harmonic:
            cell = _cell(harmonic, grid.marks(label, datasets, grid.parts), grid, seedless)
            if group == AVERAGE:
                mean = harmonic_mean(fmean(base.values()), fmean(novel.values()))
                cell = replace(cell, mean=mean)
            yield (group, H), cell


def _cell(series: Mapping[int, float], marks: str, grid: Grid, seedless: bool) -> Cell:
    """Args: seedless: whether the method is not random; equal numbers then have no spread."""
    values = list(series.values())
    if len(values) < len(grid.seeds):
        marks += INCOMPLETE
    spread = len(values) > 1 and not (seedless and len(set(values)) == 1)
    return Cell(fmean(values), pstdev(values) if spread else None, marks)


def _notes(part: Part, rows: list[Row]) -> list[str]:
    grid = part.grid
    seeds = ", ".join(map(str, grid.seeds))
    what = METRICS[part.metric].text.format(bins=part.bins)
    notes = [f"{what}, seed {seeds}."]
    if len(grid.seeds) > 1:
        notes = [f"{what}, mean{SPREAD} over seeds {seeds}."]
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
        where = f" on {part.backbone}" if part.beside else ""
        notes.append(f"Missing{where} ({INCOMPLETE}: some seeds; –: all of them, and no average "
                     f"over such): {listed}.")
    return notes
