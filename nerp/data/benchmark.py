"""A benchmark: the images of a dataset's three splits and its classes, read from its card."""

import hashlib
import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.printable import is_printable
from nerp.base.registry import DRAWN, LAYOUTS

SPLITS = ("train", "val", "test")
T = TypeVar("T")


class Item(NamedTuple):
    """One image: its path below the image folder, its label, its class name as on disk."""

    path: str
    label: int
    classname: str


class Within(NamedTuple):
    """The place of classes among those of a larger dataset: the larger dataset's `total` number of
    classes, and each class's label there."""

    total: int
    places: tuple[int, ...]


class Listing(NamedTuple):
    """What the reader of a layout returns.

    image_dir: the folder that the items' paths are relative to. splits: the items of train, val and
    test. classnames: every class in label order, if the layout lists classes apart from the images
    (a class then keeps its label even if a split has no image of it); None: the classes of the
    items. within: of a variant of ImageNet, its classes among ImageNet's.
    """

    image_dir: Path
    splits: dict[str, list[Item]]
    classnames: list[str] | None = None
    within: Within | None = None


@dataclass(frozen=True)
class Benchmark:
    """Attributes:
        name: the registry name (EuroSAT).
        directory: its folder.
        image_dir: the folder that image paths are relative to.
        train, val, test: the items, in the order of the lists on disk; a split may be empty.
        classnames: in label order, underscores replaced by spaces; some may have no image.
        written: the same with their underscores.
        within: as in `Listing`.
    """

    name: str
    directory: Path
    image_dir: Path
    train: list[Item] = field(repr=False)
    val: list[Item] = field(repr=False)
    test: list[Item] = field(repr=False)
    classnames: list[str] = field(repr=False)
    written: list[str] = field(default_factory=list, repr=False)
    within: Within | None = field(default=None, repr=False)

    def select(self, labels: Iterable[int]) -> "Benchmark":
        """Only these classes, relabelled from 0 in ascending order of their labels."""
        labels = sorted(labels)
        new = {label: i for i, label in enumerate(labels)}

        def kept(items: list[Item]) -> list[Item]:
            return [item._replace(label=new[item.label]) for item in items if item.label in new]

        def of_classes(column: Sequence[T]) -> list[T]:
            return [column[label] for label in labels] if column else []

        within = self.within and self.within._replace(places=tuple(of_classes(self.within.places)))
        return replace(self, train=kept(self.train), val=kept(self.val), test=kept(self.test),
                       classnames=of_classes(self.classnames), written=of_classes(self.written),
                       within=within)


def dataset_folder(cfg: CfgNode) -> Path:
    """Where the dataset's folder belongs, whether or not it exists."""
    return Path(cfg.DATASET.ROOT).expanduser() / str(cfg.DATASET.DIRECTORY)


def data_directory(cfg: CfgNode) -> Path:
    """The dataset's folder; a procedural benchmark is drawn if it is not there.

    Raises NerpError if there is none.
    """
    directory = dataset_folder(cfg)
    if directory.is_dir():
        return directory
    if cfg.DATASET.DIRECTORY in DRAWN.names():
        drawn: Path = DRAWN[cfg.DATASET.DIRECTORY](directory.parent, sys.stderr.isatty())
        return drawn
    what = "a link that leads nowhere:" if directory.is_symlink() else "no folder"
    card = cfg.DATASET
    by_hand = any("STEP" in source for source in card.SOURCES)
    gets = "fetches what can be fetched, and says how to get the rest" if by_hand else "fetches it"
    fetch = f"; nerp data prepare {card.NAME} --root {shlex.quote(card.ROOT)} {gets}"
    raise NerpError(f"{card.NAME}: {what} {directory}; --root is the folder that holds "
                    f"{card.DIRECTORY}/{fetch if card.SOURCES else ''}")


def open_benchmark(cfg: CfgNode) -> Benchmark:
    """Read the lists of the dataset that `cfg` names; no image is opened.

    Raises NerpError for a missing folder or list, a list that is not in its layout, labels that
    are not 0..C-1, a label with two names, or a class count other than the card's.
    """
    bench, problems = read_benchmark(cfg)
    for problem in problems:
        raise NerpError(f"{bench.name}: {problem} ({bench.directory})")
    return bench


def read_benchmark(cfg: CfgNode) -> tuple[Benchmark, list[str]]:
    """`open_benchmark`, but problems with the labels are returned instead of raised."""
    card = cfg.DATASET
    directory = data_directory(cfg)
    image_dir, splits, classnames, within = Listing(*LAYOUTS[card.LAYOUT](card, directory))
    called = {(item.label, item.classname) for items in splits.values() for item in items}
    problems = [] if called else ["no images are listed"]
    called.update(enumerate(classnames or ()))
    names: dict[int, str] = {}
    for label, name in sorted(called):
        if names.setdefault(label, name) != name:
            problems.append(f"label {label} is called both {names[label]!r} and {name!r}")
    if list(names) != list(range(len(names))):
        problems.append(f"labels must be 0..{len(names) - 1}, found {min(names)}..{max(names)}, "
                        f"{len(names)} of them")
    if card.NUM_CLASSES and len(names) != card.NUM_CLASSES:
        problems.append(f"{len(names)} classes, the card says {card.NUM_CLASSES} "
                        "(DATASET.NUM_CLASSES)")
    problems += [f"label {label} is called {name!a}, which cannot stand in a prompt"
                 for label, name in names.items() if not name.strip() or not is_printable(name)]
    shown = [name.replace("_", " ") for name in names.values()]
    bench = Benchmark(card.NAME, directory, image_dir, **splits, classnames=shown,
                      written=list(names.values()), within=within)
    return bench, problems


def comparable(name: str) -> str:
    """A class name in the form for comparisons: lower case, spaces for underscores."""
    return " ".join(name.replace("_", " ").lower().split())


def distinct(classnames: Sequence[str]) -> list[str]:
    """Class names that identify a class each: if several classes share a name, or their names
    differ only in case and underscores, the label is appended."""
    counts = Counter(map(comparable, classnames))
    return [name if counts[comparable(name)] == 1 else f"{name} ({label})"
            for label, name in enumerate(classnames)]


def split_digest(items: Sequence[Item] | Sequence[str]) -> str:
    """16 hex digits of a list of items (paths, labels and names) or of class names, in order."""
    return hashlib.sha256(json.dumps(items).encode()).hexdigest()[:16]
