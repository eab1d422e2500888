"""Carries out a plan: each run starts when the runs it needs have finished; a summary follows."""

import os
import re
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean
from typing import Generic

from nerp.base.errors import NerpError
from nerp.base.printable import duration, printable
from nerp.experiments.attempt import LOG_FILE, TakenError, is_finished, receipt
from nerp.experiments.one_run import Run
from nerp.experiments.server import Server
from nerp.experiments.workers import Place, Workers
from nerp.files.json_file import is_percent, read_json
from nerp.files.opening import read_end
from nerp.settings.protocols import RESULT_FILE

DONE, SKIPPED, FAILED, NOT_RUN = "done", "finished before", "failed", "not run"
_OVERWRITE = "--overwrite"  # an option of nerp train and nerp test
_LAST_LINES = 2**16  # bytes at the end of a log in which the last line is searched


class Sweep(Generic[Place]):
    """Carries out a plan.

    Args:
        runs: each comes after the runs it needs.
        tell: called with a line for the user.
        look: called regularly, to show what is under way.
        announce: whether `tell` also gets the command line of each run that begins.

    Attributes:
        state: directory -> how a run ended, for the runs that have ended.
    """

    def __init__(
        self, runs: Iterable[Run], workers: Workers[Place], tell: Callable[[str], None],
        look: Callable[[], None] = lambda: None, announce: bool = True,
    ):
        self.runs = list(runs)
        self.workers = workers
        self.tell = tell
        self.look = look
        self.announce = announce
        self.state: dict[Path, str] = {}
        self._active: dict[Path, Place] = {}
        self._began: dict[Path, float] = {}
        self._took: dict[object, list[float]] = defaultdict(list)  # seconds by kind; None: all
        self._unfinished: set[Path] = set()
        self._taken: set[Path] = set()

    def run(self) -> bool:
        """Carry out all runs; returns whether all have finished. If this is interrupted, every run
        is ended first."""
        start = time.monotonic()
        try:
            while len(self.state) < len(self.runs):
                for run in self.runs:
                    if run.directory in self._active:
                        self._look_at(run)
                    elif run.directory not in self.state:
                        self._consider(run)
                self.look()
                time.sleep(self.workers.interval)
        except BaseException:
            self.workers.stop()
            raise
        finally:
            self.workers.close()
        self.tell(account(self.runs, self.state, time.monotonic() - start))
        return not {FAILED, NOT_RUN} & set(self.state.values())

    def _look_at(self, run: Run) -> None:
        status = self.workers.poll(self._active[run.directory])
        if status is not None:
            del self._active[run.directory]
            self._settle(run, FAILED if status else DONE)

    def _consider(self, run: Run) -> None:
        """Settle or begin a waiting run, or leave it waiting."""
        before = [self.state.get(needed) for needed in run.needs]
        if FAILED in before or NOT_RUN in before:
            self._settle(run, NOT_RUN)
        elif None not in before:
            if run.directory not in self._unfinished:
                if is_finished(run):
                    self._settle(run, SKIPPED)
                    return
                self._unfinished.add(run.directory)
            if self.workers.has_room():
                self._begin(run)

    def _begin(self, run: Run) -> None:
        try:
            self._active[run.directory] = self.workers.start(run)
        except TakenError:  # tried again until the other sweep has finished it
            self._unfinished.discard(run.directory)
            if run.directory not in self._taken:
                self._taken.add(run.directory)
                self.tell(f"another sweep is at it: {run.label}")
        else:
            self._began[run.directory] = time.monotonic()
            if self.announce:
                self.tell(run.command)

    def _settle(self, run: Run, state: str) -> None:
        self.state[run.directory] = state
        seconds = receipt(run).get("seconds")
        if state in (DONE, SKIPPED) and seconds is not None:
            for kind in (_kind(run), None):
                self._took[kind].append(seconds)
        if state == SKIPPED:  # only the summary counts these; hundreds of lines would hide others
            return
        took = "" if state == NOT_RUN or seconds is None else f" in {duration(seconds)}"
        accuracy = _accuracy(run) if state == DONE else None
        result = "" if accuracy is None else f", {accuracy:.2f}%"
        self.tell(f"[{len(self.state)}/{len(self.runs)}] {state}{took}{result}: {run.label}")

    @property
    def active(self) -> list[Run]:
        """The runs under way, the latest last."""
        runs = [run for run in self.runs if run.directory in self._active]
        return sorted(runs, key=lambda run: self._began[run.directory])

    def time_left(self) -> float | None:
        """The seconds left, estimated from finished runs of the same kind, of this and earlier
        sweeps; without any of that kind, from all. None before a run has finished."""
        if not self._took:
            return None
        left, now = 0.0, time.monotonic()
        for run in self.runs:
            if run.directory not in self.state:
                expected = fmean(self._took.get(_kind(run)) or self._took[None])
                left += max(0.0, expected - now + self._began.get(run.directory, now))
        return left / max(1, len(self._active))


