"""What a training says while it goes on, and the history that it leaves."""

import csv
import json
import re
import sys

import pytest

from nerp.engine.history import COLUMNS
from nerp.engine.train import TrainingRun


@pytest.fixture
def train(train):
    """Trains a small CoOp, 10 images in 2 steps an epoch: (status, printed, error)."""
    return lambda *opts, folder="run": train(
        folder, "OPTIM.MAX_EPOCH", "3", "OPTIM.LR", "0.001", *opts)


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def losses(rows):
    return [tuple(row[name] for name in COLUMNS if name != "seconds") for row in rows]


def test_every_epoch_is_a_line_of_standard_output_and_the_end_says_where(train, tmp_path):
    status, printed, error = train("TRAIN.PRINT_FREQ", "1")
    assert status == 0, error
    lines = [line for line in printed.splitlines() if line.startswith("epoch")]
    form = (r"epoch {} of 3: loss \d+\.\d{{4}}, accuracy \d+\.\d %, rate [\d.e-]+, "
            r"\d+\.\d s, \d+ s left")
    assert len(lines) == 3
    assert all(re.fullmatch(form.format(n), line) for n, line in enumerate(lines, 1))
    run, checkpoint = tmp_path / "run", "prompt_learner/model.pth.tar-3"
    assert printed.splitlines()[-1] == f"results in {run}, checkpoint: {checkpoint}"
    assert (run / checkpoint).is_file()


def test_the_line_of_an_epoch_is_the_mean_of_its_rows(train, tmp_path):
    _, printed, _ = train("TRAIN.PRINT_FREQ", "1")
    history = rows(tmp_path / "run")
    assert list(history[0]) == COLUMNS
    assert [(int(row["epoch"]), int(row["step"])) for row in history] == [
        (1, 1), (1, 2), (2, 3), (2, 4), (3, 5), (3, 6)
    ]
    means = [(float(a["loss"]) + float(b["loss"])) / 2 for a, b in zip(*[iter(history)] * 2,
                                                                    strict=True)]
    said = [float(text) for text in re.findall(r"^epoch.*loss ([\d.]+)", printed, re.MULTILINE)]
    assert said == pytest.approx(means, abs=1e-3)
    seconds = [float(row["seconds"]) for row in history]
    assert seconds == sorted(seconds)


def test_the_record_says_what_was_typed_when_and_with_which_code(train, tmp_path):
    train()
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["command"].startswith("nerp train --trainer CoOp --root ")
    assert record["start"] <= record["end"] and record["seconds"] > 0
    assert record["versions"]["nerp"] and "revision" in record
    log = (tmp_path / "run" / "log.txt").read_text()
    for line in (f"command: {record['command']}", f"start: {record['start']}",
                 f"end: {record['end']}"):
        assert f"\n{line}" in log


def test_an_interrupted_training_has_the_history_of_a_whole_one(train, tmp_path, monkeypatch):
    assert train(folder="whole")[0] == 0
    save = TrainingRun._save_state

    def interrupt(run, tensors):
        if run.done.stretches == 2:  # after metrics.csv, before the state: it is trained again
            raise KeyboardInterrupt
        save(run, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "_save_state", interrupt)
        assert train(folder="cut")[0] == 130
    assert len(rows(tmp_path / "cut")) == 2
    assert train(folder="cut")[0] == 0
    assert losses(rows(tmp_path / "cut")) == losses(rows(tmp_path / "whole"))


def test_a_run_that_is_replaced_leaves_no_history(train, tmp_path):
    train()
    train("OPTIM.MAX_EPOCH", "2", "--overwrite")
    assert [row["epoch"] for row in rows(tmp_path / "run")] == ["1", "2"]


def test_tensorboard_gets_the_same_numbers(train, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert train("TRAIN.TENSORBOARD", "True")[0] == 0
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    history = rows(tmp_path / "run")
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4, 6]
    for column in ("loss", "accuracy", "rate"):
        found = [event.value for event in events.Scalars(f"train/{column}")]
        assert found == pytest.approx([float(row[column]) for row in history], rel=1e-4)


def test_weights_and_biases_keeps_them_here_in_offline_mode(train, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert train("TRAIN.WANDB", "mine")[0] == 0
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    assert all(word in content for word in (b"loss", b"accuracy", b"rate", b"ViT-B/16", b"mine"))


@pytest.mark.parametrize(
    ("key", "value", "package"),
    [("TRAIN.TENSORBOARD", "True", "tensorboard"), ("TRAIN.WANDB", "mine", "wandb")],
)
def test_a_package_that_is_missing_is_one_line_before_anything_is_written(
    key, value, package, train, tmp_path, monkeypatch
):
    for name in (package, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    status, _, error = train(key, value)
    assert (status, error) == (1, f"nerp: error: {key} needs {package}: pip install {package}\n")
    assert not (tmp_path / "run").exists()
