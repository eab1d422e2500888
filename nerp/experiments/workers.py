"""Where runs are executed: on this machine, or as jobs of a SLURM cluster."""

import logging
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol, TypeVar

from nerp.base.errors import NerpError
from nerp.base.python import PYTHON
from nerp.experiments.attempt import Attempt, receipt, run_to_end, stop
from nerp.experiments.one_run import Run
from nerp.experiments.server import Program, Server

_QUEUE_INTERVAL = 20.0  # seconds between looks at SLURM's queue
# Seconds after which a job that has left the queue is considered lost; its result may need a while
# to appear on a shared file system.
_GRACE = 60.0


Place = TypeVar("Place")  # identifies a run that has begun, for `poll`


class Workers(Protocol[Place]):
    """Where runs are executed; they are polled every `interval` seconds."""

    interval: float

    def has_room(self) -> bool:
        """Whether another run can begin."""

    def start(self, run: Run, /) -> Place:
        """Begin a run. Raises TakenError if another sweep executes it."""

    def poll(self, place: Place, /) -> int | None:
        """The exit status of a run, None while it is under way."""

    def stop(self) -> None:
        """End every run."""

    def close(self) -> None:
        """Release what starts runs; no run is under way."""


class Local:
    """This machine: `at_once` runs at a time on each of `gpus`; without `gpus`, `at_once` in total.

    Args:
        program: see `Server`.
        gpus: as CUDA_VISIBLE_DEVICES takes them.
    """

    interval = 0.05  # seconds between looks at the runs under way

    def __init__(self, program: Program, gpus: Iterable[str] = (), at_once: int = 1):
        self.server = Server(program)
        each: list[str | None] = [*gpus]
        self.slots = at_once * (each or [None])
        self.active: dict[Attempt, str | None] = {}

    def has_room(self) -> bool:
        return bool(self.slots)

    def start(self, run: Run) -> Attempt:
        """Begin a run. Raises TakenError if another sweep executes it."""
        gpu = self.slots[0]
        attempt = Attempt(run, self.server, gpu)
        self.active[attempt] = self.slots.pop(0)
        return attempt

    def poll(self, attempt: Attempt) -> int | None:
        """The exit status of a run, None while it is under way."""
        status = attempt.poll()
        if status is not None:
            self.slots.append(self.active.pop(attempt))
        return status

    def stop(self) -> None:
        """End every run."""
        stop(self.active)

    def close(self) -> None:
        """Release what starts runs; no run is under way."""
        self.server.close()


class _Paths(Protocol):
    result_pickle: Path


class _Submitted(Protocol):
    """The part of submitit's job that is used here."""

    job_id: str
    paths: _Paths

    def done(self) -> bool: ...
    def result(self) -> list[int]: ...
    def cancel(self, check: bool = True) -> None: ...


class _Executor(Protocol):
    """The part of submitit's executor that is used here."""

    def submit(
        self, function: Callable[[list[Run], Program], list[int]], runs: list[Run],
        program: Program, /,
    ) -> _Submitted: ...
    def update_parameters(self, **parameters: object) -> None: ...


@dataclass
class _Job:
    """Runs that one cluster job carries out, one after the other.

    Attributes:
        job: submitit's; None until it is submitted. statuses: of the runs, once they are known.
    """

    runs: list[Run]
    job: _Submitted | None = None
    statuses: list[int] | None = None


