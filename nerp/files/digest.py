"""The digest of a file's content. For a large file it is computed once and kept under the file's
size and times."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from nerp.base.beside import AnyPath
from nerp.base.errors import DiskError, NerpError
from nerp.base.paths import write_text
from nerp.files.json_file import read_json
from nerp.files.opening import opened

_LARGE = 2**25  # bytes; a smaller file is read in less time than the note would take
_LARGEST = 2**35  # bytes; to read more would take minutes
_MOST_KEPT = 200
# A file that changed so short a time ago, in seconds, may change again within one tick of its
# file system's clock.
SETTLED = 2.0

T = TypeVar("T")


def file_digest(path: AnyPath) -> str:
    """16 hex digits of a file's content. Raises NerpError where it cannot be read."""
    content = hashlib.sha256()
    with opened(path) as file:
        # No more memory than a small file needs: to get a whole block takes longer than to hash it.
        most = min(2**20, os.fstat(file.fileno()).st_size + 1)
        while block := file.read(most):
            content.update(block)
    return content.hexdigest()[:16]


def bytes_digest(data: bytes) -> str:
    """`file_digest` of a file with this content."""
    return hashlib.sha256(data).hexdigest()[:16]


def content_digest(path: str | Path) -> str:
    """16 hex digits of the content of a file; "" if there is none. Raises NerpError if it cannot be
    read."""
    path = Path(path).expanduser()
    state = _state(path)
    if state is None:
        return ""
    if state.size > _LARGEST:
        raise NerpError(f"{path}: {state.size:,} bytes, more than any file of weights has "
                        f"({_LARGEST:,} at most)")
    if state.size < _LARGE or not state.is_settled:
        return file_digest(path)
    return _digest(*state)


def read_digested(path: Path, read: Callable[[Path], T]) -> tuple[T, str]:
    """The result of `read` on a file, and the digest of the content that it read.

    Raises NerpError if the file changes meanwhile, and as `read` does.
    """
    before = _state(path)
    first = "" if before is None or before.is_settled else content_digest(path)
    content = read(path)
    digest = content_digest(path)
    if _state(path) != before or first not in ("", digest):
        raise NerpError(f"{path}: it was changed while it was read; the same command reads it "
                        "again")
    return content, digest


class _State(NamedTuple):
    """Equal for two readings of a file only if its content is the same."""

    path: str
    size: int
    inode: int
    modified: int  # nanoseconds since 1970
    changed: int

    @property
    def is_settled(self) -> bool:
        """Whether a further change would change the recorded time."""
        return max(self.modified, self.changed) <= (time.time() - SETTLED) * 1e9


def _state(path: Path) -> _State | None:
    """The state of a file; None if there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return _State(os.path.realpath(path), found.st_size, found.st_ino, found.st_mtime_ns,
                  found.st_ctime_ns)


@lru_cache(maxsize=_MOST_KEPT)
def _digest(path: str, size: int, *times: int) -> str:
    """The digest of a large file in the state with these times."""
    note = cache_folder() / "digests.json"
    kept = _read(note)
    seen = [size, *times]
    if path in kept and kept[path][:-1] == seen:
        return str(kept[path][-1])
    kept.pop(path, None)
    digest = file_digest(path)
    kept[path] = [*seen, digest]
    with contextlib.suppress(DiskError):
        write_text(note, json.dumps(dict(list(kept.items())[-_MOST_KEPT:]), indent=1) + "\n")
    return digest


def cache_folder() -> Path:
    """The folder of kept digests: the user's own, which no stranger writes to."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "nerp"


def _read(note: Path) -> dict[str, list[object]]:
    try:
        content = read_json(note)
    except NerpError:
        return {}
    return {path: entry for path, entry in content.items()
            if isinstance(entry, list) and len(entry) == 5 and isinstance(entry[-1], str)}
