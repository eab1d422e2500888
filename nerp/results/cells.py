"""The parts of a table: cells, rows and columns; which numbers are best; differences of rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nerp.results.grid import HARMLESS, without_nerp

GAIN = "Δ"
Column = tuple[str, str]  # a group (a dataset or AVERAGE) and a part of it; "" for the accuracy


@dataclass(frozen=True)
class Cell:
    """A number in percent.

    Attributes:
        std: over the seeds; None if no spread is given.
        marks: characters of `MARKS` or `INCOMPLETE` (nerp.results.grid).
        difference: whether it is a difference, which is shown with its sign.
        place: 1 for the best measured number of its column and block, 2 for the second, else 0.
    """

    mean: float
    std: float | None = None
    marks: str = ""
    difference: bool = False
    place: int = 0


@dataclass
class Row:
    """`cells` lacks the columns whose runs are missing. kind: "measured", "published", "difference"
    (measured - published) or "gain" (corrected - uncorrected). block: the backbone, "" if the table
    has only one."""

    label: str
    cells: dict[Column, Cell] = field(default_factory=dict)
    kind: str = "measured"
    block: str = ""


@dataclass
class Table:
    """`notes`: lines below the table. blank: each (row label, column) that has no number although
    no run is missing."""

    protocol: str
    title: str
    columns: list[Column]
    rows: list[Row]
    notes: list[str]
    less_is_better: bool = False
    blank: frozenset[tuple[str, Column]] = frozenset()


def rank(table: Table) -> None:
    """Mark the best and the second-best measured number of each column, as they are printed.
    Incomplete numbers, and numbers that have looked at test data, are left out. A single row is not
    marked; with two rows, the second is not marked."""
    for column in table.columns if len(table.rows) > 1 else []:
        competing = {row.label: round(cell.mean, 2) for row in table.rows
                     if (cell := row.cells.get(column)) and not set(cell.marks) - {HARMLESS}}
        order = sorted(set(competing.values()), reverse=not table.less_is_better)
        places = order[:2] if len(competing) > 2 else order[:1]
        for row in table.rows:
            if (score := competing.get(row.label)) in places:
                row.cells[column] = replace(row.cells[column], place=places.index(score) + 1)


def add_gains(table: Table) -> None:
    """Add, below every corrected row whose baseline is in the table, the gain over the baseline."""
    plain = {row.label: row for row in table.rows if row.kind == "measured"}
    rows = []
    for row in table.rows:
        rows.append(row)
        baseline = plain.get(without_nerp(row.label), row) if row.kind == "measured" else row
        if baseline is not row:
            rows.append(Row(GAIN, differences(row, baseline.cells), "gain", row.block))
    table.rows = rows


def differences(row: Row, others: Mapping[Column, Cell]) -> dict[Column, Cell]:
    """The differences of a row's numbers from `others`, for the columns that both have."""
    return {column: Cell(row.cells[column].mean - cell.mean, difference=True)
            for column, cell in others.items() if column in row.cells}
