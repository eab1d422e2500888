"""Carrying out a plan: order, failures, repetition, interruption, GPUs, SLURM, and looking on.

`stub.py` stands for `nerp`; what it did is in its journal.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import write_eurosat
from test_plan import parsed

from nerp.base.errors import NerpError
from nerp.experiments import workers
from nerp.experiments.attempt import LOG_FILE, Attempt, TakenError, _images, receipt, state
from nerp.experiments.plan import plan
from nerp.experiments.selection import Selection
from nerp.experiments.server import Server
from nerp.experiments.status import overview, remember, remembered
from nerp.experiments.sweep import SKIPPED, Sweep
from nerp.experiments.workers import Local, Slurm

STUB = (sys.executable, str(Path(__file__).with_name("stub.py")))
TRAINED = "train_base/eurosat/shots_16/MMRL"
# `nerp sweep` as a process, with the stub in the place of the runs.
DRIVER = (
    "from nerp.commands import forked; import sys; "
    f"forked.FRESH = {STUB!r}; "
    "from nerp.cli import main; main()"
)


class World:
    """An output folder and a data folder, and what happened in them."""

    def __init__(self, folder: Path):
        self.output = folder / "my output"
        self.root = folder / "data"
        self.journal = folder / "journal"
        (self.root / "eurosat").mkdir(parents=True)

    def selection(self, **changes) -> Selection:
        chosen = {"methods": ("MMRL_NeRP",), "datasets": ("eurosat",), "seeds": (1,), **changes}
        return Selection("base_to_novel", root=str(self.root), output=str(self.output), **chosen)

    def plan(self, **changes):
        return plan(self.selection(**changes))

    def sweep(self, runs, place=None) -> tuple[bool, str]:
        """Whether all finished, and what was told."""
        lines = []
        return Sweep(runs, place or Local(STUB), lines.append).run(), "\n".join(lines)

    def start(self, *options, **changes) -> subprocess.Popen:
        """`nerp sweep` in a process of its own, in a session of its own."""
        chosen = self.selection(**changes)
        argv = ["sweep", "--fresh", *options, "--protocol", chosen.protocol, "--root", chosen.root,
                "--output", chosen.output, "--methods", *chosen.methods,
                "--datasets", *chosen.datasets, "--seeds", *map(str, chosen.seeds)]
        # The tests themselves may run under nohup, which a sweep respects.
        return subprocess.Popen([sys.executable, "-c", DRIVER, *argv], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))

    def lines(self, what: str) -> list[list[str]]:
        """The journal's lines of one kind, in words."""
        if not self.journal.exists():
            return []
        words = [line.rsplit(" ", 2) for line in self.journal.read_text().splitlines()]
        return [[*line[0].split(" ", 1), *line[1:]] for line in words if line[0].startswith(what)]

    def folders(self, what: str) -> list[Path]:
        return [Path(line[1]) for line in self.lines(what)]

    def wait_for(self, condition, seconds=30):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.02)


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    world = World(tmp_path)
    monkeypatch.setenv("STUB_JOURNAL", str(world.journal))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return world


def test_every_run_begins_after_those_it_needs(world):
    runs = world.plan(seeds=(1, 2))
    done, _ = world.sweep(runs, Local(STUB, ["0", "1", "2"]))
    assert done
    begun = world.folders("begin")
    assert sorted(begun) == sorted(run.directory for run in runs)
    ended = [(line[0], Path(line[1])) for line in world.lines("")]
    for run in runs:
        for needed in run.needs:
            assert ended.index(("end", needed)) < ended.index(("begin", run.directory))


def test_each_gpu_has_one_run_at_a_time_and_each_is_used(world):
    world.sweep(world.plan(seeds=(1, 2, 3)), Local(STUB, ["4", "7"]))
    busy = set()
    used = set()
    for what, _, gpu, _ in world.lines(""):
        assert (gpu in busy) == (what == "end")
        busy ^= {gpu}
        used.add(gpu)
    assert used == {"4", "7"}


