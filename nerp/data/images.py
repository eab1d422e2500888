"""Image files to pixels: decoding, transforms, loaders.

Images travel as uint8 and are scaled and normalised on the device (`Normalise`), which gives the
numbers of ToTensor and Normalize at a quarter of the traffic.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.data.benchmark import Item
from nerp.data.decode import open_image
from nerp.data.randaugment import RandAugment

_DECODING_THREADS = 8
# How workers are started. Python's own choice depends on its version and the system; a forked
# worker is there at once and shares the decoded images. They never touch the device.
START_METHOD = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"

Transform = Callable[[Image.Image], Tensor]
Place = tuple[int, int]  # an epoch, and the position of an item in the list


def train_transform(cfg: CfgNode, size: int) -> Transform:
    """INPUT.TRANSFORMS for training, up to uint8 [3, size, size]."""
    from torchvision import transforms as T

    mode = T.InterpolationMode(cfg.INPUT.INTERPOLATION)
    known = {
        "random_resized_crop": T.RandomResizedCrop(
            size, scale=cfg.INPUT.RRCROP_SCALE, interpolation=mode
        ),
        "random_flip": T.RandomHorizontalFlip(),
        "center_crop": T.Compose([T.Resize((size, size), mode)])
        if cfg.INPUT.RESIZE_MODE == "squash" else
        T.Compose([T.Resize(size, mode), T.CenterCrop(size)]),
        "randaugment": T.Compose([T.Resize((size, size), mode), RandAugment()]),
        "normalize": None,
    }
    steps = [known[name] for name in cfg.INPUT.TRANSFORMS if known[name] is not None]
    transform: Transform = T.Compose([*steps, T.PILToTensor()])
    return transform


def draws(cfg: CfgNode) -> bool:
    """Whether the training transform is random, and so differs between epochs."""
    return any(name.startswith("rand") for name in cfg.INPUT.TRANSFORMS)


@dataclass(frozen=True)
class Whole:
    """The whole image as uint8 [3, size, size]: resized to `size` at its short side and cropped at
    the centre, or resized to a square. Equals torchvision's Resize, CenterCrop and PILToTensor to
    the bit, without importing torchvision."""

    size: int
    squash: bool
    mode: Image.Resampling

    def __call__(self, image: Image.Image) -> Tensor:
        size, short = self.size, min(image.size)
        width, height = (size if self.squash else int(size * side / short) for side in image.size)
        if image.size != (width, height):
            image = image.resize((width, height), self.mode)
        left, top = round((width - size) / 2), round((height - size) / 2)
        image = image.crop((left, top, left + size, top + size))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def eval_transform(cfg: CfgNode, size: int) -> Transform:
    """`Whole`, as INPUT.RESIZE_MODE and INPUT.INTERPOLATION say."""
    mode = Image.Resampling[cfg.INPUT.INTERPOLATION.upper()]
    return Whole(size, cfg.INPUT.RESIZE_MODE == "squash", mode)


def eval_identity(cfg: CfgNode) -> dict[str, object]:
    """The settings that affect the pixels of a test image, besides the backbone's size."""
    normalised = "normalize" in cfg.INPUT.TRANSFORMS
    names = ["INTERPOLATION", "RESIZE_MODE", "EXACT_JPEG",
             *(["PIXEL_MEAN", "PIXEL_STD"] if normalised else [])]
    return {name: cfg.INPUT[name] for name in names}


class Normalise:
    """uint8 [..., 3, H, W] -> float32, scaled to 0..1, minus the mean, over the deviation."""

    def __init__(self, cfg: CfgNode, device: torch.device):
        if "normalize" in cfg.INPUT.TRANSFORMS:
            mean, std = cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD
        else:
            mean, std = [0.0] * 3, [1.0] * 3
        self.mean, self.std = (torch.tensor(v, device=device)[:, None, None] for v in (mean, std))

    def __call__(self, pixels: Tensor) -> Tensor:
        return (pixels.to(self.mean.device, non_blocking=True) / 255 - self.mean) / self.std


