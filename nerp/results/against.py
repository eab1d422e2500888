"""Published numbers beside measured numbers: where the published rows go, and the notes on them."""

from collections.abc import Iterator, Mapping, Sequence

from nerp.results.cells import Cell, Column, Row, Table, differences
from nerp.results.grid import Part, trainer_of
from nerp.results.published import (
    AVERAGE,
    AVERAGES,
    OTHER_PAPER,
    OWN_FILE,
    OWN_PAPER,
    Published,
    average_over,
    rows_of,
    with_papers,
)
from nerp.settings.protocols import NERP_SUFFIX

_FROM = {OWN_PAPER: "from the method's own paper or repository",
         OTHER_PAPER: "from other papers' tables", OWN_FILE: "from a file of one's own"}


def compare(table: Table, part: Part, published: Sequence[Published]) -> None:
    """Put published rows, and the differences from them, below the measured rows they belong to.
    Rows of a method's own paper come first.

    A published average is only compared with an average over the same datasets.
    """
    rows: list[Row] = []
    shown: list[Published] = []
    without: list[str] = []
    average = average_over([*part.averaged, *part.source], table.protocol)
    columns = [column for column in table.columns if average or column[0] != AVERAGE]
    for row in table.rows:
        rows.append(row)
        if row.kind != "measured":
            continue
        papers = [
            {AVERAGE if name == average else name: line for name, line in lines.items()
             if name == average or name not in AVERAGES}
            for lines in rows_of(table.protocol, trainer_of(row.label), part.shots,
                                 part.backbone, published).values()
        ]
        there = [lines for lines in papers if _cells(lines, columns)]
        rows += [beside for lines in there for beside in _beside(row, lines, columns)]
        shown += [line for lines in there for line in lines.values()]
        without += [] if there else [row.label]
    table.rows = rows
    table.notes += _notes(shown, without)


def _notes(shown: Sequence[Published], without: Sequence[str]) -> Iterator[str]:
    """Where the shown numbers are from, which rows have no published number, and why."""
    said = []
    for origin, words in _FROM.items():
        sources = list(dict.fromkeys(row.source for row in shown if row.origin == origin))
        sources = sources if origin == OWN_FILE else with_papers(sources)
        said += [f"{words}: {'; '.join(sources)}"] if sources else []
    if said:
        yield f"Published numbers, {'; '.join(said)}. Ours - theirs below them."
    if any(line.variant for line in shown):
        yield ("In brackets: what a paper did otherwise, or its backbone; no difference is taken.")
    corrected = [label for label in without if trainer_of(label).endswith(NERP_SUFFIX)]
    if corrected:
        yield (f"No published numbers are known here of {', '.join(corrected)}: the tables of "
               "NeRP's paper could not be read for this list. --against FILE.csv takes rows of "
               "one's own.")
    if others := [label for label in without if label not in corrected]:
        yield f"No published numbers for these datasets and shots: {', '.join(others)}."


def _cells(lines: Mapping[str, Published], columns: Sequence[Column]) -> dict[Column, Cell]:
    return {
        (group, name): Cell(value) for group, name in columns
        if group in lines and (value := lines[group].accuracy(name)) is not None
    }


def _beside(
    row: Row, lines: Mapping[str, Published], columns: Sequence[Column]
) -> Iterator[Row]:
    """A published row and, unless it is of a variant, `row` minus the published row."""
    cells, line = _cells(lines, columns), next(iter(lines.values()))
    yield Row(line.label, cells, "published", row.block)
    if not line.variant:
        yield Row("difference", differences(row, cells), "difference", row.block)
