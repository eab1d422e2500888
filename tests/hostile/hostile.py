"""What strangers may send, made by class: files that are none, bombs, flipped bits, fields of
another type. Tests take all of a class, so that a reader or a key that is new meets them too.

What is drawn at random is the same in every run; NERP_TEST_SEED=7 draws other cases.
"""

import contextlib
import copy
import gzip
import io
import json
import math
import os
import random
import resource
import signal
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch

from nerp.base.errors import NerpError

MIB = 2**20
STRANGE = [None, True, -1, 3, 2**70, 1.5, "", "x", "\x1b[2J\n", "../../x", [], [[]], [None], {},
           {"a": {"a": []}}]


def drawing(seed: int | str = 0) -> random.Random:
    """A generator of cases: of this seed, and of the run's."""
    asked = os.environ.get("NERP_TEST_SEED", "")
    return random.Random(f"{asked} {seed}" if asked else seed)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _nested(path: Path) -> None:
    path.write_text("[" * 100_000)


def _aliases(path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    path.write_text("\n".join(lines))


def _merges(path: Path) -> None:
    lines = ["a0: &a0 {k: v, l: w}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12)]
    path.write_text("\n".join(lines))


@cache
def _zip_of_zeros() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("x/data.pkl", "logits.npy", "EuroSAT_train_image_mean.png"):
            with archive.open(name, "w") as member:
                for _ in range(200):
                    member.write(bytes(MIB))
    return content.getvalue()


@cache
def _gzip_of_spaces() -> bytes:
    return gzip.compress(b" " * 200 * MIB)


def _sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(2**40)


def _huge_picture(path: Path) -> None:
    """A PNG of 30,000 x 30,000 pixels in a few hundred bytes."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
                     + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


def _lying_array(path: Path) -> None:
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 8)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("logits.npy", content.getvalue() + bytes(64))


# Files that are nothing that any reader takes.
FILES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "folder": Path.mkdir,
    "pipe": _pipe,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "dead link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "empty": Path.touch,
    "zeros": lambda path: path.write_bytes(bytes(1000)),
    "noise": lambda path: path.write_bytes(drawing(1).randbytes(5000)),
    "not UTF-8": lambda path: path.write_bytes(b"a: \xff\xfe"),
    "a scalar": lambda path: path.write_text("3"),
    "a list": lambda path: path.write_text("[1, 2]"),
    "not finite": lambda path: path.write_text('{"accuracy": NaN, "x": 1e999}'),
    "nested": _nested,
    "aliases": _aliases,
    "merges": _merges,
    "holds itself": lambda path: path.write_text("&a [*a]"),
    "odd keys": lambda path: path.write_text("? [a, b]\n: 1\n3: 4\n"),
    "a date": lambda path: path.write_text("DATASET: {NAME: 2020-01-01}\n"),
    "python": lambda path: path.write_text('!!python/object/apply:os.system ["true"]\n'),
    "digits": lambda path: path.write_text("a: " + "9" * 100_000),
    "zip": lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)),
    "zip of zeros": lambda path: path.write_bytes(_zip_of_zeros()),
    "gzip of spaces": lambda path: path.write_bytes(_gzip_of_spaces()),
    "sparse": _sparse,
    "picture": _huge_picture,
    "lying array": _lying_array,
    "list of tensors": lambda path: torch.save([torch.ones(2)], path),
    "truncated": lambda path: path.write_bytes(_saved()[:-200]),
}


def _saved() -> bytes:
    content = io.BytesIO()
    torch.save({"state_dict": {"ctx": torch.ones(4, 8)}}, content)
    return content.getvalue()


# Planted at a place: what leads to a file or a folder outside, what leads nowhere, what waits.
PLANTED: dict[str, Callable[[Path, Path], object]] = {
    "a link to a file": lambda place, outside: place.symlink_to(outside / "keys"),
    "a link to no file": lambda place, outside: place.symlink_to(outside / "new"),
    "a link to a folder": lambda place, outside: place.symlink_to(outside),
    "a link that leads nowhere": lambda place, outside: place.symlink_to("nowhere/at/all"),
    "a link to itself": lambda place, outside: place.symlink_to(place.name),
    "a pipe": lambda place, outside: os.mkfifo(place),
}


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """What is in a folder: kind and content of each entry."""
    return {str(path.relative_to(folder)): (path.lstat().st_mode, path.read_bytes()
                                            if path.is_file() else b"")
            for path in folder.rglob("*")}


def flips(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """`data` with one bit changed, `count` times at another place."""
    generator = drawing(seed)
    for _ in range(count):
        changed = bytearray(data)
        changed[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        yield bytes(changed)


def other_types(content) -> Iterator[tuple[str, object]]:
    """A tree of JSON or YAML with one node replaced or left out, in every way; and where it was."""
    for path in _places(content):
        where = ".".join(map(str, path))
        yield from ((f"{where} = {value!r:.30}", _replaced(content, path, value))
                    for value in STRANGE)
        yield f"{where} left out", _replaced(content, path, _LEFT_OUT)


def _places(content, path: tuple = ()) -> Iterator[tuple]:
    """Where the nodes of a tree are; of a list the first two."""
    inner = content if isinstance(content, dict) else range(
        min(len(content), 2) if isinstance(content, list) else 0)
    for step in inner:
        yield (*path, step)
        yield from _places(content[step], (*path, step))


_LEFT_OUT = object()


def _replaced(content, path: tuple, value: object):
    changed = copy.deepcopy(content)
    node = changed
    for step in path[:-1]:
        node = node[step]
    if value is _LEFT_OUT:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return changed


class Hangs(BaseException):
    """Raised in what takes too long; no handler of errors takes it for one of a bad file."""


@contextlib.contextmanager
def bounded(seconds: int = 120, mib: int = 700) -> Iterator[None]:
    """What is done in here takes no longer than that, and no more memory."""

    def give_up(*_):
        raise Hangs(f"{seconds} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
    swollen = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert swollen < mib, f"it swells: {swollen:.0f} MiB"


def is_one_line(error: NerpError | str) -> bool:
    """Whether that is what a user is told: a line, not a traceback."""
    text = str(error).strip()
    return 0 < len(text) < 2000 and text.isprintable() and "Traceback" not in text


def same(one, other) -> bool:
    """Whether two trees of plain values and tensors are the same, number for number."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(
            same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(
            same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and \
            torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return one == other or (isinstance(one, float) and math.isnan(one))


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))
