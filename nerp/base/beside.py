"""Opens files and makes folders at places that may belong to a stranger.

A run, a dataset or a folder of outputs may come from somebody who put a link or a pipe where one of
the package's own files belongs. This module opens the files that are locked or appended to. It
follows no link, accepts only a regular file, never waits for a pipe, and keeps a file's content.
It also makes folders; none of them may be a link that leads out of the given folder. (A file that
is written whole replaces whatever is in its place: see `nerp.base.paths`.)
"""

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from nerp.base.errors import DiskError

AnyPath = str | os.PathLike[str]


def disk_error(path: AnyPath, error: OSError, needed: int = 0) -> DiskError:
    """The error for a file that cannot be written. needed: its size in bytes, 0 if unknown."""
    path = Path(path)
    text = f"{path}: cannot be written: {error.strerror or error}"
    if error.errno == errno.EFBIG:
        text += f" ({needed:,} bytes needed; ulimit -f shows the limit)"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        folder = next(parent for parent in (path, *path.parents) if parent.is_dir())
        free = shutil.disk_usage(folder).free
        text += f" ({needed:,} bytes needed, {free:,} left in {folder})"
    found = DiskError(text)
    found.errno = error.errno
    return found


def open_appended(path: AnyPath) -> BinaryIO:
    """The file at `path`, made if it does not exist, for appending.

    Raises DiskError if that cannot be done, or if a link, a pipe or a folder is in its place.
    """
    return os.fdopen(_open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab")


def open_locked(path: AnyPath) -> BinaryIO:
    """The file at `path`, made if it does not exist, to be locked by `lock`; its content is not
    changed.

    Raises DiskError as `open_appended` does.
    """
    return os.fdopen(_open(path, os.O_RDWR | os.O_CREAT), "rb+")


def open_left(path: AnyPath) -> BinaryIO:
    """The file that a process left at `path`. Raises DiskError as `open_appended` does, and if
    there is none."""
    return os.fdopen(_open(path, os.O_RDONLY), "rb")


def _open(path: AnyPath, flags: int) -> int:
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        # ENXIO: a pipe that nobody reads, or a socket.
        if os.path.lexists(path) and error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _in_the_way(path) from None
        raise disk_error(path, error) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _in_the_way(path)
    return handle


def _in_the_way(path: AnyPath) -> DiskError:
    found = "a link" if os.path.islink(path) else "a folder" if os.path.isdir(path) else \
        "a pipe or a device"
    return DiskError(f"{path}: {found}, where a file is to be written; remove it")


def make_folder(folder: AnyPath, within: AnyPath) -> Path:
    """`folder`, made together with the folders between it and the given folder `within`.

    Raises DiskError if it cannot be made, or if one of them is a link that leads out of `within`.
    """
    folder, within = Path(folder), Path(within)
    check_folder(folder, within)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(folder, error) from None
    return folder


def check_folder(folder: AnyPath, within: AnyPath) -> None:
    """Raise DiskError if `folder`, or a folder between it and the given folder `within`, is a link
    that leads out of `within`."""
    root, place = os.path.realpath(within), Path(within)
    for part in Path(folder).relative_to(within).parts:
        place = place / part
        if place.is_symlink() and not Path(os.path.realpath(place)).is_relative_to(root):
            raise DiskError(f"{place}: a link that leads out of {within}, and nothing is written "
                            "through it; remove it")


def fresh_folder(folder: AnyPath) -> Path:
    """`folder`, new and empty; whatever was in its place is removed. Raises DiskError if the folder
    cannot be made."""
    folder = Path(folder)
    remove(folder)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise disk_error(folder, error) from None
    return folder


def own_folder(folder: AnyPath) -> Path:
    """`folder`, made if it does not exist. Its content stays if it has only folders and regular
    files; otherwise it is emptied. Raises DiskError if it cannot be made."""
    folder = Path(folder)
    inside = [Path(at, name) for at, folders, files in os.walk(folder)
              for name in (*folders, *files)]
    modes = [path.lstat().st_mode for path in (folder, *inside) if os.path.lexists(path)]
    if not all(stat.S_ISDIR(mode) or stat.S_ISREG(mode) for mode in modes) or (
            modes and not stat.S_ISDIR(modes[0])):
        remove(folder)
    return make_folder(folder, folder)


def remove(path: AnyPath) -> None:
    """Remove a file, a link, or a folder with its content, as far as possible."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def alone(path: AnyPath) -> Iterator[None]:
    """Hold the lock file `path`, which only one process at a time can hold. A process that is
    killed releases it. Raises DiskError as `open_locked` does."""
    with open_locked(path) as file:
        lock(file)
        yield


def lock(file: int | IO[bytes], wait: bool = True) -> bool:
    """Take the lock of an open file. The lock ends with the process, however the process ends. On
    a file system without locks, every process gets it.

    Returns False if another process has the lock and `wait` is False.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