@pytest.mark.parametrize("gpus", [[], ["4", "7"]])
def test_as_many_runs_at_once_as_asked_for(gpus, world):
    place = Local(STUB, gpus, at_once=2)
    runs = [run for run in world.plan(seeds=(1, 2, 3, 4, 5)) if not run.needs]
    attempts = []
    while place.has_room():
        attempts.append(place.start(runs[len(attempts)]))
    assert len(attempts) == 2 * max(1, len(gpus))
    world.wait_for(lambda: place.poll(attempts[0]) == 0)
    assert place.has_room()
    place.stop()
    place.close()


def test_a_failure_is_listed_with_its_log_and_stops_only_what_needs_it(world, monkeypatch):
    monkeypatch.setenv("STUB_FAIL", f"{TRAINED}/vit_b16/seed1")
    runs = world.plan(seeds=(1, 2))
    done, told = world.sweep(runs)
    assert not done
    log = runs[0].directory / LOG_FILE
    assert f"log: {log}" in told
    assert "nerp: error: made to fail" in told
    assert "5 done, 1 failed, 4 not run" in told
    assert log.read_text().startswith(f"$ {runs[0].command}\n")
    assert [run for run in runs if (run.directory / "result.json").exists()] == runs[5:]


def test_where_an_error_advises_what_a_sweep_does_not_have_the_command_that_has_it_is_said(
    world, monkeypatch
):
    monkeypatch.setenv("STUB_FAIL", f"{TRAINED}/vit_b16/seed1")
    run, *_ = runs = world.plan()
    advice = f"    nerp sweep has no --overwrite; this has: {run.command} --overwrite"
    _, told = world.sweep(runs)
    assert "--overwrite" not in told
    monkeypatch.setenv("STUB_ERROR", "something else: --output-dir, or --overwrite to replace it")
    _, told = world.sweep(runs)
    assert advice in told.splitlines()
    args = parsed(f"{run.command} --overwrite")
    assert args.overwrite and args.opts == parsed(run.command).opts


def test_the_same_sweep_again_begins_only_what_has_not_finished(world, monkeypatch):
    monkeypatch.setenv("STUB_FAIL", "test_new")
    runs = world.plan()
    world.sweep(runs)
    first = world.folders("begin")
    monkeypatch.delenv("STUB_FAIL")
    done, told = world.sweep(runs)
    assert done
    again = world.folders("begin")[len(first):]
    assert again == [run.directory for run in runs if "test_new" in str(run.directory)]
    assert "2 done, 3 finished before" in told


@pytest.mark.parametrize("change", ["option", "settings", "training"])
def test_what_finished_under_other_settings_is_started_again(world, tmp_path, change):
    """So that the run itself can refuse, rather than pass for what was asked."""
    runs = world.plan()
    world.sweep(runs)
    begun = len(world.folders("begin"))
    expected = runs
    if change == "option":
        runs = expected = world.plan(options=("OPTIM.MAX_EPOCH", "3"))
    elif change == "settings":
        card = tmp_path / "eurosat.yaml"
        card.write_text(runs[0].card.read_text() + "# another\n")
        runs = expected = [replace(run, card=card) for run in runs]
    else:
        (runs[0].directory / "result.json").write_text('{"trained": "again"}')
        expected = runs[1:]
    world.sweep(runs)
    assert world.folders("begin")[begun:] == [run.directory for run in expected]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_killed_sweep_ends_its_runs_and_goes_on_later(world, monkeypatch, number):
    monkeypatch.setenv("STUB_SLOW", "test_base/eurosat/shots_16/MMRL/")
    sweep = world.start()
    world.wait_for(lambda: len(world.lines("begin")) == 2)
    slow = int(world.lines("begin")[1][3])
    sweep.send_signal(number)
    told, _ = sweep.communicate(timeout=30)
    assert sweep.returncode == 130
    assert "interrupted" in told
    with pytest.raises(ProcessLookupError):
        os.kill(slow, 0)
    runs = world.plan()
    assert [state(run) for run in runs[:2]] == ["done", "interrupted"]

    monkeypatch.delenv("STUB_SLOW")
    done, told = world.sweep(runs)
    assert done
    assert "4 done, 1 finished before" in told
    finished = world.folders("end")
    assert sorted(finished) == sorted(run.directory for run in runs)  # each of them once


