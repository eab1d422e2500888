"""Tables as text for a terminal, Markdown or CSV; `nerp.results.latex` has LaTeX."""

import csv
import io
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from tabulate import tabulate

from nerp.base.printable import csv_cell, printable
from nerp.results.cells import Cell, Column, Row, Table
from nerp.results.grid import INCOMPLETE, MARKS

MISSING = "–"  # shown for a missing run
_PADDING = 2  # columns that tabulate adds to a header in a terminal
_PAGE_COLUMNS = 12  # of a Markdown table: four datasets of three columns, as in papers
# Characters with a meaning in Markdown or the HTML in it; an underscore inside a word has none.
_MARKDOWN = re.compile(r"[\\`*\[\]<>|$&~#]|(?<![^\W_])_|_(?![^\W_])")


def terminal(tables: Iterable[Table], width: int) -> str:
    """Blocks of columns that are at most `width` characters wide, if one group fits."""
    return "\n\n".join(_terminal(table, width) for table in tables) + "\n"


def _terminal(table: Table, width: int) -> str:
    label = 2 + max(len(text) for row in table.rows for text in (row.label, row.block))
    headers = dict(zip(table.columns, _two_lines(table.columns), strict=True))

    def size(column: Column) -> int:
        header = max(map(len, headers[column].split("\n"))) + _PADDING
        return 2 + max([header, *(len(_text(table, row, column)) for row in table.rows)])

    drawn = [
        tabulate(
            [line for row, begins in rows_of_block(table, columns) for line in (
                *([[f"{row.block}:", *("" for _ in columns)]] if begins else []),
                [indented(row, "· "), *(_text(table, row, column) for column in columns)],
            )],
            ["", *_two_lines(columns)],
            disable_numparse=True, colalign=["left", *["right"] * len(columns)],
        )
        for columns in blocks(table.columns, width - label, size)
    ]
    notes = "\n".join(textwrap.fill(note, width) for note in table.notes)
    return printable("\n\n".join([table.title, *drawn, notes]), keep="\n")


def _two_lines(columns: list[Column]) -> list[str]:
    """Headers: the group above the first of its columns, the part below."""
    firsts = {parts[0] for parts in groups_of(columns).values()}
    lines = [f"{column[0] if column in firsts else ''}\n{column[1]}" for column in columns]
    return lines if any(part for _, part in columns) else [line.strip() for line in lines]


def markdown(tables: Iterable[Table]) -> str:
    """Pipe tables of at most twelve columns; the best number of a column is bold."""
    return "\n\n".join(map(_markdown, tables)) + "\n"


def _markdown(table: Table) -> str:
    drawn = []
    for columns in blocks(table.columns, _PAGE_COLUMNS):
        lines = []
        for row, begins in rows_of_block(table, columns):
            if begins:
                lines.append([f"**{_marked_down(row.block)}**", *("" for _ in columns)])
            texts = [_marked_down(_text(table, row, column)) for column in columns]
            bold = [f"**{text}**" if column in row.cells and row.cells[column].place == 1 else text
                    for text, column in zip(texts, columns, strict=True)]
            lines.append([_marked_down(row.label), *bold])
        drawn.append(tabulate(
            lines, ["", *(_marked_down(" ".join(filter(None, column))) for column in columns)],
            tablefmt="pipe", disable_numparse=True, colalign=["left", *["right"] * len(columns)],
        ))
    notes = "\n".join(f"- {_marked_down(note)}" for note in table.notes)
    return "\n\n".join([f"### {_marked_down(table.title)}", *drawn, notes])


def _marked_down(text: str) -> str:
    """A text, escaped for Markdown."""
    return _MARKDOWN.sub(r"\\\g<0>", printable(text))


def comma_separated(tables: Iterable[Table]) -> str:
    """One line per number: table, method, kind of row, dataset, part, mean, std, marks, and the
    backbone if the table has several."""
    words = {mark: name for name, (mark, _) in MARKS.items()} | {INCOMPLETE: "fewer seeds"}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "method", "kind", "dataset", "part", "mean", "std", "marks",
                     "backbone"])
    for table in tables:
        method = ""
        for row in table.rows:
            method = row.label if row.kind == "measured" else method
            kind = row.label if row.kind == "published" else row.kind
            for group, part in table.columns:
                cell = row.cells.get((group, part))
                if cell is None and row.kind != "measured":
                    continue
                mean = std = ""
                if cell:
                    mean, std = f"{cell.mean:.4f}", "" if cell.std is None else f"{cell.std:.4f}"
                marks = "; ".join(words[mark] for mark in cell.marks) if cell else "missing"
                texts = map(csv_cell, (table.title, method, kind, group, part))
                writer.writerow([*texts, mean, std, marks, csv_cell(row.block)])
    return text.getvalue()


def is_missing(table: Table, row: Row, column: Column) -> bool:
    """Whether a missing run is the reason why a table has no number."""
    return row.kind == "measured" and (row.label, column) not in table.blank


def _text(table: Table, row: Row, column: Column) -> str:
    cell = row.cells.get(column)
    if cell is None:
        return MISSING if is_missing(table, row, column) else ""
    return text_of(cell)


def text_of(cell: Cell) -> str:
    """A cell as plain text."""
    number = round(cell.mean, 2) + 0.0  # turns -0.00 into 0.00
    mean = f"{number:+.2f}" if cell.difference else f"{number:.2f}"
    return mean + ("" if cell.std is None else f" ± {cell.std:.2f}") + cell.marks


def indented(row: Row, indent: str, label: str = "") -> str:
    """A row's label; labels of published rows and differences are indented below the row above."""
    return ("" if row.kind == "measured" else indent) + (label or row.label)


def rows_of_block(table: Table, columns: list[Column]) -> Iterator[tuple[Row, bool]]:
    """The rows that have, or lack, a number in some columns; and whether a backbone's block begins
    with the row."""
    backbone = ""
    for row in table.rows:
        if any(column in row.cells or is_missing(table, row, column) for column in columns):
            yield row, row.block != backbone
            backbone = row.block


def groups_of(columns: Iterable[Column]) -> dict[str, list[Column]]:
    """Group -> its columns."""
    groups: dict[str, list[Column]] = {}
    for column in columns:
        groups.setdefault(column[0], []).append(column)
    return groups


def blocks(
    columns: Iterable[Column], most: float, size: Callable[[Column], float] = lambda column: 1,
    together: Callable[[str], str] = lambda group: group,
) -> list[list[Column]]:
    """Columns in blocks whose sizes sum to at most `most`, where that does not part a group, nor
    groups next to each other for which `together` is the same."""
    found: list[list[Column]] = []
    for _, unit in groupby(columns, lambda column: together(column[0])):
        inner = list(unit)
        if not found or sum(map(size, found[-1] + inner)) > most:
            found.append([])
        found[-1] += inner
    return found
