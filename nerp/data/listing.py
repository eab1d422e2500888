"""Tables of images: CSV (commas, semicolons or tabs) with a header, or JSON lines."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from nerp.base.errors import NerpError
from nerp.base.paths import is_inside
from nerp.base.printable import brief, is_printable
from nerp.data.decode import IMAGE_SUFFIXES
from nerp.data.splits import split_of
from nerp.files.opening import read_text

SUFFIXES = (".csv", ".tsv", ".jsonl")
# The names that a column may have.
_PATH = ("path", "file_name", "filename", "file", "image")
_LABEL = ("label", "class", "classname", "category")
_SPLIT = ("split", "subset", "set")
# The most rows (twice ImageNet's) and characters per line. A file's size is limited too, but rows
# of four letters, or a line of commas, would fill many times as much memory.
_MOST, _LONGEST = 2_000_000, 2**16

Line = tuple[int, Mapping[str, object]]  # its number, column -> what stands there


class Row(NamedTuple):
    """One line: an image's path, its label as text, its split ("" if none is stated), and its
    position in the file."""

    path: str
    label: str
    split: str
    file: Path
    line: int

    @property
    def where(self) -> str:
        """For messages."""
        return _where(self.file, self.line)


def read_rows(file: Path) -> list[Row]:
    """The lines of a table. Raises NerpError, naming file and line, for an invalid line."""
    text = read_text(file).removeprefix("\ufeff")  # spreadsheets put a mark at the beginning
    read = _json_lines if file.suffix == ".jsonl" else _csv_lines
    rows: list[Row] = []
    for number, values in read(text, file):
        if len(rows) == _MOST:
            raise NerpError(f"{file}: more than {_MOST:,} images")
        rows.append(_row(values, file, number))
    return rows


def _lines(text: str, file: Path) -> Iterator[str]:
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if len(line) > _LONGEST:
            raise NerpError(f"{_where(file, number)}: more than {_LONGEST:,} characters")
        yield line


def _csv_lines(text: str, file: Path) -> Iterator[Line]:
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    columns = {name.strip(' "').lower() for name in header.split(delimiter)}
    if not columns & {*_PATH, *_LABEL} and any(c.endswith(IMAGE_SUFFIXES) for c in columns):
        raise NerpError(f"{file}: it has no header; its first line must name the columns, such as "
                        "path,label,split")
    reader = csv.DictReader(_lines(text, file), delimiter=delimiter, strict=True)
    try:
        for line in reader:
            yield reader.line_num, line
    except csv.Error as error:
        raise NerpError(f"{_where(file, reader.line_num)}: {error}") from None


def _json_lines(text: str, file: Path) -> Iterator[Line]:
    for number, line in enumerate(_lines(text, file), 1):
        if line.strip():
            try:
                yield number, dict(json.loads(line))
            except (ValueError, TypeError, RecursionError):
                raise NerpError(f"{_where(file, number)}: not a JSON object") from None


def _where(file: Path, line: int) -> str:
    return f"{file}, line {line}"


def _row(values: Mapping[str, object], file: Path, line: int) -> Row:
    where = _where(file, line)
    named = {str(name).strip().lower(): value for name, value in values.items() if name}
    path, label = (_text(named, names, where) for names in (_PATH, _LABEL))
    split = _text(named, _SPLIT, where) if any(name in named for name in _SPLIT) else ""
    if not path or not is_inside(path):
        raise NerpError(f"{where}: {path!r} is no path inside the image folder; paths are "
                        "relative to it, such as cat/1.jpg")
    if not label:
        raise NerpError(f"{where}: there is no label")
    return Row(path, label, split_of(split) or split.lower(), file, line)


def _text(named: Mapping[str, object], names: tuple[str, ...], where: str) -> str:
    for name in names:
        value = named.get(name)
        if isinstance(value, str | int):
            if not is_printable(text := str(value).strip()):
                raise NerpError(f"{where}: {brief(text)} is no {name}: it holds control codes or "
                                "what is no character")
            return text
    raise NerpError(f"{where}: no column {' or '.join(names)}; there are: {', '.join(named)}")
