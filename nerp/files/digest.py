"""A file's content as a digest; of a large one computed once, kept under its size and times."""

import contextlib
import hashlib
import json
import os
import time
from functools import lru_cache
from pathlib import Path

from nerp.base.errors import DiskError, NerpError
from nerp.base.paths import write_text
from nerp.files.json_file import read_json
from nerp.files.opening import opened

_LARGE = 2**25  # bytes; a smaller file is read in less time than the note would take
_LARGEST = 2**35  # bytes; to read more would take minutes
_MOST_KEPT = 200
# A file that changed so short a time ago, in seconds, may change again within one tick of its
# file system's clock.
_SETTLED = 2.0


def file_digest(path: str | os.PathLike) -> str:
    """16 hex digits of a file's content. Raises NerpError where it cannot be read."""
    content = hashlib.sha256()
    with opened(path) as file:
        while block := file.read(2**20):
            content.update(block)
    return content.hexdigest()[:16]


def content_digest(path: str | Path) -> str:
    """16 hex digits of the content of a file; "" where there is none. Raises NerpError for one
    that cannot be read."""
    path = Path(path).expanduser()
    if not path.exists():
        return ""
    state = path.stat()
    if state.st_size > _LARGEST:
        raise NerpError(f"{path}: {state.st_size:,} bytes, more than any file of weights has "
                        f"({_LARGEST:,} at most)")
    seen = (os.path.realpath(path), state.st_size, state.st_ino, state.st_mtime_ns,
            state.st_ctime_ns)
    return _digest(*seen)


@lru_cache(maxsize=_MOST_KEPT)
def _digest(path: str, size: int, *times: int) -> str:
    """The digest of a file as it is at these times."""
    if size < _LARGE or max(times[1:]) > (time.time() - _SETTLED) * 1e9:
        return file_digest(path)
    note = _note()
    kept = _read(note)
    seen = [size, *times]
    if path in kept and kept[path][:-1] == seen:
        return kept[path][-1]
    kept.pop(path, None)
    kept[path] = [*seen, file_digest(path)]
    with contextlib.suppress(DiskError):
        write_text(note, json.dumps(dict(list(kept.items())[-_MOST_KEPT:]), indent=1) + "\n")
    return kept[path][-1]


def _note() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "nerp" / "digests.json"


def _read(note: Path) -> dict[str, list]:
    try:
        content = read_json(note)
    except NerpError:
        return {}
    return {path: entry for path, entry in content.items()
            if isinstance(entry, list) and len(entry) == 5 and isinstance(entry[-1], str)}