def test_at_the_terminal_nothing_runs_after_a_failure(world, monkeypatch):
    monkeypatch.setenv("STUB_FAIL", "seed2")
    sweep = world.start("--here", seeds=(1, 2, 3))
    told, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 1
    runs = world.plan(seeds=(1, 2, 3))
    assert world.folders("begin") == [run.directory for run in runs[:6]]
    assert told.splitlines() == [
        *(run.command for run in runs[:6]), "nerp: error: made to fail",
        f"failed: {runs[5].label}. An option that its error names is one of the command above, not "
        "of nerp sweep"]


@pytest.mark.parametrize("killed", ["the sweep", "what starts its runs"])
def test_no_run_outlives_what_it_belongs_to(world, monkeypatch, killed):
    monkeypatch.setenv("STUB_SLOW", "train_base")
    sweep, processes = world.start(), []
    for times in (1,) if killed == "the sweep" else (1, 2):  # after one loss it is started anew
        world.wait_for(lambda times=times: len(world.lines("begin")) >= times)
        run = int(world.lines("begin")[-1][3])
        server = int(Path(f"/proc/{run}/stat").read_text().rsplit(")")[1].split()[1])
        processes += [run, server]
        os.kill(sweep.pid if killed == "the sweep" else server, signal.SIGKILL)
    sweep.communicate(timeout=30)
    assert sweep.returncode == (-signal.SIGKILL if killed == "the sweep" else 1)
    world.wait_for(lambda: not any(map(_runs, processes)))

    monkeypatch.delenv("STUB_SLOW")
    runs = world.plan()
    assert world.sweep(runs)[0]
    assert sorted(world.folders("end")) == sorted(run.directory for run in runs)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_run_is_one_failure_and_the_others_go_on(world, monkeypatch):
    monkeypatch.setenv("STUB_SLOW", f"{TRAINED}/vit_b16/seed1")
    sweep = world.start("--gpus", "0,1", seeds=(1, 2))
    world.wait_for(lambda: len(world.folders("end")) == 5)
    slow = next(line for line in world.lines("begin") if line[1].endswith("seed1"))
    os.kill(int(slow[3]), signal.SIGKILL)
    told, _ = sweep.communicate(timeout=30)
    assert sweep.returncode == 1
    assert "5 done, 1 failed, 4 not run" in told and "exit status -9" in told


def test_two_sweeps_at_once_share_the_work(world):
    sweeps = [world.start(seeds=(1, 2)) for _ in range(2)]
    assert [sweep.wait(60) for sweep in sweeps] == [0, 0]
    begun = world.folders("begin")
    assert sorted(begun) == sorted(run.directory for run in world.plan(seeds=(1, 2)))


def test_a_run_under_way_is_left_to_who_has_it(world, monkeypatch):
    monkeypatch.setenv("STUB_SLOW", "train_base")
    run = world.plan()[0]
    server = Server(STUB)
    attempt = Attempt(run, server)
    try:
        assert state(run) == "running"
        with pytest.raises(TakenError):
            Attempt(run, server)
    finally:
        workers.stop([attempt])
        server.close()
    assert state(run) == "interrupted"


def test_status_counts_and_names_what_failed(world, monkeypatch):
    monkeypatch.setenv("STUB_FAIL", "test_new/eurosat/shots_16/MMRL/")
    selection = world.selection()
    remember(selection)
    runs = plan(selection)
    assert [state(run) for run in runs] == ["waiting"] * 5
    world.sweep(runs)
    text = overview(remembered(str(world.output), str(world.root), ()))
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if "MMRL" in line}
    assert rows["MMRL"] == ["2", "0", "1", "0", "0"]  # done, running, failed, interrupted, waiting
    assert rows["MMRL_NeRP"] == ["1", "0", "0", "0", "1"]
    assert str(runs[3].directory / LOG_FILE) in text


