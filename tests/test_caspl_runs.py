"""CasPL from the command line: what it builds on is part of a run, and what it saw is said."""

import json
import shutil

import pytest
import torch
from conftest import GOLDEN, golden_options

from nerp.engine.checkpoint import read_checkpoint

NODE = "TRAINER.CASPL_COOP."


@pytest.fixture
def train(nerp, small_run, tmp_path):
    """Train CasPL_CoOp on base classes: status and what was said; into tmp_path/out."""
    flags, opts = small_run

    def run(*args):
        status, text, error = nerp(
            "train", "--trainer", "CasPL_CoOp", *flags, "--output-dir", tmp_path / "out", *opts,
            "DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.MAX_EPOCH", "1", f"{NODE}N_CTX", "2",
            f"{NODE}BOOSTING_EPOCH", "2", *args)
        return status, text + error

    return run


def test_a_run_from_the_boosting_phase_to_a_test(nerp, small_run, tmp_path):
    flags, opts = small_run
    boosting, adapted, tested = (tmp_path / name for name in ("boosting", "adapted", "tested"))
    opts = [*opts, "OPTIM.MAX_EPOCH", "1"]
    status, text, error = nerp(
        "train", "--trainer", "CasPL", *flags, "--output-dir", boosting, *opts,
        *golden_options("CasPL"),
        "DATASET.NUM_SHOTS", "-1", "DATASET.SUBSAMPLE_CLASSES", "all", "TEST.NO_TEST", "True")
    assert status == 0 and "60 training images of 10 classes" in text, error
    status, _, error = nerp(
        "test", "--trainer", "CasPL_NeRP", *flags, "--model-dir", boosting, "--output-dir",
        tmp_path / "corrected", *small_run[1], "DATASET.SUBSAMPLE_CLASSES", "new")
    assert status == 0, error
    assert "nerp" in json.loads((tmp_path / "corrected" / "result.json").read_text())
    status, text, error = nerp(
        "train", "--trainer", "CasPL_CoOp", *flags, "--output-dir", adapted, *opts,
        "DATASET.SUBSAMPLE_CLASSES", "base", f"{NODE}BOOSTING", boosting, f"{NODE}N_CTX", "2",
        f"{NODE}BOOSTING_EPOCH", "0")
    assert status == 0 and "builds on CasPL from" in text, error
    first, then = (read_checkpoint(path / folder / "model.pth.tar-1").tensors
                   for path, folder in ((boosting, "CasPL"), (adapted, "prompt_learner")))
    assert {*then} == {*first, "prompt_learner.ctx"}
    assert all(torch.equal(then[name], tensor) for name, tensor in first.items())
    shutil.rmtree(boosting / "CasPL")  # of no use to a test
    status, text, error = nerp(
        "test", "--trainer", "CasPL_CoOp_NeRP", *flags, "--model-dir", adapted, "--output-dir",
        tested, *small_run[1], "DATASET.SUBSAMPLE_CLASSES", "new")
    assert status == 0 and "trained, too, with the training images" in text, error
    for path in (boosting, adapted, tested):
        record = json.loads((path / "result.json").read_text())
        assert "without their labels" in record["also_seen"]


def test_what_it_builds_on_is_known_by_its_content(train, tmp_path):
    folder = tmp_path / "boosting"
    shutil.copytree(GOLDEN / "checkpoints" / "CasPL", folder)
    assert train(f"{NODE}BOOSTING", folder)[0] == 0
    file = folder / "CasPL" / "model.pth.tar-2"
    torch.save({"state_dict": read_checkpoint(file).tensors, "epoch": 2}, file)
    status, text = train(f"{NODE}BOOSTING", folder)
    assert status == 1 and f"{NODE}BOOSTING: the file's content" in text


@pytest.mark.parametrize(("given", "message"), [
    ("", f"{NODE}BOOSTING is empty: this phase builds on a CasPL checkpoint"),
    ("nowhere", f"{NODE}BOOSTING: nowhere: no checkpoint of epoch 2; there are: none"),
    (GOLDEN / "checkpoints" / "CoOp" / "prompt_learner" / "model.pth.tar-2",
     "a checkpoint of CoOp, not of CasPL"),
    (GOLDEN / "checkpoints" / "CasPL_CoOp" / "prompt_learner" / "model.pth.tar-2",
     "a checkpoint of CasPL_CoOp, not of CasPL"),
])
def test_what_cannot_be_built_on_is_one_line(given, message, train, tmp_path):
    status, text = train(f"{NODE}BOOSTING", given)
    (error,) = [line for line in text.splitlines() if line.startswith("nerp: error: ")]
    assert status == 1 and message in error and not (tmp_path / "out").exists()
