"""Trainings that die in their final test: by kill -9 at every step of it, and on a full disk. They
go on without training again, to the same numbers bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

CHECKPOINT = "prompt_learner/model.pth.tar-2"
# Runs a command line in a fork for every moment, which ends there; prints the exit statuses.
CODE = """
import json, os, resource, signal, sys
from pathlib import Path

import numpy as np
import torch

from nerp import cli
from nerp.engine import evaluate, run

torch.set_num_threads(1)
moments, command = json.loads(sys.argv[1])
write, savez = Path.write_bytes, np.savez


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def half_kept(file, **arrays):
    file.write(bytes(100))
    file.flush()
    die()


def half_recorded(path, data):
    if not path.name.startswith(".result.json."):
        return write(path, data)
    write(path, data[: len(data) // 2])
    die()


def fill(*args, **kwargs):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))
    return compute(*args, **kwargs)


compute = run.compute_logits
CHANGES = {
    "it begins": (run, "compute_logits", die),
    "the images are encoded": (evaluate, "interleave", die),
    "the logits are half kept": (np, "savez", half_kept),
    "the record is half written": (Path, "write_bytes", half_recorded),
    "the record is there": (run, "forget_state", die),
    "the disk is full": (run, "compute_logits", fill),
}
statuses = []
for moment in moments:
    pid = os.fork()
    if not pid:
        setattr(*CHANGES[moment])
        os._exit(cli.run([*command, "--output-dir", moment]))
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(json.dumps(statuses))
"""
KILLED = ["it begins", "the images are encoded", "the logits are half kept",
          "the record is half written", "the record is there"]
FULL = "the disk is full"


@pytest.fixture(scope="module")
def ended(tmp_path_factory, eurosat_root, golden_weights):
    """A folder with a whole training and one for each moment; the command line of all; and what
    was said."""
    folder = tmp_path_factory.mktemp("ended")
    command = ["train", "--trainer", "CoOp", "--root", str(eurosat_root), "--dataset", "eurosat",
               "--config-file", "configs/trainers/CoOp/vit_b16.yaml", "MODEL.BACKBONE.PATH",
               str(golden_weights), "DATASET.NUM_SHOTS", "2", "DATASET.SUBSAMPLE_CLASSES", "base",
               "OPTIM.MAX_EPOCH", "2", "DATALOADER.TRAIN_X.BATCH_SIZE", "5",
               "DATALOADER.TEST.BATCH_SIZE", "4", "TRAINER.COOP.N_CTX", "4"]
    asked = json.dumps([[*KILLED, FULL], command])
    done = subprocess.run([sys.executable, "-c", CODE, asked], cwd=folder, capture_output=True,
                          text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    *said, statuses = done.stdout.splitlines()
    assert json.loads(statuses) == [-signal.SIGKILL] * len(KILLED) + [1]
    return folder, command, done.stderr


def numbers(folder):
    """What a training leaves, as far as it is not measured."""
    record = json.loads((folder / "result.json").read_text())
    for name in ("command", "start", "end", "seconds", "peak_memory_mib", "features"):
        record.pop(name, None)
    (file,) = folder.glob("prompt_learner/logits_cache/*.npz")
    with np.load(file) as content:
        logits = content["logits"].tobytes()
    return record, logits, (folder / CHECKPOINT).read_bytes()


@pytest.fixture(scope="module")
def whole(ended, tmp_path_factory):
    """The numbers of the training that nothing ended."""
    from nerp import cli

    folder = tmp_path_factory.mktemp("whole")
    assert cli.run([*ended[1], "--output-dir", str(folder)]) == 0
    return numbers(folder)


@pytest.mark.parametrize("moment", [*KILLED, FULL])
def test_it_goes_on_without_training_to_the_same_numbers(
    moment, ended, whole, nerp, tmp_path, monkeypatch
):
    def learn(*_):
        raise AssertionError("it trains again")

    folder = tmp_path / "cut"
    shutil.copytree(ended[0] / moment, folder)
    assert (folder / "training_state.pt").exists()
    assert (folder / "result.json").exists() is (moment == "the record is there")
    monkeypatch.setattr("nerp.trainers.coop.CoOp.loss", learn)
    status, said, error = nerp(*ended[1], "--output-dir", folder)
    assert status == 0, error
    again = "finished already" if moment == "the record is there" else "resuming after epoch 2 of 2"
    assert again in said
    assert numbers(folder) == whole
    assert not (folder / "training_state.pt").exists() and not [*folder.rglob("*.partial")]


def test_a_full_disk_is_said_in_a_line(ended):
    (line,) = [line for line in ended[2].splitlines() if "cannot be written" in line]
    assert line.startswith("nerp: error: ") and "the disk is full/log.txt: cannot be" in line
