"""Where the files that ship with the package are, and how a file is written whole or not at all."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nerp.printable import has_control_codes

_PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """The folder `configs` or `datasets`: beside the package in a checkout, in it in a wheel."""
    checkout = _PACKAGE.parent
    return (checkout if (checkout / "pyproject.toml").is_file() else _PACKAGE / "shipped") / name


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary file beside `path`; on leaving without an error it becomes `path`.

    A reader sees the old file or the new one, never a part; an error leaves the old one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def file_digest(path: str | os.PathLike) -> str:
    """16 hex digits of a file's content."""
    content = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            content.update(block)
    return content.hexdigest()[:16]


def is_inside(path: str) -> bool:
    """Whether a path that comes from outside stays in the folder that it is joined to.

    A backslash counts as a slash: Windows programs write such paths.
    """
    parts = path.replace("\\", "/").split("/")
    return not has_control_codes(path) and ".." not in parts and (not path or parts[0] != "")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
