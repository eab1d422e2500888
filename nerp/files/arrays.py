"""npz files: named arrays of numbers and texts, with sizes checked before reading."""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nerp.base.errors import NerpError
from nerp.files.opening import MIB, opened, reading

_MOST_GROWTH = 100  # times; compression hardly shrinks logits, but it shrinks padded paths
_ALWAYS_ALLOWED = 64 * MIB
_MOST_MEMBERS = 1000
_LARGEST_HEADER = 10_000  # bytes; numpy's own limit


class Kind(NamedTuple):
    """What an array must be: its `dtype.kind`, one of several, and its number of axes.

    Numbers of the kinds c and f must be finite.
    """

    kinds: str
    axes: int


FLOATS, WHOLE, TEXTS = "f", "iu", "U"
Array = npt.NDArray[Any]  # of the file's dtype, one of those that a `Kind` allows


def read_arrays(
    path: str | Path, wanted: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None
) -> dict[str, Array]:
    """The `wanted` arrays of an npz file, those of `optional` that it has, and no others.

    Every checksum is compared. Raises NerpError, naming the file, if it is missing or damaged, or
    an array is missing, of another kind or not finite.
    """
    kinds = {**(optional or {}), **wanted}
    with (
        opened(path) as file,
        reading(path, "a readable npz file, or a damaged one"),
        zipfile.ZipFile(file) as archive,
    ):
        members = archive.infolist()
        size = file.seek(0, 2)
        if len(members) > _MOST_MEMBERS:
            raise ValueError(f"{len(members)} arrays")
        if sum(m.file_size for m in members) > max(_ALWAYS_ALLOWED, _MOST_GROWTH * size):
            raise ValueError(f"it unpacks to more than {_MOST_GROWTH} times its size")
        names = {m.filename.removesuffix(".npy"): m for m in members}
        missing = [name for name in wanted if name not in names]
        if missing:
            raise NerpError(f"{path}: it has no {', '.join(missing)}")
        arrays = {}
        for name in kinds.keys() & names.keys():
            with archive.open(names[name]) as member:
                arrays[name] = _read(member)
    for name, array in arrays.items():
        _check(array, kinds[name], f"{path}: {name}")
    return arrays


def _read(member: IO[bytes]) -> Array:
    version = np.lib.format.read_magic(member)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else \
        np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(member, _LARGEST_HEADER)
    if dtype.hasobject:
        raise ValueError("it holds objects")
    count = math.prod(shape)
    data = member.read()
    if min(shape, default=0) < 0 or len(data) != count * dtype.itemsize:
        raise ValueError("an array is not as large as it says")
    array = np.frombuffer(bytearray(data), dtype, count)
    return array.reshape(shape, order="F" if fortran else "C")


def _check(array: Array, kind: Kind, where: str) -> None:
    native = array.dtype.isnative
    if array.dtype.kind not in kind.kinds or array.ndim != kind.axes or not native:
        raise NerpError(f"{where} is {array.dtype} {list(array.shape)}; it takes "
                        f"{kind.axes} axes of {_WORDS[kind.kinds]}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        first = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
        raise NerpError(f"{where} holds numbers that are not finite (first: {first})")


_WORDS = {FLOATS: "numbers", WHOLE: "whole numbers", TEXTS: "texts"}
