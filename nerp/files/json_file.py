"""JSON files, gzipped or plain, and checks of a record's fields."""

import gzip
import io
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeGuard

from nerp.base.errors import NerpError
from nerp.base.printable import brief
from nerp.files.opening import MIB, read_bytes, reading

_LARGEST = 64 * MIB  # unpacked; no JSON file holds the list of ImageNet's 1.3 million images
_DEEPEST = 50
# Half of a surrogate pair, which is not a character: as a JSON escape, or in UTF-8.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")

Check = Callable[[object], bool]
Fields = Mapping[str, tuple[Check, str]]


def read_json(path: str | Path) -> dict[str, object]:
    """The JSON object in a file, gzipped or plain.

    Raises NerpError, naming the file, if it is missing, not JSON or not an object, or holds
    numbers that are not finite.
    """
    data = read_bytes(path, _LARGEST)
    with reading(path, "a readable JSON file"):
        if data[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(data)) as file:
                data = file.read(_LARGEST + 1)
            if len(data) > _LARGEST:
                raise ValueError(f"it unpacks to more than {_LARGEST:,} bytes")
        content = json.loads(data, parse_constant=_not_finite, parse_float=_finite)
        if _SURROGATE.search(data):
            json.dumps(content, ensure_ascii=False).encode()  # UnicodeEncodeError for a lone half
        if not isinstance(content, dict):
            raise ValueError(f"it holds {brief(content)}, not an object")
        _check_depth(content)
    return content


def check_fields(
    content: Mapping[str, object], fields: Fields, optional: Fields, where: str
) -> None:
    """Raise NerpError if a field of a record is missing or has a wrong value.

    Args:
        fields, optional: name -> (whether a value fits, what fits in words).
    """
    for name, (fits, takes) in {**fields, **optional}.items():
        if name not in content and name in optional:
            continue
        if name not in content:
            raise NerpError(f"{where}: there is no {name}")
        if not fits(content[name]):
            raise NerpError(f"{where}: {name} is {brief(content[name])}; it takes {takes}")


def is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str)


def is_node(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)


def is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**63


def is_percent(value: object) -> TypeGuard[float]:
    return is_number(value) and 0 <= value <= 100


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a number that a float can hold."""
    return (type(value) is int or type(value) is float) and abs(value) <= sys.float_info.max


def _not_finite(word: str) -> float:
    raise ValueError(f"{word} is not a finite number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _not_finite(text)


def _check_depth(value: object, left: int = _DEEPEST) -> None:
    if not left:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            if isinstance(inner, dict | list):
                _check_depth(inner, left - 1)
