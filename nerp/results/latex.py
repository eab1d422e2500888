r"""Tables for a paper in LaTeX, in one column or across two, with names as papers write them."""

import re
from collections.abc import Iterable, Iterator

from nerp.base.printable import printable
from nerp.results.cells import GAIN, Cell, Column, Row, Table
from nerp.results.grid import trainer_of, without_nerp
from nerp.results.names import as_in_papers
from nerp.results.render import MISSING, blocks, groups_of, indented, is_missing, rows_of_block

PACKAGES = ("booktabs", "adjustbox")
_CHARACTERS = {
    "†": r"$^\dagger$", "‡": r"$^\ddagger$", "§": r"$^\S$", "¶": r"$^\P$", "°": r"$^\circ$",
    "‖": r"$^\|$", "◊": r"$^\diamond$", "*": "$^*$", "±": r"$\pm$", "–": "--", "Δ": r"$\Delta$",
    "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
}
# The number of \small characters that fit in one column of a page and across both, a little shrunk.
_NARROW, _WIDE = 56, 116
_GAP, _SMALL = 1.8, 0.75  # in such characters: between two columns; per character of a deviation
_MOST_LINES = 50  # of one float; with more lines, each block of columns is a float of its own


def latex(tables: Iterable[Table], caption: str = "", label: str = "") -> str:
    """One float per table: `table`, or `table*` across two columns. The best of a column is bold,
    the second underlined, and the notes are below.

    Args: caption, label: replace those made from the table's title; only for a single table.
    """
    needed = "".join(f"% \\usepackage{{{package}}}\n" for package in PACKAGES)
    return needed + "\n" + "\n".join(_latex(table, caption, label) for table in tables)


def _latex(table: Table, caption: str, label: str) -> str:
    narrow = sum(_size(table, column) for column in table.columns) <= _NARROW - _label(table)
    parts = [table.columns] if narrow else _evenly(table)
    drawn = [_tabular(table, columns) for columns in parts]
    together = sum(map(len, drawn)) <= _MOST_LINES
    floats = [drawn] if together else [[lines] for lines in drawn]
    notes = _notes(table, table.notes if caption else table.notes[1:])
    caption = caption or f"{table.title}. {table.notes[0]}"
    label = label or "tab:" + re.sub(r"[^a-z0-9]+", "-", table.title.lower())
    return "\n".join(
        _float(tabulars, "" if narrow else "*", *_titled(caption, label, number),
               notes if number == len(floats) else [])
        for number, tabulars in enumerate(floats, 1)
    )


def _label(table: Table) -> int:
    """The longest name in the rows, in characters."""
    return max(len(row.label) for row in table.rows)


def _size(table: Table, column: Column) -> float:
    """The width of a column, in characters."""
    cells = [row.cells[column] for row in table.rows if column in row.cells]
    spreads = (0.0 if cell.std is None else _SMALL * len(f"+{cell.std:.2f}") for cell in cells)
    numbers = (len(f"{cell.mean:.2f}") + cell.difference + spread
               for cell, spread in zip(cells, spreads, strict=True))
    return _GAP + max([len(column[1]), *numbers])


def _evenly(table: Table) -> list[list[Column]]:
    """Columns in as few blocks as fit across a page, of similar sizes. A correction and its gain
    stay in the block of the baseline."""
    def parted(most: float) -> list[list[Column]]:
        return blocks(table.columns, most, lambda column: _size(table, column), _family)

    most = _WIDE - _label(table)
    count = len(parted(most))
    while most > 1 and len(parted(most - 1)) == count:
        most -= 1
    return parted(most)


def _family(group: str) -> str:
    """A column heading -> the heading it belongs to: for a correction, its method."""
    return without_nerp(group.removeprefix(f"{GAIN} "))


def _titled(caption: str, label: str, number: int) -> tuple[str, str]:
    """Caption and label of a table's float; later floats continue the first."""
    return (caption, label) if number == 1 else (f"{caption} (continued)", f"{label}-{number}")