def test_status_says_how_far_a_training_is(world):
    run = world.plan()[0]
    remember(world.selection())
    run.directory.mkdir(parents=True)
    with open(run.directory / LOG_FILE, "w") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        text = overview(remembered(str(world.output), str(world.root), ()))
        assert f"running: {run.label}" in text
        log.write("epoch 181 of 200: loss 0.5000, rate 0.001, 2.0 s, 38 s left\n")
        log.flush()
        text = overview(remembered(str(world.output), str(world.root), ()))
    assert f"running, epoch 181 of 200: {run.label}" in text


@pytest.mark.parametrize("change", ["image", "file"])
def test_what_ran_on_other_images_or_files_is_started_again(world, tmp_path, change):
    shutil.rmtree(world.root)
    write_eurosat(world.root, per_class=4, size=16)
    weights = tmp_path / "clip.pt"
    weights.write_bytes(b"1")
    runs = world.plan(options=("MODEL.BACKBONE.PATH", str(weights)))

    def begun() -> int:
        _images.cache_clear()  # as in a new process
        before = len(world.lines("begin"))
        assert world.sweep(runs)[0]
        return len(world.lines("begin")) - before

    assert begun() == len(runs) and begun() == 0
    image = next(world.root.rglob("*.jpg"))
    changed = image if change == "image" else weights
    changed.write_bytes(changed.read_bytes() + b"2")
    assert begun() == len(runs) and begun() == 0


def test_a_run_is_one_line_with_its_result_and_the_time_left_is_that_of_its_kind(world):
    runs, lines, left = world.plan(seeds=(1, 2)), [], []
    sweep = Sweep(runs, Local(STUB), lines.append,
                  lambda: left.append(sweep.time_left()), announce=False)
    assert sweep.time_left() is None and sweep.run()
    assert len(lines) == len(runs) + 1  # and the account
    for number, line in enumerate(lines[:-1], 1):
        assert re.match(rf"\[{number}/10\] done in \d+ s, \d\d\.\d\d%: t", line)
    assert left[0] is None and left[-1] == 0
    again = Sweep(runs, Local(STUB), lines.append)
    again._settle(runs[0], SKIPPED)
    took = receipt(runs[0])["seconds"]
    assert again.time_left() == pytest.approx(9 * took)


def test_a_failed_run_that_was_mended_by_hand_counts_as_done(world, monkeypatch):
    monkeypatch.setenv("STUB_FAIL", "train_base")
    run = world.plan()[0]
    world.sweep([run])
    assert state(run) == "failed"
    result = run.directory / "result.json"
    result.write_text(json.dumps({}))
    os.utime(result, (time.time() + 5, time.time() + 5))
    assert state(run) == "done"


def test_status_before_any_sweep_says_so(world):
    with pytest.raises(NerpError, match="no sweep has been started"):
        remembered(str(world.output), str(world.root), ())


def test_jobs_through_submitit_do_the_same(world, monkeypatch):
    monkeypatch.setenv("STUB_FAIL", "test_new/eurosat/shots_16/MMRL/")
    runs = world.plan()
    done, told = world.sweep(runs, Slurm(STUB, "cluster=local", world.output / "jobs"))
    assert not done
    assert "3 done, 1 failed, 1 not run" in told
    assert [state(run) for run in runs] == ["done", "done", "done", "failed", "waiting"]


def test_a_job_of_several_runs_reports_each_of_them(world, monkeypatch):
    monkeypatch.setenv("STUB_FAIL", f"{TRAINED}/vit_b16/seed2")
    runs = world.plan(seeds=(1, 2, 3))
    done, told = world.sweep(
        runs, Slurm(STUB, "cluster=local", world.output / "jobs", runs_per_job=2)
    )
    assert not done
    assert "10 done, 1 failed, 4 not run" in told
    assert len(list((world.output / "jobs").glob("*_submitted.pkl"))) < 11


@pytest.mark.parametrize("settings", ["partition", "cluster=local,=3", "partition=gpu,time=2:00"])
def test_malformed_slurm_settings_are_refused(settings, tmp_path, monkeypatch):
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(NerpError, match="--slurm"):
        Slurm(STUB, settings, tmp_path / "jobs")
