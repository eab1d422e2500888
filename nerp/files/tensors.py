"""Files of tensors: torch's, TorchScript archives, safetensors. Nothing in them is executed.

A torch file is a zip archive: a pickle describes the tensors, and one record per storage has the
numbers. Before torch 1.6 a file is several pickles, followed by the numbers. A TorchScript archive
is a zip archive with the pickle of a module and with code; the code is ignored.
"""

import io
import math
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from nerp.files.opening import MIB, opened, reading, regular
from nerp.files.unpickle import Described, Inert, Storage, plain, unpickle

_LARGEST_PICKLE = 64 * MIB
_MOST_RECORDS = 100_000
_MOST_VIEWS = 16  # the tensors' total size at most, in times the size of their storages
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

Load = Callable[[Storage], Tensor]


def load_inert(path: str | Path) -> object:
    """The tensors and plain values in a torch file, on the CPU; nothing in it is executed.

    Published checkpoints pickle optimiser and scheduler objects beside their tensors; such objects
    are left out. The content of a TorchScript archive is {name: tensor}, the parameters and buffers
    of its modules. Every record's checksum is compared, if the file has checksums (since torch
    1.6).

    Raises NerpError, naming the file, if it is missing, damaged or not a torch file.
    """
    with opened(path) as file, reading(path, "a readable torch file, or a damaged one"):
        if file.read(2) == b"PK":
            return _read_zip(file)
        file.seek(0)
        return _read_legacy(file)


def load_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises NerpError, naming the file, if it is missing or damaged.
    """
    from safetensors import safe_open

    with (
        reading(path, "a readable safetensors file"),
        safe_open(regular(path), framework="pt") as content,
    ):
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        return tensors, content.metadata() or {}


def _read_zip(file: BinaryIO) -> object:
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        names = {record.filename: record for record in records}
        size = file.seek(0, os.SEEK_END)
        if len(records) > _MOST_RECORDS or len(names) < len(records):
            raise ValueError("it has too many records, or two of one name")
        root = f"{records[0].filename.split('/')[0]}/" if records else ""
        if f"{root}data.pkl" not in names:
            raise ValueError("it has no data.pkl")
        order = names.get(f"{root}byteorder")
        if order and archive.read(order).decode() != sys.byteorder:
            raise ValueError("its numbers are of a machine with another order of bytes")
        left = size  # torch does not compress numbers, so they take their full size in the file

        def load(storage: Storage) -> Tensor:
            nonlocal left
            record = names[f"{root}data/{storage.key}"]
            left -= record.file_size
            if record.compress_type != zipfile.ZIP_STORED or left < 0:
                raise ValueError("its numbers are compressed")
            numbers = torch.empty(record.file_size, dtype=torch.uint8)
            with archive.open(record) as content:  # which compares the checksum
                assert isinstance(content, zipfile.ZipExtFile)  # true of all records read this way
                read = content.readinto(numbers.numpy().data) if len(numbers) else 0
                if read < len(numbers) or content.read(1):
                    raise EOFError("a record ends too soon")
            return numbers

        with archive.open(names[f"{root}data.pkl"]) as described:
            pickled = described.read(_LARGEST_PICKLE + 1)
        if len(pickled) > _LARGEST_PICKLE:
            raise ValueError("its data.pkl is too large")
        content = unpickle(io.BytesIO(pickled))
        tensor = _tensors(load)
        if f"{root}constants.pkl" in names:
            return dict(_module_tensors(content, tensor))
        return plain(content, tensor)


def _module_tensors(
    module: object, tensor: Callable[[Described], Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a module and of those in it, under their names in its state dict."""
    left = _MOST_RECORDS

    def walk(module: object, prefix: str) -> Iterator[tuple[str, Tensor]]:
        nonlocal left
        state = module.state if isinstance(module, Inert) else None
        left -= 1
        if left < 0 or prefix.count(".") > 50:
            raise ValueError("it holds too many modules, or nests them too deeply")
        for name, value in state.items() if isinstance(state, dict) else ():
            if isinstance(value, Described):
                yield f"{prefix}{name}", tensor(value)
            elif isinstance(value, Inert):
                yield from walk(value, f"{prefix}{name}.")

    return walk(module, "")


def _read_legacy(file: BinaryIO) -> object:
    if unpickle(file) != _LEGACY_MAGIC:
        raise ValueError("it does not begin as a torch file does")
    unpickle(file)  # the protocol; the next pickle describes the machine
    machine = unpickle(file)
    order = machine.get("little_endian") if isinstance(machine, dict) else None
    if order is not (sys.byteorder == "little"):
        raise ValueError("its numbers are of a machine with another order of bytes")
    content = unpickle(file)
    start, end = file.tell(), file.seek(0, os.SEEK_END)
    places: dict[str, tuple[int, int]] = {}
    file.seek(start)
    keys = unpickle(file)
    if not isinstance(keys, list):
        raise ValueError("it does not list its storages")
    place = file.tell()
    sizes: dict[str, int] = {}
    # The storages follow each other: a count, then that many numbers of the type in the pickle.
    for storage in _storages(content):
        sizes[storage.key] = storage.dtype.itemsize
    for key in keys:
        file.seek(place)
        count = int.from_bytes(file.read(8), "little", signed=True)
        length = count * sizes.get(key, 1)
        places[key] = place + 8, length
        place += 8 + length
        if count < 0 or place > end or key not in sizes:
            raise EOFError("a storage ends too soon")

    def load(storage: Storage) -> Tensor:
        start, length = places[storage.key]
        file.seek(start)
        return torch.frombuffer(bytearray(file.read(length)), dtype=torch.uint8) if length \
            else torch.empty(0, dtype=torch.uint8)

    return plain(content, _tensors(load))


def _storages(content: object) -> list[Storage]:
    """The storages of all tensors in a pickle."""
    found: list[Storage] = []
    plain(content, lambda described: found.append(described.storage))
    return found


def _tensors(load: Load) -> Callable[[Described], Tensor]:
    """A function from descriptions to tensors; each storage is read when it is first needed.

    It raises ValueError if a tensor needs numbers that its storage does not have.
    """
    loaded: dict[str, tuple[Storage, Tensor]] = {}
    held = shown = 0  # bytes

    def tensor(described: Described) -> Tensor:
        nonlocal held, shown
        storage, shape, stride = described.storage, described.shape, described.stride
        whole = (described.offset, *shape, *stride)
        if not all(type(n) is int and n >= 0 for n in whole):
            raise ValueError("a tensor has an impossible offset, shape or stride")
        if storage.key not in loaded:
            loaded[storage.key] = storage, load(storage)
            held += len(loaded[storage.key][1])
        first, numbers = loaded[storage.key]
        if first != storage or storage.count * storage.dtype.itemsize != len(numbers):
            raise ValueError("a storage is not as large as it says")
        count = math.prod(shape)
        last = described.offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        shown += count * storage.dtype.itemsize
        if count > storage.count or (count and last >= storage.count) or \
                shown > _MOST_VIEWS * held:
            raise ValueError("a tensor is larger than what the file holds of it")
        if not count:
            return torch.empty(shape, dtype=storage.dtype)
        return numbers.view(storage.dtype).as_strided(shape, stride, described.offset)

    return tensor
