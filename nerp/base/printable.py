"""Makes values fit to be shown: foreign text as one short line without control codes, lines for a
terminal, durations."""

import os
import re
import reprlib
import sys
import textwrap
from typing import TextIO

_LONGEST = 100  # characters

# Control codes (C0, C1), line separators, and characters that reverse the direction of writing.
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_NOT_UTF8 = re.compile("[\ud800-\udfff]")  # halves of surrogate pairs: bytes of odd file names


class _Brief(reprlib.Repr):
    """A `repr` that looks at few entries on few levels, however large or recursive a value is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 2
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 6
        self.maxstring = self.maxother = _LONGEST


_BRIEF = _Brief()


def brief(value: object) -> str:
    """`repr(value)`, shortened where it is long: for messages about values that are not trusted."""
    try:
        return printable(_BRIEF.repr(value))
    except Exception:  # a number of too many digits, a class whose repr fails
        return f"a {type(value).__name__}"


def is_printable(text: str) -> bool:
    """Whether a text can be written to a terminal and to a file unchanged."""
    return not (_CONTROL.search(text) or _NOT_UTF8.search(text))


def has_control_codes(text: str) -> bool:
    """Whether a text contains a terminal's control codes or a line break."""
    return _CONTROL.search(text) is not None


def printable(text: str, keep: str = "") -> str:
    """`text` with unprintable characters in Python's notation (an escape as \x1b), except for the
    characters in `keep`."""
    if is_printable(text):
        return text
    return "".join(c if c in keep or is_printable(c) else ascii(c)[1:-1] for c in text)


def fitted(text: str, stream: TextIO) -> str:
    """`text` for `stream`. At a terminal, lines that are too long are broken between words; for
    other streams the text is unchanged. Words, such as paths, stay whole."""
    try:
        width = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # no terminal
        return text
    return "\n".join(broken(line, width) for line in text.split("\n")) if width else text


def broken(line: str, width: int, hang: int | None = None) -> str:
    """One line as lines of at most `width` columns. Lines after the first are indented by `hang`;
    if it is None, by two more than the first."""
    if hang is None:
        hang = len(line) - len(line.lstrip()) + 2
    return "\n".join(textwrap.wrap(
        line, width, subsequent_indent=" " * hang, replace_whitespace=False,
        break_long_words=False, break_on_hyphens=False,
    )) if len(line) > width else line


def complain(text: str) -> None:
    """Print an error message on standard error."""
    print(fitted(f"nerp: {printable(text)}", sys.stderr), file=sys.stderr)


def csv_cell(text: str) -> str:
    """A text for a cell of a CSV file, written so that a spreadsheet does not take it for a
    formula."""
    text = printable(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def duration(seconds: float) -> str:
    """A span of time in its two largest units: 9 s, 4 min 5 s, 3 h 20 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
