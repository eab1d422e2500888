"""The inputs of a training, epoch by epoch: augmented images, or their frozen features."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.distributed import rank, world_size
from nerp.clip.device import send
from nerp.data.benchmark import Benchmark
from nerp.data.images import (
    EpochBatches,
    Normalise,
    draws,
    epoch_batches,
    train_loader,
    train_set,
)
from nerp.engine.training_features import TrainingFeatures
from nerp.trainers.base import Trainer

Shown = tuple[tuple[Tensor, ...], Tensor]


class Epochs(Protocol):
    """This process's part of the batches of an epoch, on the device: inputs of `Trainer.loss`, one
    tensor per view, and labels [B].

    Attributes:
        batches: which images are in which batch; its steps can be chosen.
        features: the frozen features that are used; None: images are used.
    """

    batches: EpochBatches

    @property
    def features(self) -> TrainingFeatures | None: ...

    def __iter__(self) -> Iterator[Shown]: ...


class EpochImages:
    """Normalised augmented views of images, each [B, 3, S, S]; see `Epochs`."""

    features: TrainingFeatures | None = None

    def __init__(self, trainer: Trainer, bench: Benchmark, cfg: CfgNode):
        self.device = trainer.clip.device
        self.dataset = train_set(bench.train, bench.image_dir, cfg, trainer.clip.size)
        self.loader = train_loader(
            self.dataset, cfg, self.device, rank(), world_size(), _keeps_last(trainer)
        )
        self.batches = self.loader.batch_sampler
        self._views = trainer.views
        self._normalise = Normalise(cfg, self.device)
        self._most = cfg.DATALOADER.CACHE_MB
        self._is_decoded = False

    def __iter__(self) -> Iterator[Shown]:
        if not self._is_decoded:
            self.dataset.decode(self._most)
            self._is_decoded = True
        for pixels, labels in self.loader:
            yield self.on_device(pixels, labels)

    def on_device(self, pixels: Tensor, labels: Tensor) -> Shown:
        """A batch of the loader, uint8 [B, K, 3, S, S] with labels [B], as inputs of the loss."""
        views = self._normalise(pixels[:, : self._views]).unbind(1)
        return views, labels.to(self.device, non_blocking=True)


class EpochFeatures:
    """Frozen features [B, D], of any length, in place of images; see `Epochs`.

    The frozen image encoder's outputs for an epoch's augmented images depend on the selection, the
    transform, the seed and the epoch, but on nothing that a method learns. So an epoch is encoded
    as a whole, in parts that are the same for every method, and kept beside the data. The numbers
    do not depend on which method encoded them. If the transform is not random, all epochs are the
    same.
    """

    def __init__(self, trainer: Trainer, bench: Benchmark, cfg: CfgNode, directory: Path):
        """Args: directory: the run's folder."""
        self._draws = draws(cfg)
        passes = cfg.OPTIM.MAX_EPOCH if self._draws else 1
        self.batches = epoch_batches(
            len(bench.train), cfg, rank(), world_size(), _keeps_last(trainer)
        )
        self.features = TrainingFeatures(bench, cfg, trainer.clip, directory, passes)
        self._labels = self.features.labels("train")
        self._drawn = lru_cache(maxsize=1)(self.features.drawn)

    def __iter__(self) -> Iterator[Shown]:
        chosen = [[index for _, index in batch] for batch in self.batches]
        places = torch.tensor([index for batch in chosen for index in batch])
        order = send(places, self._labels.device)
        features = self._drawn(self.batches.epoch if self._draws else 0)
        sizes = [len(batch) for batch in chosen]
        for outputs, labels in zip(features[order].split(sizes), self._labels[order].split(sizes),
                                   strict=True):
            yield (outputs,), labels


def _keeps_last(trainer: Trainer) -> bool:
    """Whether an incomplete last batch of an epoch is used. A training that is counted in steps
    uses it."""
    return trainer.keeps_last or trainer.steps is not None


def epochs_of(trainer: Trainer, bench: Benchmark, cfg: CfgNode, directory: Path) -> Epochs:
    """The inputs that a method trains on. Args: directory: the run's folder."""
    if trainer.learns_on_outputs:
        return EpochFeatures(trainer, bench, cfg, directory)
    return EpochImages(trainer, bench, cfg)
