"""How fast the loaders deliver images, without a model."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.data.benchmark import Benchmark
from nerp.data.images import (
    Batches,
    TrainingBatches,
    eval_loader,
    eval_set,
    train_loader,
    train_set,
    worker_count,
)


class Rate(NamedTuple):
    """What was measured: `images` in `seconds`, in batches of `batch`, by `workers` processes."""

    what: str
    images: int
    seconds: float
    batch: int
    workers: int


def measure(
    bench: Benchmark, cfg: CfgNode, size: int, device: torch.device, seconds: float
) -> Iterator[Rate]:
    """The rates of the training and the evaluation loader of a run, each measured for this many
    seconds. As in a run, training images are first decoded into memory; that has a rate of its own.

    Args: size: the backbone's pixels. device: where the run would be; worker processes are only
    used for a GPU. Raises NerpError for a benchmark without images, or an image that cannot be
    decoded.
    """
    if not (bench.train and bench.test):
        raise NerpError(f"{bench.name}: no training images, or none to test on")
    workers = worker_count(cfg, device)
    training = train_set(bench.train, bench.image_dir, cfg, size)
    start = time.perf_counter()
    decoded = training.decode(cfg.DATALOADER.CACHE_MB)
    yield Rate("decoding training images", decoded, time.perf_counter() - start, 1, 0)
    loader = train_loader(training, cfg, device)
    batch = loader.batch_sampler.batch_size
    yield Rate("training batches", *_drain(loader, seconds), batch, workers)
    tested = eval_loader(eval_set(bench.test, bench.image_dir, cfg, size), cfg, device)
    yield Rate("evaluation batches", *_drain(tested, seconds), cfg.DATALOADER.TEST.BATCH_SIZE,
               workers)


def _drain(loader: Batches, seconds: float) -> tuple[int, float]:
    """The number of images delivered after the first batch, and in how many seconds."""
    images, epoch = 0, 0
    start: float | None = None
    while True:
        if isinstance(loader, TrainingBatches):
            loader.batch_sampler.epoch = epoch
        epoch += 1
        for pixels, _ in loader:
            now = time.perf_counter()
            if start is None:
                start = now  # processes were being started until here
                continue
            images += len(pixels)
            if now - start >= seconds:
                return images, now - start
