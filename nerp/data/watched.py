"""Calls that talk to servers run in a process of their own, which is ended if it makes no progress.

Libraries wait for a silent server for any time, follow pages that lead to themselves, and write
whatever comes. So they are judged from outside: by the bytes that arrive in a minute, and by the
largest size that a file may have, which the operating system enforces.
"""

import errno
import json
import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from nerp.base.errors import DiskError, NerpError
from nerp.base.python import end_with_parent
from nerp.files.opening import reason

_WINDOW = 60.0  # seconds in which at least _LEAST bytes must arrive
_LEAST = 2**14
_INTERVAL = 0.2  # seconds between looks
_FULL = (errno.ENOSPC, errno.EDQUOT)


class TooLargeError(NerpError):
    """More bytes came than a file may have."""


def watched(do: Callable[[], object], arrived: Callable[[], int], most: int = 0) -> object:
    """The result of `do`, a plain value as in JSON, computed in a process of its own.

    Args: arrived: returns how many bytes have arrived so far. most: the largest size of a file in
    bytes; 0: any.

    Raises NerpError for any error in `do`, and if hardly anything arrives; TooLargeError if a file
    grows beyond `most`; OSError if the disk is full.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=_carry_out, args=(do, sender, most), daemon=True
    )
    process.start()
    sender.close()
    try:
        seen, since = arrived(), time.monotonic()
        while not receiver.poll(_INTERVAL):
            size, now = arrived(), time.monotonic()
            if size >= seen + _LEAST:
                seen, since = size, now
            elif now > since + _WINDOW:
                raise NerpError(f"given up: in {_WINDOW:g} s less than {_LEAST:,} bytes came")
        answer = json.loads(receiver.recv_bytes())
    except EOFError:
        raise NerpError("what fetches it was killed") from None
    finally:
        process.kill()
        process.join()
        receiver.close()
    number, text = answer.get("errno"), answer.get("error")
    if most and number == errno.EFBIG:
        raise TooLargeError(f"more than {most:,} bytes came")
    if number in _FULL:
        raise OSError(number, text)
    if text is not None:
        raise NerpError(text)
    return answer["value"]


def _carry_out(do: Callable[[], object], sender: Connection, most: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent(signal.SIGKILL)
    if most:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    answer: dict[str, object]
    try:
        answer = {"value": do()}
    except DiskError as error:
        answer = {"error": str(error), "errno": error.errno}
    except NerpError as error:
        answer = {"error": str(error)}
    except OSError as error:
        answer = {"error": reason(error), "errno": error.errno}
    except Exception as error:  # of libraries that talk to servers: all sorts
        answer = {"error": reason(error)}
    sender.send_bytes(json.dumps(answer).encode())


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 if there is none. Links do not count."""
    return sum(_sizes(path))


def _sizes(path: Path) -> Iterator[int]:
    try:
        if path.is_dir() and not path.is_symlink():
            for entry in path.iterdir():
                yield from _sizes(entry)
        elif not path.is_symlink():
            yield path.stat().st_size
    except OSError:  # it has gone meanwhile
        return
