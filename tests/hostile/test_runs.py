"""Runs on full disks, with inputs that change under them, killed late, or two in one folder."""

import copy
import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hostile import Hangs, bounded, flips, is_one_line, other_types, same

from nerp.base import log
from nerp.base.errors import NerpError
from nerp.base.paths import clear_partials, holding, replacing, write_bytes, write_text
from nerp.files.digest import content_digest
from nerp.files.opening import reading

CHECKPOINT = "prompt_learner/model.pth.tar-3"


@pytest.fixture
def train(nerp, eurosat_root, golden_weights, tmp_path):
    """Trains a small CoOp in `tmp_path / folder`: (status, printed, error)."""
    weights = tmp_path / "clip.pt"
    weights.write_bytes(golden_weights.read_bytes())

    def train(folder, *opts):
        return nerp(*train.command(folder, *opts))

    def command(folder, *opts):
        return ["train", "--trainer", "CoOp", "--root", eurosat_root, "--dataset", "eurosat",
                "--config-file", "configs/trainers/CoOp/vit_b16.yaml", "--output-dir",
                tmp_path / folder, "MODEL.BACKBONE.PATH", weights, "DATASET.NUM_SHOTS", "2",
                "DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.MAX_EPOCH", "3",
                "DATALOADER.TRAIN_X.BATCH_SIZE", "5", "TRAINER.COOP.N_CTX", "4", *opts]

    train.command, train.weights = command, weights
    return train


def left_over(folder):
    return [path for path in folder.rglob(".*") if path.is_file()]


