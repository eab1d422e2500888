"""Tables of images: CSV (commas, semicolons or tabs) with a header, or JSON lines."""

import csv
import json
from pathlib import Path
from typing import NamedTuple

from nerp.errors import NerpError
from nerp.files.opening import read_text
from nerp.paths import is_inside

SUFFIXES = (".csv", ".tsv", ".jsonl")
# What a column may be called.
_PATH = ("path", "file_name", "filename", "file", "image")
_LABEL = ("label", "class", "classname", "category")
_SPLIT = ("split", "subset", "set")
_SPLITS = {"validation": "val", "valid": "val", "dev": "val", "training": "train"}


class Row(NamedTuple):
    """One line: an image's path, its label as text, its split ("" where none is stated), and
    where it stands, for messages."""

    path: str
    label: str
    split: str
    where: str


def read_rows(file: Path) -> list[Row]:
    """The lines of a table. Raises NerpError, naming file and line, for what is not one."""
    text = read_text(file).removeprefix("\ufeff")  # spreadsheets put a mark at the beginning
    rows = _json_lines(text, file) if file.suffix == ".jsonl" else _csv_lines(text, file)
    return [_row(values, f"{file}, line {number}") for number, values in rows]


def _csv_lines(text: str, file: Path) -> list[tuple[int, dict]]:
    header = text.partition("\n")[0]
    reader = csv.DictReader(text.splitlines(), delimiter=max(",;\t", key=header.count), strict=True)
    try:
        return [(reader.line_num, line) for line in reader]
    except csv.Error as error:
        raise NerpError(f"{file}, line {reader.line_num}: {error}") from None


def _json_lines(text: str, file: Path) -> list[tuple[int, dict]]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rows.append((number, dict(json.loads(line))))
            except (ValueError, TypeError, RecursionError):
                raise NerpError(f"{file}, line {number}: not a JSON object") from None
    return rows


def _row(values: dict, where: str) -> Row:
    named = {str(name).strip().lower(): value for name, value in values.items() if name}
    path, label = (_text(named, names, where) for names in (_PATH, _LABEL))
    split = _text(named, _SPLIT, where) if any(name in named for name in _SPLIT) else ""
    if not path or not is_inside(path):
        raise NerpError(f"{where}: {path!r} is no path inside the image folder")
    if not label:
        raise NerpError(f"{where}: there is no label")
    return Row(path, label, _SPLITS.get(split.lower(), split.lower()), where)


def _text(named: dict, names: tuple[str, ...], where: str) -> str:
    for name in names:
        value = named.get(name)
        if isinstance(value, str | int):
            return str(value).strip()
    raise NerpError(f"{where}: no column {' or '.join(names)}; there are: {', '.join(named)}")
