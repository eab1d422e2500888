"""Frozen features of the images that a run trains on, kept beside the data for later runs."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.distributed import is_main
from nerp.base.log import say
from nerp.clip.model import Clip
from nerp.data.benchmark import Benchmark, Item
from nerp.data.digests import images_state
from nerp.data.images import ImageSet, eval_set, train_transform
from nerp.engine.cache import cached_features, feature_folders, trim
from nerp.engine.evaluate import FEATURE_BATCH, encode_set, share
from nerp.engine.kept_texts import KeptTexts

# The names of the splits in progress messages.
_WHAT = {"train": "training images", "val": "validation images", "test": "tested images"}


class TrainingFeatures:
    """The features of one run, with the methods of `nerp.trainers.on_features.Images`.

    An interrupted run finds the features that it has encoded. So does another run that draws the
    same images; for a given number of shots and seed, every method does. If all passes over
    randomly transformed images need more than DATALOADER.FEATURES_MB, none is kept: the last ones
    would displace the first, and other runs' entries too.
    """

    def __init__(
        self, bench: Benchmark, cfg: CfgNode, clip: Clip, directory: Path, passes: int
    ):
        """Args:
        directory: the run's folder, for files that cannot be kept beside the data.
        passes: the largest number of times that the training asks for randomly transformed images.
        """
        self._bench = bench
        self._cfg = cfg
        self._clip = clip
        self._directory = directory
        self._passes = passes
        self._texts = KeptTexts(clip, directory)
        self.read = self.encoded = 0  # sets of features that were kept, and that were encoded
        self._plain: dict[str, Tensor] = {}
        self._sets: dict[str, ImageSet] = {}
        self._are_kept: dict[str, bool] = {}  # by split, for randomly transformed images

    def plain(self, split: str) -> Tensor:
        if split not in self._plain:
            self._plain[split] = self._encoded(split)
        return self._plain[split]

    def _encoded(self, split: str) -> Tensor:
        items: list[Item] = getattr(self._bench, split)
        if not items:
            return torch.zeros(0, self._clip.embed_dim, device=self._clip.device)
        images = eval_set(share(items), self._bench.image_dir, self._cfg, self._clip.size)
        part = self._cfg.TEST.SPLIT if split == self._cfg.TEST.SPLIT else self._name(split)
        return self._kept(items, images, part, {}, 0, _WHAT[split])

    def drawn(
        self, number: int, which: Sequence[int] | None = None, split: str = "train"
    ) -> Tensor:
        cfg, items, keep = self._cfg, getattr(self._bench, split), self._keeps(split)
        part = f"{self._name(split)}-pass{number}"
        if which is None:
            images = self._decoded(split)
        else:
            items, part = [items[place] for place in which], f"{part}-chosen"
            images = self._set(items)
        by = {"transforms": list(cfg.INPUT.TRANSFORMS), "scale": list(cfg.INPUT.RRCROP_SCALE),
              "seed": cfg.SEED, "number": number}
        what = f"{_WHAT[split]}, pass {number + 1}"
        features = self._kept(items, images, part, by, number, what, keep)
        if keep and is_main():
            for folder in feature_folders(self._bench, self._directory):
                trim(folder, cfg.DATALOADER.FEATURES_MB * 2**20)
        return features

    def _keeps(self, split: str) -> bool:
        """Whether the features of a split's randomly transformed images are kept for other runs."""
        if split not in self._are_kept:
            clip, most = self._clip, self._cfg.DATALOADER.FEATURES_MB
            bytes_each = 2 if clip.precision.weights == torch.float16 else 4
            numbers = self._passes * len(getattr(self._bench, split)) * clip.embed_dim
            size = numbers * bytes_each / 2**20
            self._are_kept[split] = most > 0 and size <= most
            if size > most > 0:
                say(f"the features of {self._passes} passes over augmented {_WHAT[split]} take "
                    f"{size:,.0f} MiB, more than DATALOADER.FEATURES_MB ({most:,}): they are not "
                    "kept for other runs", file_only=True)
        return self._are_kept[split]

    def texts(self, texts: list[str], encode: Callable[[list[str]], Tensor]) -> Tensor:
        return self._texts.encode(texts, encode)

    def done(self) -> None:
        """Remove the features that were kept for this run alone."""
        self._texts.forget()

    def labels(self, split: str) -> Tensor:
        items = {"train": self._bench.train, "val": self._bench.val}[split]
        return torch.tensor([item.label for item in items], device=self._clip.device)

    @property
    def validates_on_tested(self) -> bool:
        tested = {item.path for item in self._bench.test}
        return any(item.path in tested for item in self._bench.val)

    def _decoded(self, split: str) -> ImageSet:
        """The images of a split, decoded once for all passes."""
        if split not in self._sets:
            self._sets[split] = self._set(getattr(self._bench, split))
        return self._sets[split]

    def _set(self, items: list[Item]) -> ImageSet:
        transform = train_transform(self._cfg, self._clip.size)
        return ImageSet(share(items), self._bench.image_dir, transform, self._cfg.SEED)

    def _name(self, split: str) -> str:
        return f"{split}-{self._cfg.DATASET.NUM_SHOTS}shots-seed{self._cfg.SEED}"

    def _kept(
        self, items: list[Item], images: ImageSet, part: str, drawn: dict[str, object],
        epoch: int, what: str, keep: bool = True,
    ) -> Tensor:
        clip, cfg, before = self._clip, self._cfg, self.encoded

        def compute() -> Tensor:
            self.encoded += 1
            images.decode(cfg.DATALOADER.CACHE_MB)
            return encode_set(clip.image_output, clip, images, len(items), cfg, FEATURE_BATCH,
                              epoch, what).cpu()

        if not keep:
            return compute().to(clip.device)
        state = images_state(items, self._bench.image_dir)
        found = cached_features(self._bench, items, state, cfg, clip, self._directory, compute,
                                part, drawn, quietly=True)
        self.read += self.encoded == before
        return found.to(clip.device)