@pytest.fixture
def file_limit():
    """Sets the largest file that this process may write, in bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [500, 2500])
def test_a_training_that_may_not_write_more_says_so(size, train, tmp_path, file_limit):
    file_limit(size)
    status, _, error = train("cut")
    file_limit(resource.RLIM_INFINITY)
    assert status == 1 and is_one_line(error) and "cannot be written: File too large" in error
    assert str(tmp_path / "cut") in error and "bytes needed" in error
    assert not left_over(tmp_path) and not (tmp_path / "cut" / "result.json").exists()


@pytest.mark.parametrize("size", [10, 500])  # the header does not fit, or what is said later
def test_a_log_that_cannot_be_written_is_closed(size, tmp_path, file_limit, monkeypatch):
    """Python 3.13 and newer print a traceback where the interpreter has to close it."""
    opened = []
    monkeypatch.setattr(log, "_LogFile",
                        lambda path, make=log._LogFile: opened.append(make(path)) or opened[-1])
    file_limit(size)
    with pytest.raises(NerpError, match="cannot be written"), log.RunLog() as run:
        run.write_to(tmp_path, "header" * 10)
        for _ in range(100):
            log.say("what a run says")
    assert opened[0].stream is None


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "training_state.pt",
                                  "model.pth.tar-3", "checkpoint", "result.json"])
def test_a_disk_that_is_full_at_any_file_ends_the_training_and_it_goes_on_later(
    name, train, tmp_path, monkeypatch
):
    write, chance = Path.write_bytes, iter([name == "training_state.pt"])

    def fill(path, data):
        if path.name.startswith(f".{name}.") and not next(chance, False):
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    assert train("whole")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fill)
        status, _, error = train("cut")
    assert status == 1 and is_one_line(error)
    assert f"{name}: cannot be written: No space left on device (" in error
    assert not left_over(tmp_path) and not (tmp_path / "cut" / "result.json").exists()
    status, _, error = train("cut")
    assert status == 0, error
    assert (tmp_path / "cut" / CHECKPOINT).read_bytes() == (
        tmp_path / "whole" / CHECKPOINT).read_bytes()


def test_what_cannot_be_written_names_the_file_and_the_space(tmp_path):
    write_text(tmp_path / "a", "old")
    with pytest.raises(NerpError, match=f"{tmp_path}/a: cannot be written: No space left on device "
                       r"\([\d,]+ bytes needed, [\d,]+ left in /"), replacing(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert (tmp_path / "a").read_text() == "old" and not left_over(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NerpError, match="file/x: cannot be written"):
        write_text(tmp_path / "file" / "x", "")


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    old = tmp_path / ".a.json.abcd1234.partial"
    old.touch()
    with replacing(tmp_path / "a.json") as partial:
        assert not old.exists()
        clear_partials(tmp_path)
        write_bytes(tmp_path / "a.json", b"other")
        assert partial.exists()  # this one is being written
        partial.write_text("mine")
    assert (tmp_path / "a.json").read_text() == "mine" and not left_over(tmp_path)


def test_a_training_that_ends_in_its_last_test_only_tests_again(train, tmp_path, monkeypatch):
    assert train("whole")[0] == 0
    with monkeypatch.context() as patch:
        def end(*_):
            raise KeyboardInterrupt

        patch.setattr("nerp.engine.run.compute_logits", end)
        assert train("cut")[0] == 130
    assert (tmp_path / "cut" / "training_state.pt").exists()

    def learn(*_):
        raise AssertionError("it trains again")

    monkeypatch.setattr("nerp.trainers.coop.CoOp.loss", learn)
    status, text, error = train("cut")
    assert status == 0 and "resuming after epoch 3 of 3" in text, error
    assert not (tmp_path / "cut" / "training_state.pt").exists()
    for name in (CHECKPOINT, "metrics.csv"):
        assert (tmp_path / "cut" / CHECKPOINT).read_bytes() == (
            tmp_path / "whole" / CHECKPOINT).read_bytes(), name


def test_a_damaged_state_is_refused_or_goes_on_to_the_same_model(train, tmp_path, monkeypatch):
    from nerp.engine import train as module

    finish = module.TrainingRun._finish

    def stop(self, stretch):
        finish(self, stretch)
        raise KeyboardInterrupt

    assert train("whole")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(module.TrainingRun, "_finish", stop)
        assert train("cut")[0] == 130
    state = tmp_path / "cut" / "training_state.pt"
    whole = state.read_bytes()
    content = torch.load(state, weights_only=True)
    for change in ({"epoch": 999}, {"epoch": 0}, {"epoch": True}, {"epoch": "1"}, {"step": 1},
                   {"mean": 1}, {"tensors": {}}, {"tensors": 3}, {"optimizer": {}}, {"scaler": []},
                   {"tensors": {"ctx": torch.full((4, 128), float("nan"))}}):
        torch.save(content | change, state)
        status, _, error = train("cut")
        assert status == 1 and is_one_line(error) and "training_state.pt" in error, change
    for data in flips(whole, 6, 3):
        state.write_bytes(data)
        status, _, error = train("cut")
        assert status == 1 and is_one_line(error) or status == 0
        if status == 0:
            break
    state.write_bytes(whole)
    assert train("cut")[0] == 0
    assert (tmp_path / "cut" / CHECKPOINT).read_bytes() == (
        tmp_path / "whole" / CHECKPOINT).read_bytes()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_state_of_another_form_is_refused_or_goes_on_the_same(
    optimizer, train, tmp_path, monkeypatch
):
    from nerp.engine.train import TrainingRun

    runs, finish = [], TrainingRun._finish

    def stop(run, *args):
        runs.append(run)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "_finish", lambda *args: (finish(*args), stop(*args)))
        assert train("cut", "OPTIM.NAME", optimizer)[0] == 130
    monkeypatch.setattr(TrainingRun, "run", stop)
    status, _, error = train("cut", "OPTIM.NAME", optimizer)
    assert status == 130, error
    run, state = runs[-1], tmp_path / "cut" / "training_state.pt"
    content = torch.load(state, weights_only=True)
    good = copy.deepcopy(run.optimizer.state_dict())
    parts = {name: content[name] for name in ("tensors", "optimizer", "stepped", "scaler")}
    cases = list(other_types(parts))
    for where, changed in cases:
        try:
            with reading(state, "a state"):
                run._restore(copy.deepcopy({**content, **changed}), state)
        except NerpError:
            continue
        assert same(run.optimizer.state_dict(), good), where
        assert same(run.trainer.learned.state_dict(), content["tensors"]), where
    assert len(cases) > 150


def test_another_backbone_in_the_same_place_is_another_run(train, tmp_path):
    assert train("run")[0] == 0
    assert "finished already" in train("run")[1]
    state = torch.load(train.weights, weights_only=True)
    state["visual.proj"][0, 0] += 1
    torch.save(state, train.weights)
    status, _, error = train("run")
    assert status == 1 and "MODEL.BACKBONE.PATH: the file's content" in error


def test_a_folder_has_one_run(train, tmp_path):
    with holding(tmp_path / "run"):
        status, _, error = train("run")
        assert status == 1 and "another command is at work in" in error
    assert not (tmp_path / "run").exists()  # it was made, and nothing came into it


def test_the_digest_of_a_large_file_is_kept_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "large"
    file.write_bytes(bytes(2**25 + 1))
    before = time.time() - 100
    os.utime(file, (before, before))
    monkeypatch.setattr("nerp.files.digest.SETTLED", -1e9)
    first = content_digest(file)
    assert (tmp_path / "cache" / "nerp" / "digests.json").is_file()
    monkeypatch.setattr("nerp.files.digest.file_digest", lambda path: "computed again")
    content_digest.__globals__["_digest"].cache_clear()
    assert content_digest(file) == first
    with open(file, "r+b") as content:
        content.write(b"x")
    os.utime(file, (before, before))
    assert content_digest(file) == "computed again"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_of_several_that_is_killed_ends_the_others(rank, train, tmp_path):
    """What it leaves is whole, and the same command goes on."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
                "2", "-m", "nerp"]
    command = [*launcher, *map(str, train.command("cut", "OPTIM.MAX_EPOCH", "60"))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    state = tmp_path / "cut" / "training_state.pt"
    while not state.exists() and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    os.kill(int(children.stdout.split()[rank]), signal.SIGKILL)
    assert process.wait(timeout=120) != 0
    assert not left_over(tmp_path) and not (tmp_path / "cut" / "result.json").exists()
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
    assert (tmp_path / "cut" / "result.json").exists()


def test_bounded_notices():
    with pytest.raises(Hangs), bounded(seconds=1):
        try:
            time.sleep(5)
        except Exception:
            pytest.fail("it was taken for an error")