class ImageSet(Dataset[tuple[Tensor, int]]):
    """Items as (`transform` of the image, label), indexed by (epoch, index).

    A random transform depends only on the run's seed, the epoch and the index. So a resumed run, or
    a run with another number of workers, sees the same images.
    """

    def __init__(
        self,
        items: Sequence[Item],
        image_dir: Path,
        transform: Transform,
        seed: int = 0,
        draft_side: int = 0,
    ):
        """draft_side: see `open_image`."""
        self.items = items
        self.image_dir = image_dir
        self.transform = transform
        self.seed = seed
        self.draft_side = draft_side
        self._decoded: dict[int, Image.Image] = {}

    def __len__(self) -> int:
        return len(self.items)

    def image(self, index: int) -> Image.Image:
        """The decoded image of an item."""
        if index in self._decoded:
            return self._decoded[index]
        return open_image(self.image_dir / self.items[index].path, self.draft_side)

    def decode(self, limit_mb: int) -> int:
        """Decode images and keep them in memory, up to `limit_mb` MiB; returns how many are
        kept."""
        if self._decoded:
            return len(self._decoded)
        left = limit_mb * 2**20
        with ThreadPoolExecutor(min(_DECODING_THREADS, os.cpu_count() or 1)) as pool:
            for index, image in enumerate(pool.map(self.image, range(len(self)))):
                left -= 3 * image.width * image.height
                if left < 0:
                    pool.shutdown(cancel_futures=True)
                    break
                self._decoded[index] = image
        return len(self._decoded)

    def __getitem__(self, key: Place) -> tuple[Tensor, int]:
        epoch, index = key
        # Python's hash of a tuple of integers is the same in every process.
        torch.default_generator.manual_seed(hash((self.seed, epoch, index)) % 2**63)
        return self.transform(self.image(index)), self.items[index].label

    def __getitems__(self, keys: list[Place]) -> list[tuple[Tensor, int]] | NerpError:
        """A batch, or the error of an image in it. (Raised in a worker process, an error would
        reach the main process as the text of a traceback.)"""
        try:
            return [self[key] for key in keys]
        except NerpError as error:
            return error


def eval_set(items: Sequence[Item], image_dir: Path, cfg: CfgNode, size: int) -> ImageSet:
    """Items to test on, at `size` pixels."""
    side = 0 if cfg.INPUT.EXACT_JPEG else size
    return ImageSet(items, image_dir, eval_transform(cfg, size), draft_side=side)


class Views:
    """This number of independent draws of a random transform, [K, 3, S, S]."""

    def __init__(self, transform: Transform, count: int):
        self.transform = transform
        self.count = count

    def __call__(self, image: Image.Image) -> Tensor:
        return torch.stack([self.transform(image) for _ in range(self.count)])


def train_set(items: Sequence[Item], image_dir: Path, cfg: CfgNode, size: int) -> ImageSet:
    """Items to learn from, each as DATALOADER.K_TRANSFORMS views [K, 3, size, size]."""
    views = Views(train_transform(cfg, size), cfg.DATALOADER.K_TRANSFORMS)
    return ImageSet(items, image_dir, views, cfg.SEED)