def _float(
    tabulars: list[list[str]], star: str, caption: str, label: str, notes: list[str]
) -> str:
    fitted = [["\\begin{adjustbox}{max width=\\linewidth}", *lines, "\\end{adjustbox}",
               "\\par\\medskip"] for lines in tabulars]
    return "\n".join([
        f"\\begin{{table{star}}}[t]", "\\centering\\small", "\\setlength{\\tabcolsep}{4pt}",
        f"\\caption{{{_escape(caption)}}}", f"\\label{{{label}}}",
        *(line for lines in fitted for line in lines),
        *(["\\begin{minipage}{\\linewidth}\\scriptsize\\raggedright", *notes,
           "\\end{minipage}"] if notes else []),
        f"\\end{{table{star}}}", "",
    ])


def _notes(table: Table, notes: list[str]) -> list[str]:
    """The lines below a table: the meaning of bold and underlined, then `notes`."""
    places = {cell.place for row in table.rows for cell in row.cells.values()}
    second = ", second underlined." if 2 in places else "."
    said = [f"Best in bold{second}"] if 1 in places else []
    return [f"{_escape(_named(note, table))}\\par" for note in (*said, *notes)]


def _named(note: str, table: Table) -> str:
    """A note with the methods' names as papers write them."""
    labels = {row.label for row in table.rows} | {group for group, _ in table.columns}
    trainers = sorted({trainer_of(label) for label in labels}, key=len, reverse=True)
    words = "|".join(map(re.escape, trainers))
    return re.sub(rf"(?<![\w-])({words})(?![\w-])", lambda found: as_in_papers(found[1]), note)


def _tabular(table: Table, columns: list[Column]) -> list[str]:
    groups = groups_of(columns)
    heads, rules, at = [], [], 2
    for group, inner in groups.items():
        heads.append(f" & \\multicolumn{{{len(inner)}}}{{c}}{{{_name(group)}}}")
        rules.append(f"\\cmidrule(lr){{{at}-{at + len(inner) - 1}}}")
        at += len(inner)
    lines = [f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", "\\toprule", "".join(heads) + r" \\"]
    if any(part for _, part in columns):
        lines += ["".join(rules), "".join(f" & {_escape(part)}" for _, part in columns) + r" \\"]
    lines.append("\\midrule")
    for i, (row, begins) in enumerate(rows_of_block(table, columns)):
        if begins:
            lines += ["\\midrule"] if i else []
            lines.append(f"\\multicolumn{{{1 + len(columns)}}}{{l}}"
                         f"{{\\textit{{{_escape(row.block)}}}}} \\\\")
        lines.append(" & ".join(_line(table, row, columns)) + r" \\")
    return [*lines, "\\bottomrule", "\\end{tabular}"]


def _line(table: Table, row: Row, columns: list[Column]) -> Iterator[str]:
    name = _name(row.label) if row.kind == "measured" else _escape(row.label)
    yield indented(row, r"\quad ", name)
    for column in columns:
        cell = row.cells.get(column)
        if cell is None:
            yield _escape(MISSING) if is_missing(table, row, column) else ""
        else:
            yield _number(cell)


def _number(cell: Cell) -> str:
    """A number with its deviation. Marks take no width of their own, so that the numbers of a
    column are aligned."""
    mean = f"{cell.mean:.2f}"
    if cell.difference:
        mean = f"${'-' if round(cell.mean, 2) < 0 else '+'}${abs(cell.mean):.2f}"
    if cell.place:
        mean = f"\\{'textbf' if cell.place == 1 else 'underline'}{{{mean}}}"
    spread = "" if cell.std is None else f"{{\\scriptsize$\\pm${cell.std:.2f}}}"
    marks = f"\\rlap{{{_escape(cell.marks)}}}" if cell.marks else ""
    return mean + spread + marks


def _name(label: str) -> str:
    """A method or dataset as papers write it. A method's gain stands beside the method, so a sign
    is enough for its name."""
    return _escape(GAIN if label.startswith(f"{GAIN} ") else as_in_papers(label))


def _escape(text: str) -> str:
    parts = printable(text).split("--")  # LaTeX would make a dash of it
    return "-{}-".join("".join(_CHARACTERS.get(character, character) for character in part)
                       for part in parts)
