"""Unpacking archives that are not trusted.

Only folders and regular files are ever made, and only inside the target folder. A link is stored as
a copy of the file it names in the same archive. These are refused: a name or a link that leads
elsewhere, a device, and content that is much larger than images can plausibly be.
"""

import bz2
import errno
import gzip
import io
import lzma
import os
import posixpath
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from tqdm import tqdm

from nerp.base.errors import NerpError
from nerp.files.opening import opened

# Images are compressed already and hardly grow; a bomb of zeros grows a thousandfold.
_MAX_GROWTH = 20
_ALWAYS_ALLOWED = 64 * 2**20  # bytes; small archives of text grow more

_LONGEST_PATH = 4096
_MAX_DEPTH = 50  # folders; far below the depth at which removing them by recursion fails
_BLOCK = 2**20
_MOST_PADDING = 2**26  # bytes; a tar is padded to a whole block of a tape

_DECOMPRESSORS: dict[bytes, Callable[[Path], io.BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile, b"BZh": bz2.BZ2File, b"\xfd7zXZ": lzma.LZMAFile,
}


class _Member(NamedTuple):
    """One entry: its name, its kind (a `stat.S_IF...`), its size in bytes, its content; for a
    link, the name in the archive that it leads to."""

    name: str
    kind: int
    size: int
    open: Callable[[], IO[bytes]]
    link: str = ""


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip or a tar (plain, gz, bz2 or xz), whatever its file name, into the new folder
    `target`.

    Raises NerpError for an archive that is damaged or hostile, and OSError if the disk is full. The
    caller then removes what `target` holds.
    """
    with opened(archive) as file:
        is_zip = file.read(2) == b"PK"
        limit = max(_ALWAYS_ALLOWED, _MAX_GROWTH * os.fstat(file.fileno()).st_size)
    target.mkdir(parents=True)
    try:
        _write(_zip_members(archive) if is_zip else _tar_members(archive, limit), target, limit)
    except NerpError as error:
        raise NerpError(f"{archive}: refused: {error}") from None
    except Exception as error:  # damaged archives raise all sorts
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NerpError(f"{archive}: cannot be unpacked: {reason}") from None


def _write(members: Iterator[_Member], target: Path, limit: int) -> None:
    links: dict[Path, Path] = {}
    for member in tqdm(members, "unpacking", unit=" files", disable=None, leave=False):
        path = target / _inside(member.name)
        if member.kind == stat.S_IFDIR:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if member.kind == stat.S_IFLNK:
            links[path] = target / _inside(member.link)
        elif member.kind == stat.S_IFREG:
            limit -= member.size
            _check_size(limit)
            if member.size > shutil.disk_usage(target).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            with member.open() as content, open(path, "wb") as file:
                shutil.copyfileobj(content, file, _BLOCK)
        else:
            raise NerpError(f"it holds a device, {member.name!r}")
    for path, origin in links.items():
        if not origin.is_file():
            raise NerpError(f"it holds a link to no file of its own, {path.relative_to(target)}")
        limit -= origin.stat().st_size
        _check_size(limit)
        shutil.copyfile(origin, path)


def _inside(name: str) -> Path:
    """`name` as a path below the folder it is unpacked into. Raises NerpError for one that is not.

    A backslash counts as a slash: Windows programs write such names.
    """
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or ".." in parts or re.match("[A-Za-z]:", name):
        raise NerpError(f"it names a file outside its folder, {name!r}")
    if len(parts) > _MAX_DEPTH:
        raise NerpError(f"it nests {len(parts)} folders")
    return Path(*parts)


def _check_size(left: int) -> None:
    if left < 0:
        raise NerpError(f"it unpacks to more than {_MAX_GROWTH} times its size")


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind, link = stat.S_IFMT(info.external_attr >> 16) or stat.S_IFREG, ""
            if info.is_dir():
                kind = stat.S_IFDIR
            elif kind == stat.S_IFLNK:
                with file.open(info) as content:
                    link = _target(info.filename, content.read(_LONGEST_PATH).decode())
            yield _Member(info.filename, kind, info.file_size, partial(file.open, info), link)


def _tar_members(archive: Path, limit: int) -> Iterator[_Member]:
    with open(archive, "rb") as file:
        start = file.read(6)
    fitting = (f for magic, f in _DECOMPRESSORS.items() if start.startswith(magic))
    with next(fitting, _plain)(archive) as content:
        stream = _Metered(content, limit)
        tape: tarfile.TarFile
        with tarfile.open(fileobj=stream, mode="r|") as tape:  # type: ignore[call-overload]  # only read
            for info in tape:
                kind, link = stat.S_IFCHR, ""
                if info.isreg():
                    kind = stat.S_IFREG
                elif info.isdir():
                    kind = stat.S_IFDIR
                elif info.issym() or info.islnk():
                    kind = stat.S_IFLNK
                    link = _target(info.name, info.linkname) if info.issym() else info.linkname
                yield _Member(info.name, kind, info.size, partial(_content, tape, info), link)
        # tarfile stops at the first damaged header as if the archive ended there. After a true end
        # come only zeros, and a compressed stream's checksum.
        padding = 0
        while rest := stream.read(_BLOCK):
            if rest.strip(b"\0"):
                raise tarfile.ReadError("it is damaged in the middle")
            padding += len(rest)
            if padding > _MOST_PADDING:
                raise NerpError("it ends in more zeros than an archive does")


def _plain(archive: Path) -> io.BufferedIOBase:
    return open(archive, "rb")


def _content(tape: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = tape.extractfile(info)
    assert content is not None  # this is only called for files
    return content


def _target(name: str, link: str) -> str:
    """The name in the archive that the symbolic link `name` leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), link))


class _Metered:
    """A stream that stops after `limit` bytes: headers can be bombs as well as files."""

    def __init__(self, stream: io.BufferedIOBase, limit: int):
        self.stream = stream
        self.left = limit

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.left -= len(data)
        _check_size(self.left)
        return data
