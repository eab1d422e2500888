"""Tables as text for a terminal, Markdown, CSV or LaTeX."""

import csv
import io
import re
import textwrap
from collections.abc import Callable, Iterable

from tabulate import tabulate

from nerp.base.printable import csv_cell, printable
from nerp.results.grid import HARMLESS, INCOMPLETE, MARKS
from nerp.results.tables import Column, Row, Table

MISSING = "–"  # a run that is not there
_PADDING = 2  # of a header in a terminal, by tabulate
_PAGE_COLUMNS = 12  # of a Markdown or LaTeX table: four datasets of three, as papers have them
_LATEX = {"†": r"$^\dagger$", "‡": r"$^\ddagger$", "§": r"$^\S$", "¶": r"$^\P$", "°": r"$^\circ$",
          "‖": r"$^\|$",
          "*": "$^*$", "±": r"$\pm$", "–": "--", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#",
          "$": r"\$", "{": r"\{", "}": r"\}", "\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
          "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}"}
# What Markdown, or the HTML in it, takes for more than a character; an underscore does no harm
# inside a word.
_MARKDOWN = re.compile(r"[\\`*\[\]<>|$&~#]|(?<![^\W_])_|_(?![^\W_])")


def terminal(tables: Iterable[Table], width: int) -> str:
    """Blocks of columns, no wider than `width` characters where one group of columns fits."""
    return "\n\n".join(_terminal(table, width) for table in tables) + "\n"


def _terminal(table: Table, width: int) -> str:
    label = 2 + max(len(row.label) for row in table.rows)
    headers = dict(zip(table.columns, _two_lines(table.columns), strict=True))

    def size(column: Column) -> int:
        header = max(map(len, headers[column].split("\n"))) + _PADDING
        return 2 + max([header, *(len(_text(row, column)) for row in table.rows)])

    blocks = [
        tabulate(
            [[_indented(row, "· "), *(_text(row, column) for column in columns)]
             for row in _rows(table, columns)],
            ["", *_two_lines(columns)],
            disable_numparse=True, colalign=["left", *["right"] * len(columns)],
        )
        for columns in _blocks(table.columns, width - label, size)
    ]
    notes = "\n".join(textwrap.fill(note, width) for note in table.notes)
    return printable("\n\n".join([table.title, *blocks, notes]), keep="\n")


def _two_lines(columns: list[Column]) -> list[str]:
    """Headers: the group above the first of its columns, the part below."""
    firsts = {parts[0] for parts in _groups(columns).values()}
    lines = [f"{column[0] if column in firsts else ''}\n{column[1]}" for column in columns]
    return lines if any(part for _, part in columns) else [line.strip() for line in lines]


def markdown(tables: Iterable[Table]) -> str:
    """Pipe tables of at most twelve columns, the best of a column in bold."""
    return "\n\n".join(map(_markdown, tables)) + "\n"


def _markdown(table: Table) -> str:
    best = _best(table)
    blocks = []
    for columns in _blocks(table.columns, _PAGE_COLUMNS):
        lines = []
        for row in _rows(table, columns):
            texts = [_marked_down(_text(row, column)) for column in columns]
            bold = [f"**{text}**" if (row.label, column) in best else text
                    for text, column in zip(texts, columns, strict=True)]
            lines.append([_marked_down(row.label), *bold])
        blocks.append(tabulate(
            lines, ["", *(_marked_down(" ".join(filter(None, column))) for column in columns)],
            tablefmt="pipe", disable_numparse=True, colalign=["left", *["right"] * len(columns)],
        ))
    notes = "\n".join(f"- {_marked_down(note)}" for note in table.notes)
    return "\n\n".join([f"### {_marked_down(table.title)}", *blocks, notes])


def _marked_down(text: str) -> str:
    """A text as Markdown shows it."""
    return _MARKDOWN.sub(r"\\\g<0>", printable(text))