class Slurm:
    """A SLURM cluster, through submitit: runs that are ready become jobs in the queue.

    Args:
        program: see `Server`.
        settings: "KEY=VALUE,..." with the long options of sbatch (partition, gpus, time in minutes,
            account, ...); "cluster=local" runs the jobs on this machine instead, to try things.
        folder: for submitit's files; the compute nodes must see it too.
        runs_per_job: up to this many runs that are ready at once share a job and its start-up.

    Raises NerpError if submitit or SLURM is missing or a setting is malformed.
    """

    interval = 1.0

    def __init__(self, program: Program, settings: str, folder: Path, runs_per_job: int = 1):
        options = _parse(settings)
        self.local = options.pop("cluster", "slurm") == "local"
        self.executor = _local(folder) if self.local else _cluster(folder, options)
        self.runs_per_job = runs_per_job
        self.program = program
        self.gathering: _Job | None = None
        self.active: list[_Job] = []
        self.last_seen: dict[str, float] = {}  # job id -> time when the queue last had the job
        self.last_look = 0.0

    def has_room(self) -> bool:
        return self.gathering is not None or not (self.local and self.active)

    def start(self, run: Run) -> tuple[_Job, int]:
        """Put a run into a job. The job is submitted when it is full, or when `poll` asks for one
        of its runs. Raises NerpError, with sbatch's own words, if it is refused."""
        if self.gathering is None:
            self.gathering = _Job([])
            self.active.append(self.gathering)
        job = self.gathering
        job.runs.append(run)
        if len(job.runs) == self.runs_per_job:
            self._submit(job)
        return job, len(job.runs) - 1

    def _submit(self, job: _Job) -> None:
        self.gathering = None
        try:
            submitted = self.executor.submit(runs_to_end, job.runs, self.program)
        except (subprocess.CalledProcessError, RuntimeError) as error:
            raise NerpError(f"the job was refused: {' '.join(str(error).split())}") from None
        job.job = submitted
        self.last_seen[submitted.job_id] = time.monotonic()

    def poll(self, place: tuple[_Job, int]) -> int | None:
        """The exit status of a run, None while its job waits or is under way. If the job was
        cancelled or its node failed, the status of its unfinished runs is 1."""
        job, number = place
        if job is self.gathering:
            self._submit(job)
        if job.statuses is None:
            job.statuses = self._statuses(job)
            if job.statuses is None:
                return None
            self.active.remove(job)
        return job.statuses[number]

    def _statuses(self, job: _Job) -> list[int] | None:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        theirs = job.job
        assert theirs is not None  # `poll` has submitted it
        handed_over = theirs.done() if self.local else theirs.paths.result_pickle.exists()
        if not handed_over and not self._is_lost(theirs):
            return None
        try:
            if handed_over:
                return theirs.result()
        except (FailedJobError, UncompletedJobError):
            pass
        return [receipt(run).get("exit_status", 1) for run in job.runs]

    def _is_lost(self, job: _Submitted) -> bool:
        """Whether a job has left the queue without a result."""
        if self.local:
            return False
        now = time.monotonic()
        if now - self.last_look > _QUEUE_INTERVAL:
            self.last_look = now
            # squeue, since sacct needs an accounting database that not every cluster has.
            command = ["squeue", "--me", "--noheader", "--format", "%i"]
            listing = subprocess.run(command, capture_output=True, text=True)
            there = listing.stdout.split() if listing.returncode == 0 else list(self.last_seen)
            self.last_seen.update(dict.fromkeys(there, now))
        return now - self.last_seen[job.job_id] > _GRACE

    def stop(self) -> None:
        """Cancel every job."""
        for job in self.active:
            if job.job is not None:
                job.job.cancel(check=False)

    def close(self) -> None:
        """Nothing needs to be released."""


def runs_to_end(runs: list[Run], program: Program) -> list[int]:
    """The work of a job: one run after the other; returns their exit statuses."""
    server = Server(program)
    try:
        return [run_to_end(run, server) for run in runs]
    finally:
        server.close()


def _parse(settings: str) -> dict[str, str]:
    options = {}
    for part in settings.split(","):
        key, _, value = part.partition("=")
        if not key or not value:
            raise NerpError(f"--slurm {settings!r}: expected KEY=VALUE,... with sbatch's long "
                            "options, such as partition=gpu,gpus=1,time=600")
        options[key.strip().replace("_", "-")] = value.strip()
    return options


def _local(folder: Path) -> _Executor:
    submitit = _submitit()
    executor: _Executor = submitit.LocalExecutor(folder, python=_python())
    executor.update_parameters(timeout_min=60 * 24 * 365)
    return executor


def _cluster(folder: Path, options: dict[str, str]) -> _Executor:
    submitit = _submitit()
    try:
        executor: _Executor = submitit.SlurmExecutor(folder, python=_python())
    except RuntimeError:
        raise NerpError("--slurm: there is no srun here; run this on a machine that submits to "
                        "the cluster, or give cluster=local to try it without one") from None
    minutes = options.pop("time", None)
    if minutes is not None and not minutes.isdecimal():
        raise NerpError(f"--slurm time={minutes}: give whole minutes, such as time=600")
    executor.update_parameters(
        job_name="nerp",
        time=minutes and int(minutes),  # None: the partition's default
        additional_parameters=options,
    )
    return executor


def _python() -> str:
    """The Python that submitit starts. Also makes that Python ignore the current folder."""
    os.environ["PYTHONSAFEPATH"] = "1"  # since Python 3.11; as `nerp.base.python`
    program, *rest = PYTHON
    return shlex.join((program, "-u", *rest))


def _submitit() -> ModuleType:
    try:
        import submitit
    except ImportError:
        raise NerpError("--slurm needs submitit: pip install 'nerp[slurm]'") from None
    logging.getLogger("submitit").setLevel(logging.ERROR)
    module: ModuleType = submitit
    return module