class EpochBatches(Sampler[list[Place]]):
    """Batches of (epoch, index) of the chosen steps of an epoch, by default of all steps, shuffled
    by the seed and the epoch. An incomplete last batch is dropped, unless it is the only one or is
    to be kept.

    Of each batch, a process takes every `processes`-th item, beginning with number `rank`.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
        keep_last: bool = False,
    ):
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.processes = processes
        steps = -(-count // batch_size) if keep_last else max(1, count // batch_size)
        self.choose(0, 0, steps)
        if (least := self.size(steps - 1)) < processes:
            raise NerpError(f"batches of {least} images cannot be shared by {processes} "
                            "processes; raise DATALOADER.TRAIN_X.BATCH_SIZE")

    def choose(self, epoch: int, first: int, last: int) -> None:
        """Take the steps `first` .. `last` - 1 of an epoch."""
        self.epoch, self.first, self.last = epoch, first, last

    def size(self, step: int) -> int:
        """The number of images in a step, over all processes."""
        return min(self.batch_size, self.count - step * self.batch_size)

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[Place]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count).tolist()
        for step in range(self.first, self.last):
            batch = order[step * self.batch_size :][: self.size(step)]
            yield [(self.epoch, index) for index in batch[self.rank :: self.processes]]


def epoch_batches(
    count: int, cfg: CfgNode, rank: int = 0, processes: int = 1, keep_last: bool = False
) -> EpochBatches:
    """The training batches of this size, with this process's part of each."""
    size = cfg.DATALOADER.TRAIN_X.BATCH_SIZE
    return EpochBatches(count, size, cfg.SEED, rank, processes, keep_last)


class Batches(DataLoader[tuple[Tensor, int]]):
    """A DataLoader of an ImageSet, with as many workers as suit the device.

    Yields pixels [B, ...] and labels [B], in pinned memory for a GPU. Raises NerpError for an image
    that cannot be decoded, whichever process reads it.
    """

    def __init__(
        self,
        dataset: ImageSet,
        cfg: CfgNode,
        device: torch.device,
        *,
        sampler: Sequence[Place] | None = None,
        batch_size: int = 1,
        batch_sampler: EpochBatches | None = None,
        persistent_workers: bool = False,
    ):
        """The other arguments are DataLoader's: what is drawn, and how."""
        workers = worker_count(cfg, device)
        super().__init__(
            dataset,
            num_workers=workers,
            multiprocessing_context=START_METHOD if workers else None,
            pin_memory=device.type == "cuda",
            collate_fn=_collate,
            sampler=sampler,
            batch_size=batch_size,
            batch_sampler=batch_sampler,
            persistent_workers=persistent_workers,
        )

    def __iter__(self) -> Iterator[list[Tensor]]:  # type: ignore[override]  # it is iterated over
        for batch in super().__iter__():
            if isinstance(batch, NerpError):
                raise batch
            yield batch


class TrainingBatches(Batches):
    """`Batches` of the steps that its `batch_sampler` has chosen."""

    batch_sampler: EpochBatches


def _collate(batch: list[tuple[Tensor, int]] | NerpError) -> list[Tensor] | NerpError:
    return batch if isinstance(batch, NerpError) else default_collate(batch)


def worker_count(cfg: CfgNode, device: torch.device) -> int:
    """The number of worker processes of a loader: 0 if the model itself needs every core."""
    return min(cfg.DATALOADER.NUM_WORKERS, os.cpu_count() or 1) if device.type == "cuda" else 0


def train_loader(
    dataset: ImageSet,
    cfg: CfgNode,
    device: torch.device,
    rank: int = 0,
    processes: int = 1,
    keep_last: bool = False,
) -> TrainingBatches:
    """Shuffled training batches, this process's part of each, of the steps that
    `loader.batch_sampler`, an `EpochBatches`, has chosen."""
    batches = epoch_batches(len(dataset), cfg, rank, processes, keep_last)
    persistent = worker_count(cfg, device) > 0
    return TrainingBatches(
        dataset, cfg, device, batch_sampler=batches, persistent_workers=persistent
    )


def eval_loader(
    dataset: ImageSet, cfg: CfgNode, device: torch.device, batch: int = 0, epoch: int = 0
) -> Batches:
    """The items in order, in batches of DATALOADER.TEST.BATCH_SIZE or of `batch`. epoch: for a
    random transform."""
    return Batches(
        dataset,
        cfg,
        device,
        sampler=[(epoch, index) for index in range(len(dataset))],
        batch_size=batch or cfg.DATALOADER.TEST.BATCH_SIZE,
    )