def latex(tables: Iterable[Table]) -> str:
    """`tabular`s for the package booktabs, the best of a column in bold, notes below them."""
    return "\n\n".join(map(_latex, tables)) + "\n"


def _latex(table: Table) -> str:
    best = _best(table)
    lines = [f"% {printable(table.title)}. Needs \\usepackage{{booktabs}}."]
    for columns in _blocks(table.columns, _PAGE_COLUMNS):
        groups = _groups(columns)
        lines += [f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", "\\toprule"]
        lines.append("".join(f" & \\multicolumn{{{len(parts)}}}{{c}}{{{_escape(group)}}}"
                             for group, parts in groups.items()) + r" \\")
        if any(part for _, part in columns):
            lines.append("".join(f" & {_escape(part)}" for _, part in columns) + r" \\")
        lines.append("\\midrule")
        for row in _rows(table, columns):
            texts = [_escape(_text(row, column)) for column in columns]
            bold = [f"\\textbf{{{text}}}" if (row.label, column) in best else text
                    for text, column in zip(texts, columns, strict=True)]
            label = _indented(row, r"\quad ", _escape(row.label))
            lines.append(" & ".join([label, *bold]) + r" \\")
        lines += ["\\bottomrule", "\\end{tabular}", ""]
    lines += [_escape(note) + r" \\" for note in table.notes]
    return "\n".join(lines)


def comma_separated(tables: Iterable[Table]) -> str:
    """A line a number: table, method, kind of row, dataset, part, mean, std and what marks it."""
    words = {mark: name for name, (mark, _) in MARKS.items()} | {INCOMPLETE: "fewer seeds"}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "method", "kind", "dataset", "part", "mean", "std", "marks"])
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
                writer.writerow([*texts, mean, std, marks])
    return text.getvalue()


def _text(row: Row, column: Column) -> str:
    cell = row.cells.get(column)
    if cell is None:
        return MISSING if row.kind == "measured" else ""
    mean = f"{cell.mean:+.2f}" if row.kind == "difference" else f"{cell.mean:.2f}"
    return mean + ("" if cell.std is None else f" ± {cell.std:.2f}") + cell.marks


def _indented(row: Row, indent: str, label: str = "") -> str:
    """A row's label; published rows and differences belong to the row above them."""
    return ("" if row.kind == "measured" else indent) + (label or row.label)


def _rows(table: Table, columns: list[Column]) -> list[Row]:
    """The rows of a block: published ones where they have something to say in it."""
    return [row for row in table.rows
            if row.kind == "measured" or any(column in row.cells for column in columns)]


def _best(table: Table) -> set[tuple[str, Column]]:
    """The measured cells with the best number of their column, as it is printed. Marked ones,
    incomplete or with a look at test data, do not compete; nor does a row that is alone."""
    rows = [row for row in table.rows if row.kind == "measured"]
    best = set()
    for column in table.columns if len(rows) > 1 else []:
        scores = {row.label: round(cell.mean, 2) for row in rows
                  if (cell := row.cells.get(column)) and not set(cell.marks) - {HARMLESS}}
        most = (min if table.less_is_better else max)(scores.values(), default=None)
        best |= {(name, column) for name, score in scores.items() if score == most}
    return best


def _groups(columns: Iterable[Column]) -> dict[str, list[Column]]:
    groups: dict[str, list[Column]] = {}
    for column in columns:
        groups.setdefault(column[0], []).append(column)
    return groups


def _blocks(
    columns: Iterable[Column], most: int, size: Callable[[Column], int] = lambda column: 1
) -> list[list[Column]]:
    """Columns in blocks whose sizes sum to at most `most`, where that does not part a group."""
    blocks: list[list[Column]] = []
    for group in _groups(columns).values():
        if not blocks or sum(map(size, blocks[-1] + group)) > most:
            blocks.append([])
        blocks[-1] += group
    return blocks


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in printable(text))
