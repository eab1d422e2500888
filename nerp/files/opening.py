"""Opening a file that is not trusted: it must be regular and no larger than its kind can be."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nerp.base.beside import AnyPath
from nerp.base.errors import NerpError
from nerp.base.printable import printable

MIB = 2**20
_SHOWN = 160  # characters of another library's message

# The file that was opened last, for the message about an error that nobody foresaw.
_last: list[str] = []


@contextlib.contextmanager
def opened(path: AnyPath) -> Iterator[BinaryIO]:
    """The regular file at `path`, open for reading; a pipe or a device is not waited for.

    Raises NerpError, naming the file, if there is none or it cannot be read.
    """
    name = os.fspath(path)
    _last[:] = [name]
    try:
        # Without O_NONBLOCK to open a pipe waits until something writes to it.
        handle = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        what = "a link that leads nowhere" if os.path.islink(name) else "no such file"
        raise NerpError(f"{name}: {what}") from None
    except (OSError, ValueError) as error:
        raise NerpError(f"{name}: {reason(error)}") from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise NerpError(f"{name}: {what}, not a file")
    with open(handle, "rb") as file:
        yield file


def read_bytes(path: AnyPath, most: int) -> bytes:
    """The content of a file of at most `most` bytes. Raises NerpError as `opened` does."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise NerpError(f"{path}: {size:,} bytes, more than a file of its kind has "
                            f"({most:,} at most)")
        try:
            return file.read(most)
        except OSError as error:
            raise NerpError(f"{path}: {reason(error)}") from None


def read_text(path: AnyPath, most: int = 64 * MIB) -> str:
    """The content of a UTF-8 file. Raises NerpError, naming it, for one that is not."""
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError:
        raise NerpError(f"{path}: not a text file in UTF-8") from None


def read_end(path: AnyPath, most: int) -> str:
    """The last `most` bytes of a text file; bytes that are not UTF-8 are replaced. Raises NerpError
    as `opened` does."""
    with opened(path) as file:
        file.seek(-min(most, os.fstat(file.fileno()).st_size), os.SEEK_END)
        return file.read(most).decode(errors="replace")


@contextlib.contextmanager
def reading(path: AnyPath, what: str) -> Iterator[None]:
    """Any error in this context becomes NerpError: "`path`: not `what`".

    This is for libraries that raise errors of many kinds on damaged files, and for content that
    does not fit its use.
    """
    _last[:] = [os.fspath(path)]
    try:
        yield
    except NerpError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise NerpError(f"{path}: there is not enough memory for what it holds, or says that "
                            "it holds") from error
        raise NerpError(f"{path}: not {what} ({reason(error)})") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python's, numpy's or torch's says that memory ran out."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "not enough memory" in str(error))


def last_opened() -> str:
    """The file that was opened last; "" if none was."""
    return _last[0] if _last else ""


def reason(error: BaseException) -> str:
    """An error's own text, in one line."""
    text = getattr(error, "strerror", None) or str(error)
    kind = type(error).__name__
    if isinstance(error, LookupError | RecursionError | MemoryError):  # "'x'" alone says little
        text = f"{kind}: {text}" if text else kind
    return printable(" ".join(text.split()))[:_SHOWN] or kind


def regular(path: AnyPath) -> Path:
    """`path`, for a library that opens it itself. Raises NerpError as `opened` does."""
    with opened(path):
        return Path(path)
