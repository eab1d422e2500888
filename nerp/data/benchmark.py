"""A benchmark: the images of a dataset's three splits and its classes, read from its card."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from yacs.config import CfgNode

from nerp.errors import NerpError
from nerp.registry import LAYOUTS

SPLITS = ("train", "val", "test")


class Item(NamedTuple):
    """One image: its path below the image folder, its label, its class name as on disk."""

    path: str
    label: int
    classname: str


@dataclass(frozen=True)
class Benchmark:
    """Attributes:
    name: the registry name (EuroSAT). directory: its folder. image_dir: what paths start from.
    train, val, test: the items, in the order of the lists on disk.
    """

    name: str
    directory: Path
    image_dir: Path
    train: list[Item] = field(repr=False)
    val: list[Item] = field(repr=False)
    test: list[Item] = field(repr=False)

    @property
    def classnames(self) -> list[str]:
        """Class names in label order, underscores replaced by spaces."""
        names = {item.label: item.classname for split in SPLITS for item in getattr(self, split)}
        return [names[label].replace("_", " ") for label in sorted(names)]

    def select(self, labels: Iterable[int]) -> "Benchmark":
        """Only these classes, relabelled from 0 in ascending order of their labels."""
        new = {label: i for i, label in enumerate(sorted(labels))}
        return replace(self, **{
            split: [
                item._replace(label=new[item.label])
                for item in getattr(self, split)
                if item.label in new
            ]
            for split in SPLITS
        })


def data_directory(cfg: CfgNode) -> Path:
    """Where the dataset should be. Raises NerpError if it is not there."""
    root = Path(cfg.DATASET.ROOT).expanduser()
    directory = root / cfg.DATASET.DIRECTORY
    if not directory.is_dir():
        raise NerpError(f"{cfg.DATASET.NAME}: no folder {directory}; --root is the folder that "
                        f"holds {cfg.DATASET.DIRECTORY}/, and DATASETS.md says how to fill it")
    return directory


def open_benchmark(cfg: CfgNode) -> Benchmark:
    """Read the lists of the dataset that `cfg` names; no image is opened.

    Raises NerpError for a missing folder or list, a list that is not in its layout, labels that
    are not 0..C-1, or a class count other than the card's.
    """
    directory = data_directory(cfg)
    image_dir, splits = LAYOUTS[cfg.DATASET.LAYOUT](cfg.DATASET, directory)
    bench = Benchmark(cfg.DATASET.NAME, directory, image_dir, **splits)
    _check_labels(bench, cfg.DATASET.NUM_CLASSES)
    return bench


def _check_labels(bench: Benchmark, expected: int) -> None:
    names: dict[int, str] = {}
    for split in SPLITS:
        for item in getattr(bench, split):
            known = names.setdefault(item.label, item.classname)
            if known != item.classname:
                raise NerpError(f"{bench.name}: label {item.label} is called both {known!r} and "
                                f"{item.classname!r} ({bench.directory})")
    if not names:
        raise NerpError(f"{bench.name}: no images are listed ({bench.directory})")
    if sorted(names) != list(range(len(names))):
        raise NerpError(f"{bench.name}: labels must be 0..{len(names) - 1}, found "
                        f"{min(names)}..{max(names)} ({bench.directory})")
    if expected and len(names) != expected:
        raise NerpError(f"{bench.name}: {len(names)} classes in {bench.directory}, the card says "
                        f"{expected} (DATASET.NUM_CLASSES)")


def split_digest(items: list[Item]) -> str:
    """16 hex digits of a list of items: paths, labels and names, in order."""
    return hashlib.sha256(json.dumps(items).encode()).hexdigest()[:16]
