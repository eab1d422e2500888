"""Other arrangements of a table: datasets as rows, backbones as rows or columns, no deviations."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from nerp.results.cells import GAIN, Column, Row, Table
from nerp.results.grid import without_nerp
from nerp.results.published import AVERAGE

SPREAD = " ± population standard deviation"  # a part of the note about the numbers


def arranged(table: Table, rows: str = "methods", backbones: str = "blocks") -> Table:
    """A table in another arrangement.

    Args:
        rows: "methods", or "datasets", with a group of columns per method.
        backbones: if there are several: "blocks" of rows, "rows" next to each other below each
            method, or "columns" next to each other.
    """
    if backbones != "blocks" and any(row.block for row in table.rows):
        if rows == "datasets":
            table = _one_block(table, without_nerp)  # a correction beside its baseline
        else:
            table = _side_by_side(table) if backbones == "columns" else _one_block(table)
    return _by_dataset(table) if rows == "datasets" else table


def without_spread(table: Table) -> Table:
    """A table without standard deviations."""
    rows = [replace(row, cells={column: replace(cell, std=None)
                                for column, cell in row.cells.items()}) for row in table.rows]
    notes = [note.replace(SPREAD, "") for note in table.notes]
    return replace(table, rows=rows, notes=notes)


def _owned(table: Table) -> Iterator[tuple[str, Row]]:
    """(the label of the measured row that a row belongs to, the row)."""
    owner = ""
    for row in table.rows:
        owner = row.label if row.kind == "measured" else owner
        yield owner, row


def _one_block(table: Table, together: Callable[[str], str] = lambda label: label) -> Table:
    """A table in one block, with the backbone after the name of each method. Rows whose labels have
    the same `together` are adjacent, backbone by backbone."""
    order = list(dict.fromkeys(together(owner) for owner, _ in _owned(table)))
    rows = [(order.index(together(owner)), replace(
        row, block="", label=f"{row.label} ({row.block})" if row.kind == "measured" else row.label,
    )) for owner, row in _owned(table)]
    return replace(table, rows=[row for _, row in sorted(rows, key=lambda entry: entry[0])])


def _side_by_side(table: Table) -> Table:
    """A group of columns per dataset and backbone; a row per method."""
    blocks = list(dict.fromkeys(row.block for row in table.rows))
    groups = dict.fromkeys(group for group, _ in table.columns)
    rows: dict[tuple[str, str], Row] = {}
    for owner, row in _owned(table):
        name = row.label if row.kind != "difference" else f"difference {_place(table, row)}"
        merged = rows.setdefault((owner, name), replace(row, block="", cells={}))
        merged.cells |= {_on(column, row.block): cell for column, cell in row.cells.items()}
    owners = list(dict.fromkeys(owner for owner, _ in rows))
    ordered = sorted(rows.items(), key=lambda item: owners.index(item[0][0]))
    return replace(
        table, rows=[row for _, row in ordered],
        columns=[_on(column, block) for group in groups for block in blocks
                 for column in table.columns if column[0] == group],
    )


def _place(table: Table, row: Row) -> str:
    """The label of the published row that a difference is from: the row above it."""
    place = next(i for i, other in enumerate(table.rows) if other is row)
    return table.rows[place - 1].label


def _on(column: Column, backbone: str) -> Column:
    return f"{column[0]} ({backbone})", column[1]


def _by_dataset(table: Table) -> Table:
    """A row per dataset, the average last; a group of columns per method."""
    parts = list(dict.fromkeys(part for _, part in table.columns))
    groups = list(dict.fromkeys(group for group, _ in table.columns))
    groups.sort(key=lambda group: group.startswith(AVERAGE))
    rows = {(block, group): Row(group, block=block)
            for block in dict.fromkeys(row.block for row in table.rows) for group in groups}
    columns: dict[Column, None] = {}
    blank: set[tuple[str, Column]] = set()
    for owner, row in _owned(table):
        head = _heading(table, owner, row)
        for part in parts:
            columns[head, part] = None
            for group in groups:
                if (cell := row.cells.get((group, part))) is not None:
                    rows[row.block, group].cells[head, part] = cell
                if row.kind != "measured" or (group, part) not in table.columns:
                    blank.add((group, (head, part)))
    return replace(table, rows=list(rows.values()), columns=list(columns), blank=frozenset(blank))


def _heading(table: Table, owner: str, row: Row) -> str:
    """The heading of a row's columns."""
    if row.kind == "measured":
        return row.label
    if row.kind == "difference":
        return f"{owner} (difference from {_place(table, row)})"
    return f"{GAIN} {owner}" if row.kind == "gain" else f"{owner} ({row.label})"
