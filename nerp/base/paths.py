"""Where the files that ship with the package are, and how a file is written whole or not at all."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nerp.base.beside import AnyPath, check_folder, disk_error, lock, open_left
from nerp.base.errors import DiskError, NerpError
from nerp.base.printable import has_control_codes

_PACKAGE = Path(__file__).resolve().parents[1]
_PARTIAL = ".partial"  # the end of a temporary file's name


def shipped(name: str) -> Path:
    """The folder `configs` or `datasets`: beside the package in a checkout, in it in a wheel."""
    checkout = _PACKAGE.parent
    return (checkout if (checkout / "pyproject.toml").is_file() else _PACKAGE / "shipped") / name


def shipped_name(path: str | os.PathLike[str]) -> str:
    """A file of the shipped folders in the form in which it is typed
    (configs/trainers/MMRL/vit_b16.yaml); any other path unchanged."""
    path = Path(path)
    for name in ("configs", "datasets"):
        if path.is_relative_to(shipped(name)):
            return str(name / path.relative_to(shipped(name)))
    return str(path)


@contextlib.contextmanager
def replacing(path: AnyPath, within: AnyPath | None = None) -> Iterator[Path]:
    """Yield a temporary file beside `path`. If the context ends without an error, it becomes
    `path`.

    A reader sees the old file or the new one, never a part; after an error the old one stays.
    Leftovers of the same file from a killed process are removed.

    Args:
        within: the given folder that contains `path` (see `check_folder`); None: the file's own
            folder.

    Raises DiskError, naming the file and the free space, if it cannot be written.
    """
    path = Path(path)
    partial = None
    try:
        check_folder(path.parent, path.parent if within is None else within)
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_partials(path.parent, path.name)
        handle, partial = _locked_partial(path)
        try:
            yield partial
            partial.chmod(0o666 & ~_umask())
            partial.replace(path)
        finally:
            os.close(handle)
    except DiskError:
        raise
    except OSError as error:
        raise disk_error(path, error, _size(partial)) from None
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def write_bytes(path: AnyPath, data: bytes, within: AnyPath | None = None) -> None:
    """Write `data` to `path`, whole or not at all. `within` is as in `replacing`. Raises DiskError,
    which also says how much space is needed."""
    with replacing(path, within) as partial:
        try:
            partial.write_bytes(data)
        except OSError as error:
            raise disk_error(path, error, len(data)) from None


def write_text(path: AnyPath, text: str, within: AnyPath | None = None) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all."""
    write_bytes(path, text.encode(), within)


def clear_partials(directory: Path, name: str = "") -> None:
    """Remove the temporary files of `name` (by default of every file) that killed processes left in
    a folder. Files that are being written stay."""
    pattern = re.compile(rf"\.{re.escape(name) if name else '.+'}\.[a-z0-9_]{{8}}{_PARTIAL}")
    with contextlib.suppress(OSError):
        left = [entry.path for entry in os.scandir(directory) if pattern.fullmatch(entry.name)]
        for path in left:
            with contextlib.suppress(OSError), open_left(path) as file:
                if lock(file, wait=False):  # a process that is writing the file has it locked
                    os.unlink(path)


def _locked_partial(path: Path) -> tuple[int, Path]:
    """A new temporary file beside `path`, locked for as long as its handle is open."""
    while True:
        handle, name = tempfile.mkstemp(_PARTIAL, f".{path.name}.", path.parent)
        lock(handle)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # another process took the file for a leftover and removed it


@contextlib.contextmanager
def holding(directory: AnyPath) -> Iterator[None]:
    """Hold a folder, made if it does not exist, for as long as the context lasts. A process that is
    killed releases it. If the folder is empty at the end, it is removed.

    Raises NerpError if another process holds it.
    """
    directory = Path(directory)
    new = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise disk_error(directory, error) from None
    try:
        if not lock(handle, wait=False):
            raise NerpError(f"another command is at work in {directory}")
        yield
    finally:
        os.close(handle)
        for folder in new:
            with contextlib.suppress(OSError):
                folder.rmdir()  # fails if the folder is not empty


def is_inside(path: str) -> bool:
    """Whether a path from outside stays in the folder it is joined to.

    A backslash counts as a slash, because Windows programs write such paths.
    """
    parts = path.replace("\\", "/").split("/")
    return not has_control_codes(path) and ".." not in parts and (not path or parts[0] != "")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _size(path: Path | None) -> int:
    try:
        return path.stat().st_size if path else 0
    except OSError:
        return 0
