"""`nerp bench-data`: the loaders' rates."""

from itertools import islice

import pytest
import torch

from nerp.base.errors import NerpError
from nerp.data.speed import _drain, measure
from nerp.engine.tested import run_benchmark
from nerp.settings.resolve import Request, resolve


@pytest.fixture
def cfg(eurosat_root):
    return resolve(Request(
        trainer="CoOp", dataset="eurosat", root=str(eurosat_root),
        opts=["DATASET.NUM_SHOTS", "2", "DATALOADER.TRAIN_X.BATCH_SIZE", "8",
              "DATALOADER.TEST.BATCH_SIZE", "7"],
    )).cfg


def test_what_is_counted_is_what_came_after_the_first_batch(cfg, tmp_path):
    bench = run_benchmark(cfg, tmp_path)
    decoded, training, testing = measure(bench, cfg, 32, torch.device("cpu"), 0.01)
    assert decoded.images == len(bench.train) == 20
    assert training.images > 0 and training.images % training.batch == 0 and training.batch == 8
    assert testing.images > 0 and testing.batch == 7
    assert all(rate.seconds > 0 and rate.workers == 0 for rate in (decoded, training, testing))


def test_a_loader_of_one_batch_is_read_again():
    loader = torch.utils.data.DataLoader([(torch.zeros(1), 0)] * 3, batch_size=3)
    images, seconds = _drain(loader, 0.01)
    assert images % 3 == 0 and images > 0 and seconds >= 0.01


def test_nothing_to_read_is_said(cfg, tmp_path):
    bench = run_benchmark(cfg, tmp_path)
    empty = type(bench)(**{**vars(bench), "train": []})
    with pytest.raises(NerpError, match="no training images"):
        list(islice(measure(empty, cfg, 32, torch.device("cpu"), 1), 1))


def test_the_command_prints_three_rates(nerp, eurosat_root, tmp_path):
    status, text, error = nerp(
        "bench-data", "--trainer", "CoOp", "--root", eurosat_root, "--dataset", "eurosat",
        "--seconds", "0.01", "--output-dir", tmp_path, "INPUT.SIZE", "(48, 48)",
        "DATASET.NUM_SHOTS", "2",
    )
    assert status == 0, error
    assert "48 pixels" in text
    for line in ("decoding training images", "training batches", "evaluation batches"):
        assert line in text
