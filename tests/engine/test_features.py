"""Frozen image features, kept for every method whose image encoder is untouched."""

import os
import threading
import time

import numpy as np
import pytest
import torch
from conftest import eurosat_classes, golden_config, write_eurosat

from nerp.base.registry import TRAINERS
from nerp.engine.cache import Kept, cached

KEPT = "features from"


@pytest.fixture
def tested(nerp, golden_weights, tmp_path):
    """Test a method that learns nothing on images of this folder; returns output and logits."""
    root = write_eurosat(tmp_path / "data", per_class=8)
    count = iter(range(100))

    def run(trainer, *args):
        out = tmp_path / f"shots_16/test{next(count)}"
        status, text, error = nerp(
            "test", "--trainer", trainer, "--root", root, "--dataset", "eurosat",
            "--output-dir", out, "--save-logits", "MODEL.BACKBONE.PATH", golden_weights,
            "DATASET.SUBSAMPLE_CLASSES", "new", *args,
        )
        assert status == 0, error
        return text, np.load(out / "predictions.npz")["logits"]

    run.folder = tmp_path
    run.cache = root / "eurosat/features_cache"
    return run


def test_it_follows_from_what_a_method_defines(golden_clip):
    shared = {name for name in ("ZeroshotCLIP", "CoOp", "CoCoOp", "PromptSRC", "MMA", "MMRL")
              if TRAINERS[name](golden_config(), golden_clip, eurosat_classes("base"))
              .frozen_images}
    assert shared == {"ZeroshotCLIP", "CoOp", "CoCoOp"}


def test_the_second_method_decodes_no_image(tested, monkeypatch):
    text, _ = tested("ZeroshotCLIP")
    assert KEPT not in text
    monkeypatch.setattr("nerp.engine.evaluate.eval_loader", None)
    text, kept = tested("ZeroshotCLIP2", "DATALOADER.TEST.BATCH_SIZE", "3")
    assert KEPT in text
    monkeypatch.undo()
    text, anew = tested("ZeroshotCLIP2", "DATALOADER.TEST.BATCH_SIZE", "3", "--no-cache")
    assert KEPT not in text and np.array_equal(kept, anew)


def test_training_and_its_tests_share_them(nerp, tested, golden_weights):
    tested("ZeroshotCLIP", "DATASET.SUBSAMPLE_CLASSES", "base")
    status, text, error = nerp(
        "train", "--trainer", "CoCoOp", "--root", tested.folder / "data", "--dataset", "eurosat",
        "--output-dir", tested.folder / "train", "MODEL.BACKBONE.PATH", golden_weights,
        "DATASET.SUBSAMPLE_CLASSES", "base", "DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "1",
        "TRAINER.COCOOP.N_CTX", "4",
    )
    assert status == 0, error
    assert KEPT in text


@pytest.mark.parametrize("change", [
    lambda folder: os.utime(folder / "data/eurosat/2750/River/River_4.jpg"),
    lambda folder: damage(next(folder.glob("data/eurosat/features_cache/*.npz"))),
], ids=["an image is touched", "the file is damaged"])
def test_what_is_stale_or_damaged_is_computed_anew(tested, change):
    _, before = tested("ZeroshotCLIP")
    change(tested.folder)
    text, after = tested("ZeroshotCLIP2")
    assert KEPT not in text
    text, again = tested("ZeroshotCLIP", "INPUT.RRCROP_SCALE", "(0.5,1.0)")
    assert KEPT in text and np.array_equal(before, again)


def damage(file):
    with np.load(file) as content:
        arrays = dict(content)
    arrays["features"] = arrays["features"] + 1
    np.savez(file, **arrays)


def test_another_transform_is_another_feature(tested):
    tested("ZeroshotCLIP")
    text, _ = tested("ZeroshotCLIP2", "INPUT.INTERPOLATION", "bilinear")
    assert KEPT not in text


def test_beside_data_that_cannot_be_written_they_are_kept_with_the_runs(tested):
    tested.cache.write_text("no folder can be made here")
    tested("ZeroshotCLIP")
    text, _ = tested("ZeroshotCLIP2")
    assert KEPT in text
    assert list((tested.folder / "features_cache").glob("*.npz"))


def test_of_two_that_want_the_same_one_computes(tmp_path):
    computed, got = [], []

    def compute():
        computed.append(1)
        time.sleep(0.2)
        return torch.ones(2, 3)

    def want():
        got.append(cached([Kept(tmp_path / "x.npz", tmp_path)], "key", "features", (2, 3), compute))

    both = [threading.Thread(target=want) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert len(computed) == 1
    assert all(torch.equal(tensor, torch.ones(2, 3)) for tensor in got)