def _kind(run: Run) -> tuple[str, str]:
    return run.argv[0], run.trainer


def _accuracy(run: Run) -> float | None:
    """In percent; None if nothing was tested."""
    try:
        accuracy = read_json(run.directory / RESULT_FILE).get("accuracy")
    except NerpError:
        return None
    return accuracy if is_percent(accuracy) else None


def at_terminal(runs: Iterable[Run], server: Server, tell: Callable[[str], None]) -> bool:
    """Carry out runs one after the other, with their output in this process's output. Returns
    whether all have finished. The first failure ends the sequence."""
    try:
        for run in runs:
            tell(run.command)
            child = server.start(run.argv, None, {})
            try:
                if child.wait():
                    tell(f"failed: {run.label}. An option that its error names is one of the "
                         "command above, not of nerp sweep")
                    return False
            except KeyboardInterrupt:
                os.kill(child.pid, signal.SIGINT)
                child.wait()
                raise
    finally:
        server.close()
    return True


def account(runs: list[Run], state: dict[Path, str], seconds: float) -> str:
    """A summary of the runs; for each failed run, the reason and the log."""
    counts = Counter(state.values())
    parts = [f"{counts[s]} {s}" for s in (DONE, SKIPPED, FAILED, NOT_RUN) if counts[s]]
    lines = ["", f"{len(runs)} runs: {', '.join(parts)}; {seconds:.0f} s"]
    for run in runs:
        if state[run.directory] == FAILED:
            lines += [f"failed: {run.label}", *reason(run)]
    if counts[NOT_RUN]:
        lines.append(f"not run, since a run that they need failed: {counts[NOT_RUN]}")
    if counts[FAILED]:
        lines.append("The same command tries them again and continues from there.")
    return "\n".join(lines)


def reason(run: Run) -> list[str]:
    """How a run's last attempt ended: its last line of output, and its log. If the line advises an
    option that a sweep does not have, also the command that has the option."""
    status = receipt(run).get("exit_status")
    end = "no exit status" if status is None else f"exit status {status}"
    said = last_line(run)
    lines = [f"    {end}: {said}", f"    log: {run.directory / LOG_FILE}"]
    if _OVERWRITE in said:
        lines.append(f"    nerp sweep has no {_OVERWRITE}; this has: {run.command} {_OVERWRITE}")
    return lines


def last_line(run: Run) -> str:
    """The last line that a run's attempt printed."""
    try:
        lines = read_end(run.directory / LOG_FILE, _LAST_LINES).splitlines()
    except NerpError:
        lines = []
    return next((printable(line.strip()) for line in reversed(lines) if line.strip()),
                "nothing was said")


def current_epoch(run: Run) -> str:
    """The last epoch that a training has finished, as `epoch 3 of 10`; "" if it has reported
    none."""
    found = re.match(r"epoch \d+ of \d+", last_line(run))
    return found[0] if found else ""
