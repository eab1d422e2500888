"""A training that dies while it fills the cache of augmented images' features loses nothing: it
goes on, and others read what is whole, to the same numbers bit for bit."""

import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import write_eurosat
from hostile import drawing

CHECKPOINT = "prompt_learner/model.pth.tar-3"
# Runs a command line in a fork for every moment, which ends there in the second epoch; prints the
# exit statuses.
CODE = """
import json, os, signal, sys

import numpy as np
import torch

from nerp import cli
from nerp.engine import training_features

torch.set_num_threads(1)
savez, encode = np.savez, training_features.encode_set
calls = {"kept": 0, "encoded": 0}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def half_kept(file, **arrays):
    calls["kept"] += 1
    if calls["kept"] == 2:
        file.write(bytes(100))
        file.flush()
        die()
    savez(file, **arrays)


def half_encoded(*args, **kwargs):
    calls["encoded"] += 1
    found = encode(*args, **kwargs)
    return found if calls["encoded"] < 2 else die()


CHANGES = {"half kept": (np, "savez", half_kept),
           "encoded and not kept": (training_features, "encode_set", half_encoded)}
statuses = []
for moment, command in json.loads(sys.argv[1]).items():
    pid = os.fork()
    if not pid:
        setattr(*CHANGES[moment])
        os._exit(cli.run(command))
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(json.dumps(statuses))
"""
MOMENTS = ["half kept", "encoded and not kept"]
# Runs two command lines side by side, each in a fork, over and over. Kills both shortly after some
# more sets of features are there; prints how many there were at each kill.
RANDOM = """
import json, os, signal, sys, time

import torch

import nerp.engine.run, nerp.engine.train
from nerp import cli

torch.set_num_threads(1)
commands, rounds, cache = json.loads(sys.argv[1])


def sets():
    return sum(name.endswith(".npz") for name in os.listdir(cache)) if os.path.isdir(cache) else 0


killed = []
for more, delays in rounds:
    pids, wanted, end = [], sets() + more, time.monotonic() + 30
    for command in commands:
        pids.append(os.fork())
        if not pids[-1]:
            os._exit(cli.run(command))
    while sets() < wanted and time.monotonic() < end:
        time.sleep(0.001)
    for pid, delay in zip(pids, delays):
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        if os.waitpid(pid, 0)[1] == signal.SIGKILL:
            killed.append(sets())
print(json.dumps(killed))
"""


def training(root, weights, folder, trainer="CoOp", epochs=3):
    """The command line of a small training that fills the cache of features beside its data."""
    return ["train", "--trainer", trainer, "--root", str(root), "--dataset", "eurosat",
            "--output-dir", str(folder), "MODEL.BACKBONE.PATH", str(weights), "DATASET.NUM_SHOTS",
            "2", "DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.MAX_EPOCH", str(epochs),
            "DATALOADER.TRAIN_X.BATCH_SIZE", "4", "TEST.NO_TEST", "True",
            f"TRAINER.{trainer.upper()}.N_CTX", "4"]


def run_code(code, value, folder):
    """What `code` prints, run with `value` as JSON."""
    done = subprocess.run([sys.executable, "-c", code, json.dumps(value)], cwd=folder,
                          capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def killed(tmp_path_factory, golden_weights):
    """By moment, the command line of a training that has died there, with data of its own."""
    folder = tmp_path_factory.mktemp("killed")

    commands = {
        moment: training(write_eurosat(folder / moment, per_class=8), golden_weights,
                         folder / moment / "run")
        for moment in MOMENTS
    }
    assert run_code(CODE, commands, folder) == [-signal.SIGKILL] * len(MOMENTS)
    return commands


def kept(command):
    """The names of whole sets of features, and of parts of some."""
    folder = os.path.join(command[command.index("--root") + 1], "eurosat", "features_cache")
    names = os.listdir(folder)
    whole = [name for name in names if name.endswith(".npz")]
    return whole, [name for name in names if "partial" in name]


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_is_whole_is_read_and_the_numbers_are_the_same(moment, killed, nerp, tmp_path):
    command = killed[moment]
    whole, parts = kept(command)
    assert len(whole) == 1 and len(parts) == (moment == "half kept")
    without = [*command, "DATALOADER.FEATURES_MB", "0"]
    without[without.index("--output-dir") + 1] = str(tmp_path / "without")
    assert nerp(*without)[0] == 0
    # Another one beside it, and the one that died.
    other = list(command)
    other[other.index("--output-dir") + 1] = str(tmp_path / "other")
    run = command[command.index("--output-dir") + 1]
    for words, read in ((other, 1), (command, 2)):
        status, _, error = nerp(*words)
        assert status == 0, error
        folder = words[words.index("--output-dir") + 1]
        with open(os.path.join(folder, "result.json")) as file:
            features = json.load(file)["features"]
        assert features["read"] == read, (folder == run, features)
        with open(os.path.join(folder, CHECKPOINT), "rb") as found:
            assert found.read() == (tmp_path / "without" / CHECKPOINT).read_bytes()
    assert len(kept(command)[0]) == 3


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(golden_weights, nerp, tmp_path):
    """Two methods side by side that fill and read one cache, killed twelve times each."""
    root, names, epochs = write_eurosat(tmp_path / "data", per_class=8), ("CoOp", "KgCoOp"), 40
    commands = [training(root, golden_weights, tmp_path / "cut" / name, name, epochs)
                for name in names]
    random = drawing("filling")
    rounds = [(random.randint(1, 3), [random.uniform(0, 0.1) for _ in names]) for _ in range(12)]
    cache = root / "eurosat" / "features_cache"
    killed = run_code(RANDOM, [commands, rounds, str(cache)], tmp_path)
    assert len(killed) > 12 and len({*killed}) > 6, killed
    for name, words in zip(names, commands, strict=True):
        whole = [*training(root, golden_weights, tmp_path / "whole" / name, name, epochs),
                 "DATALOADER.FEATURES_MB", "0"]
        for command in (words, whole):
            status, _, error = nerp(*command)
            assert status == 0, error
        cut_short, true = (
            (tmp_path / folder / name / f"prompt_learner/model.pth.tar-{epochs}").read_bytes()
            for folder in ("cut", "whole"))
        assert cut_short == true
