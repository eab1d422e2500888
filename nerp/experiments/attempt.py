"""Executes one run as a process of its own, and reads its state from its folder.

Besides the run's own files, the folder gets `sweep.log`, the output of the last attempt, and
`sweep.json`, the receipt, which says how the attempt ended. During an attempt, the process itself
locks its log. So a run whose sweep was killed is still recognised as running.
"""

import contextlib
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TypedDict, cast

from nerp.base.beside import lock, make_folder, open_appended
from nerp.base.errors import NerpError
from nerp.base.paths import write_text
from nerp.data.benchmark import dataset_folder, read_benchmark
from nerp.data.digests import images_state
from nerp.experiments.one_run import Run
from nerp.experiments.server import Server
from nerp.files.digest import content_digest
from nerp.files.json_file import is_number, read_json
from nerp.files.opening import opened
from nerp.settings.cards import open_card
from nerp.settings.protocols import PREDICTIONS_FILE, RESULT_FILE, SAVE_LOGITS

LOG_FILE = "sweep.log"
RECEIPT_FILE = "sweep.json"
STATES = ("done", "running", "failed", "interrupted", "waiting")
# Exit statuses of a run that was asked to end.
_INTERRUPTED = (130, -signal.SIGINT, -signal.SIGTERM)
# How long a process may take to end after each signal, in seconds.
_PATIENCE = ((signal.SIGINT, 15.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


class Receipt(TypedDict, total=False):
    """How an attempt ended. seconds: how long it took."""

    exit_status: int
    fingerprint: str
    seconds: float


class TakenError(Exception):
    """Another sweep is executing this run, or has just finished it."""


def fingerprint(run: Run) -> str:
    """16 hex digits of everything that determines a run: its command, its configuration and other
    files, the images of its dataset, and the records of the runs that it needs."""
    digests = []
    with contextlib.suppress(NerpError):
        digests.append(_images(run.card, run.root))
    for path in (run.card, *run.inputs, *(needed / RESULT_FILE for needed in run.needs)):
        with contextlib.suppress(NerpError):  # the run meets the same error and reports it
            digests.append(content_digest(path))
    argv = [word for word in run.argv if word != SAVE_LOGITS]
    return hashlib.sha256(json.dumps([argv, digests]).encode()).hexdigest()[:16]


@cache
def _images(card: Path, root: str) -> str:
    """`images_state` of a dataset, computed once per process. Raises NerpError if the dataset is
    not available; it may be later."""
    cfg = open_card(card, root)
    if not (folder := dataset_folder(cfg)).is_dir():
        raise NerpError(f"no {folder}")  # reading the benchmark would draw it
    bench, _ = read_benchmark(cfg)
    return images_state([*bench.train, *bench.val, *bench.test], bench.image_dir)


def receipt(run: Run) -> Receipt:
    """How the last attempt ended; {} if none ended."""
    try:
        content = read_json(run.directory / RECEIPT_FILE)
    except NerpError:
        return {}
    status, seconds = content.get("exit_status"), content.get("seconds", 0)
    # A fingerprint is only compared with others.
    return cast(Receipt, content) if type(status) is int and is_number(seconds) else {}


def is_finished(run: Run) -> bool:
    """Whether a sweep has finished this very run. A run that was finished in another way is started
    again; the run itself then says whether its result is the wanted one."""
    found = receipt(run)
    files = [RESULT_FILE, *([PREDICTIONS_FILE] if SAVE_LOGITS in run.argv else [])]
    return (
        found.get("exit_status") == 0
        and all((run.directory / name).is_file() for name in files)
        and found.get("fingerprint") == fingerprint(run)
    )


def state(run: Run) -> str:
    """One of `STATES`, from what the run's folder holds."""
    log, result = run.directory / LOG_FILE, run.directory / RESULT_FILE
    if _is_locked(log):
        return "running"
    status = receipt(run).get("exit_status", 0)
    if status and not _is_newer(result, run.directory / RECEIPT_FILE):
        return "interrupted" if status in _INTERRUPTED else "failed"
    if result.is_file():
        return "done"
    return "interrupted" if log.is_file() else "waiting"


def _is_locked(path: Path) -> bool:
    try:
        with opened(path) as file:
            return not lock(file, wait=False)
    except NerpError:
        return False


def _is_newer(path: Path, other: Path) -> bool:
    return path.is_file() and path.stat().st_mtime > other.stat().st_mtime


class Attempt:
    """One attempt at a run, in a process of its own.

    Args:
        server: starts the process. gpu: the device it sees; None: those that this process sees.
        wait: wait for another attempt that is under way, instead of raising TakenError.
    """

    def __init__(
        self, run: Run, server: Server, gpu: str | None = None, wait: bool = False
    ):
        self.run = run
        self.start = time.monotonic()
        make_folder(run.directory, run.output)
        # The log stays open, and so locked, until the receipt is written.
        self.log = open_appended(run.directory / LOG_FILE)
        try:
            if not lock(self.log, wait) or is_finished(run):
                raise TakenError
            (run.directory / RECEIPT_FILE).unlink(missing_ok=True)
            self.log.truncate(0)
            self.log.write(f"$ {run.command}\n".encode())
            self.log.flush()
            environment = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
            self.process = server.start(run.argv, self.log.fileno(), environment)
        except BaseException:
            self.log.close()
            raise

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        status = self.process.poll()
        if status is not None:
            self._close(status)
        return status

    def wait(self) -> int:
        """The exit status, after the run has ended. If the wait is interrupted, the run is
        stopped."""
        try:
            status = self.process.wait()
        except BaseException:
            stop([self])
            raise
        self._close(status)
        return status

    def _close(self, status: int) -> None:
        content = {
            "exit_status": status,
            "fingerprint": fingerprint(self.run),
            "seconds": round(time.monotonic() - self.start, 1),
        }
        write_text(self.run.directory / RECEIPT_FILE, json.dumps(content) + "\n")
        self.log.close()


def stop(attempts: Iterable[Attempt]) -> None:
    """End all attempts, gently first, because an interrupted run can be resumed. A stopped run gets
    no receipt, which distinguishes it from a failed run."""
    attempts = left = list(attempts)
    for number, patience in _PATIENCE:
        for attempt in left:
            attempt.process.again = True  # if the server is killed now, the run is not revived
            with contextlib.suppress(ProcessLookupError):
                # Finally the whole session: workers that load data are processes too.
                end = os.killpg if number is signal.SIGKILL else os.kill
                end(attempt.process.pid, number)
        deadline = time.monotonic() + patience
        while left and time.monotonic() < deadline:
            left = [attempt for attempt in left if attempt.process.poll() is None]
            time.sleep(0.05)
    for attempt in attempts:
        attempt.log.close()


def run_to_end(run: Run, server: Server) -> int:
    """One attempt from beginning to end; returns the exit status."""
    try:
        return Attempt(run, server, wait=True).wait()
    except TakenError:  # `Attempt` has waited, so another sweep has finished the run
        return 0

