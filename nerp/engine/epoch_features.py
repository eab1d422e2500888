"""Epochs of frozen features instead of images, where a method leaves the image encoder as it is."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.distributed import rank, world_size
from nerp.base.log import say
from nerp.clip.device import send
from nerp.clip.model import Clip
from nerp.data.benchmark import Benchmark
from nerp.data.images import epoch_batches
from nerp.engine.training_features import TrainingFeatures


class EpochFeatures:
    """The batches of an epoch as features [B, D], of any length, with labels [B], on the device.

    What the frozen image encoder makes of an epoch's augmented images depends on the selection, the
    transform, the seed and the epoch, and on nothing that a method learns. So an epoch is encoded
    as a whole, in parts that are the same for every method, and kept beside the data for the next
    one. The numbers do not depend on who has encoded them.

    Attributes:
        batch_sampler: which images are in which batch; its steps can be chosen.
        images: the run's features, which know how many epochs were read and encoded.
    """

    def __init__(self, bench: Benchmark, cfg: CfgNode, clip: Clip, directory: Path):
        """Args: directory: the run's folder."""
        epochs = cfg.OPTIM.MAX_EPOCH
        self.batch_sampler = epoch_batches(len(bench.train), cfg, rank(), world_size())
        self.images = TrainingFeatures(bench, cfg, clip, directory)
        self._labels = self.images.labels("train")
        self._device = clip.device
        bytes_each = 2 if clip.precision.weights == torch.float16 else 4
        size = epochs * len(bench.train) * clip.embed_dim * bytes_each / 2**20
        most = cfg.DATALOADER.FEATURES_MB
        self._keep = size <= most
        if most and not self._keep:
            say(f"the features of {epochs} epochs of augmented images take {size:,.0f} MiB, more "
                f"than DATALOADER.FEATURES_MB ({most:,}): they are not kept for other runs",
                file_only=True)

    def decode(self, limit_mb: int) -> None:
        """Nothing: images are decoded where an epoch has to be encoded."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        chosen = [[index for _, index in batch] for batch in self.batch_sampler]
        order = send(torch.tensor([index for batch in chosen for index in batch]), self._device)
        features = self.images.drawn(self.batch_sampler.epoch, keep=self._keep)
        sizes = [len(batch) for batch in chosen]
        yield from zip(features[order].split(sizes), self._labels[order].split(sizes), strict=True)
