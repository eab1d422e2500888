"""Untrusted pickles: their plain values, and the descriptions of their tensors. Nothing is
executed.

Every class and function that a pickle names, except the few that describe a tensor, becomes an
empty placeholder. Placeholders are dropped from what is read.
"""

import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import torch

_MOST_VALUES = 1_000_000
_DEEPEST = 100

# Refused opcodes: extension registries, persistent ids as text, and protocol 5's buffers. A mutable
# buffer is allocated at the size that the file claims, before its content is seen.
_FORBIDDEN = (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.BYTEARRAY8,
              pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)

STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class Storage:
    """Where a tensor's numbers are: `count` numbers of a type, under a name in the file."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class Described:
    """A tensor as a pickle describes it, not yet looked at."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Inert:
    """A placeholder for an object of any class that a file names: it accepts anything, does
    nothing, and keeps its state."""

    state: object = None

    def __new__(cls, *args: object, **kwargs: object) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state

    def _ignore(self, *args: object, **kwargs: object) -> None:
        pass

    __call__ = __setitem__ = append = extend = add = update = _ignore


class _Dict(dict[object, object]):
    """An OrderedDict, without the attributes that a file may give it."""

    def __setstate__(self, state: object) -> None:
        pass


def _describe(
    storage: object, offset: int, shape: Iterable[int], stride: Iterable[int], *_: object
) -> Described | Inert:
    """Describes a tensor. A tensor of a kind that is not read here (sparse, of another type) is
    treated like any object.

    The numbers are whatever the file says. The function that makes the tensor checks them.
    """
    if not isinstance(storage, Storage):
        return Inert()
    return Described(storage, offset, tuple(shape), tuple(stride))


_KNOWN: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): _Dict,
    ("torch._utils", "_rebuild_tensor"): _describe,
    ("torch._utils", "_rebuild_tensor_v2"): _describe,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
    ("torch", "Size"): tuple,
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}


# Python's unpickler: the one in C allocates memory for whatever sizes a file claims.
class _Unpickler(pickle._Unpickler):
    dispatch = {code: load for code, load in pickle._Unpickler.dispatch.items()
                if code not in {forbidden[0] for forbidden in _FORBIDDEN}}

    def find_class(self, module: str, name: str) -> object:
        return _KNOWN.get((module, name), Inert)

    def persistent_load(self, saved_id: Sequence[object]) -> Storage | Inert:
        kind, dtype, key, _, count, *_ = saved_id
        if kind == "storage" and isinstance(dtype, torch.dtype) and type(count) is int:
            return Storage(str(key), dtype, count)
        return Inert()


def unpickle(file: BinaryIO) -> object:
    """The next pickle in a file, with `Described` for tensors and `Inert` for other objects.

    Raises whatever error a damaged pickle causes in Python.
    """
    return _Unpickler(file, encoding="utf-8").load()


def plain(value: object, tensor: Callable[[Described], object]) -> object:
    """`value` without placeholders, however deeply nested, and with tensors for their descriptions.
    Raises ValueError if it has more values than a checkpoint has, or contains itself."""
    left = _MOST_VALUES

    def walk(value: object, depth: int) -> object:
        nonlocal left
        left -= 1
        if left < 0 or depth > _DEEPEST:
            raise ValueError("it holds too many values, or nests them too deeply")
        if isinstance(value, Described):
            return tensor(value)
        if isinstance(value, dict):
            pairs = ((walk(key, depth + 1), walk(inner, depth + 1))
                     for key, inner in dict.items(value) if _is_plain(key) and _is_plain(inner))
            return dict(pairs)
        if isinstance(value, list | tuple):
            return type(value)(walk(inner, depth + 1) for inner in value if _is_plain(inner))
        return value

    return walk(value, 0)


def _is_plain(value: object) -> bool:
    plain = (bool, int, float, complex, str, bytes, type(None), dict, list, tuple)
    return isinstance(value, (*plain, Described))
