"""Two digests of a list of images: one of their content, and one of their state, which needs no
image to be read.

The state is the place of each file and when it was last written (size, times of change, inode). A
content's digest is kept under the state in which it was read, so each content is read once.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from nerp.base.errors import DiskError, NerpError
from nerp.base.paths import write_text
from nerp.data.benchmark import Item
from nerp.files.digest import SETTLED, cache_folder, file_digest
from nerp.files.json_file import read_json
from nerp.files.opening import opened

_LARGEST = 2**30  # bytes; no image that is decoded has more
_MOST_KEPT = 5000  # lists
_AT_ONCE = 64  # images per task of a thread
_THREADS = 16


class Seen(NamedTuple):
    """A list of images: the digests of its state and of its content, 16 hex digits each."""

    state: str
    content: str


def images_digest(items: Sequence[Item], image_dir: Path) -> str:
    """16 hex digits of a list of items and of their images' content. Raises NerpError for an image
    that is not there or cannot be read."""
    return seen_images(items, image_dir).content


def images_state(items: Iterable[Item], image_dir: Path) -> str:
    """16 hex digits of a list of items and of the size, times of change and inode of each image,
    which another copy of the folder does not share. No image is read.

    Raises NerpError for one that is not there.
    """
    return _look(items, image_dir)[0]


def seen_images(items: Sequence[Item], image_dir: Path) -> Seen:
    """The state and the content of a list of images. Raises NerpError as `images_digest` does."""
    state, newest = _look(items, image_dir)
    note = cache_folder() / "images.json"
    kept = _read(note)
    if state in kept:
        return Seen(state, kept[state])
    content = _content(items, image_dir)
    if newest < time.time() - SETTLED:
        with contextlib.suppress(DiskError):
            entries = [*kept.items(), (state, content)][-_MOST_KEPT:]
            write_text(note, json.dumps(dict(entries), indent=0) + "\n")
    return Seen(state, content)


def _look(items: Iterable[Item], image_dir: Path) -> tuple[str, float]:
    """The state of a list, and when the last of its images was changed, in seconds since 1970."""
    content, newest = hashlib.sha256(), 0
    for item in items:
        path = f"{image_dir}/{item.path}"
        try:
            found = os.stat(path)
        except OSError:
            with opened(path):  # raises the right error
                raise
        if found.st_size > _LARGEST:
            raise NerpError(f"{path}: {found.st_size:,} bytes, more than any image has "
                            f"({_LARGEST:,} at most)")
        times = found.st_mtime_ns, found.st_ctime_ns
        newest = max(newest, *times)
        content.update(f"{(*item, found.st_size, *times, found.st_ino)}\n".encode())
    return content.hexdigest()[:16], newest / 1e9


def _content(items: Sequence[Item], image_dir: Path) -> str:
    """The digest of all that a list's images hold, read by several threads."""
    def read(part: Sequence[Item]) -> str:
        return "".join(f"{(*item, file_digest(f'{image_dir}/{item.path}'))}\n" for item in part)

    parts = [items[i : i + _AT_ONCE] for i in range(0, len(items), _AT_ONCE)]
    content = hashlib.sha256()
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        for text in pool.map(read, parts):
            content.update(text.encode())
    return content.hexdigest()[:16]


def _read(note: Path) -> dict[str, str]:
    try:
        found = read_json(note)
    except NerpError:
        return {}
    return {state: content for state, content in found.items() if isinstance(content, str)}
