"""Progress: a bar on a terminal, a line from time to time if the output is a file."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

from nerp.base.log import say

T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 30.0
_silent = ContextVar("silent", default=False)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Draw no bars for as long as the context lasts."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def progress(iterable: Iterable[T], what: str, total: int, unit: str) -> Iterator[T]:
    """`iterable`, shown as it goes: rate and remaining time on a terminal, lines otherwise."""
    if sys.stderr.isatty() and not _silent.get():
        yield from tqdm(iterable, desc=what, total=total, unit=unit, leave=False)
        return
    start = last = time.monotonic()
    for done, item in enumerate(iterable):
        now = time.monotonic()
        if done and now - last > _SECONDS_BETWEEN_LINES:
            left = (now - start) / done * (total - done)
            say(f"{what}: {done}/{total} {unit}, {done / (now - start):.3g}/s, {left:.0f} s left")
            last = now
        yield item
