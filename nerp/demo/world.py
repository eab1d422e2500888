"""The procedural benchmarks: what they contain, how an image is drawn, how a benchmark is written.

Three small worlds stand in for downloads: `demo_landcover`, `demo_textures` and `demo_objects`.
Every image is a function of (world, seed, split, label, index) alone, so the same files come out
whatever the order or the number of processes. This module does not need torch.
"""

import json
import multiprocessing
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from nerp.base.beside import alone, fresh_folder, remove
from nerp.base.registry import DRAWN, unknown
from nerp.demo import landcover, objects, textures
from nerp.demo.canvas import Bytes, other_camera

BENCHMARK_SEED = 1
PRETRAINING_SEED = 2
IMAGES_PER_CLASS = {"train": 40, "val": 20, "test": 150}

Wanted = tuple[str, int, int, str]  # an image of a benchmark: split, label, index, path
T = TypeVar("T")
R = TypeVar("R")

# The first seed with which both halves of every world have frequent and rare classes alike.
_FREQUENCY_SEED = 66


@dataclass(frozen=True)
class World:
    """One benchmark: its registry name, classes in label order, prompts, and how to draw a class.

    `captions` are the templates that pre-training draws from; `render(label, rng)` returns a uint8
    image [64, 64, 3].
    """

    registry_name: str
    classnames: tuple[str, ...]
    template: str
    neutral: str
    captions: tuple[str, ...]
    render: Callable[[int, np.random.Generator], Bytes]


WORLDS = {
    "demo_landcover": World(
        registry_name="DemoLandcover",
        classnames=tuple(landcover.SCENES),
        template="a centered satellite photo of {}.",
        neutral="a centered satellite photo",
        captions=(
            "a centered satellite photo of {}.",
            "a satellite photo of {}.",
            "a satellite image of {}.",
            "an aerial photo of {}.",
            "{} seen from above.",
            "a photo of a {}.",
            "a blurry photo of the {}.",
        ),
        render=landcover.draw,
    ),
    "demo_textures": World(
        registry_name="DemoTextures",
        classnames=tuple(textures.PATTERNS),
        template="{} texture.",
        neutral="texture.",
        captions=(
            "{} texture.",
            "a photo of a {} texture.",
            "a close-up photo of a {} surface.",
            "a {} pattern.",
            "something {}.",
            "a photo of a {}.",
            "a bad photo of the {}.",
        ),
        render=textures.draw,
    ),
    "demo_objects": World(
        registry_name="DemoObjects",
        classnames=tuple(objects.SHAPES),
        template="a photo of a {}.",
        neutral="a photo of an object.",
        captions=(
            "a photo of a {}.",
            "a photo of the {}.",
            "a photo of my {}.",
            "a drawing of a {}.",
            "a close-up photo of a {}.",
            "a cropped photo of the {}.",
            "itap of a {}.",
        ),
        render=objects.draw,
    ),
}


def draw(name: str, seed: int, split: str, label: int, index: int) -> Bytes:
    """Image `index` of class `label` in a split of world `name`: uint8 [64, 64, 3].

    Any `split` string and any non-negative `seed` and `index` name an image of their own.
    """
    return WORLDS[name].render(label, _generator(name, split, seed, label, index))


def class_frequency(name: str, exponent: float = 1.0) -> dict[str, float]:
    """The share of pre-training images that each class of world `name` has, {class name: share}.

    A long tail: Zipf's law, shares as rank ** -exponent, over the classes of all worlds together,
    which hold the ranks 1, 2, 3, ... in an order that was drawn once and is unrelated to the
    labels. The shares of all worlds sum to 1.
    """
    classes = [(world, classname) for world in WORLDS for classname in WORLDS[world].classnames]
    ranks = np.random.default_rng(_FREQUENCY_SEED).permutation(len(classes)) + 1.0
    weights = ranks**-exponent
    shares = (weights / weights.sum()).tolist()
    return {c: share for (world, c), share in zip(classes, shares, strict=True) if world == name}


def build(
    name: str, root: str | Path, progress: bool = True, seed: int | None = None
) -> Path:
    """Write benchmark `name` under the folder `root` and return its folder, `root`/`name`.

    `seed` draws other images of the same classes than the shipped benchmark's (BENCHMARK_SEED).

    The layout is that of CoOp's published splits: `images/<Class>/<Class>_<i>.jpg` (64 x 64 RGB)
    and `split_zhou_<registry name>.json`, {"train" | "val" | "test": [[path, label, class name],
    ...]} with paths under `images/`. All images are from one camera, another than those that
    pre-training saw (`canvas.other_camera`). A benchmark that is already there is returned at
    once. It appears whole or not at all: it is drawn into a hidden folder beside its place and
    then renamed, one process at a time; what an interrupted drawing left is removed by the next
    call.

    Raises NerpError for an unknown name and OSError where `root` cannot be written.
    """
    if name not in WORLDS:
        raise unknown("procedural benchmark", name, WORLDS)
    root = Path(root)
    folder = root / name
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with alone(root / f".{name}.lock"):
        if not folder.is_dir():
            unfinished = root / f".{name}.unfinished"
            fresh_folder(unfinished)
            try:
                _write(name, unfinished, progress, BENCHMARK_SEED if seed is None else seed)
                unfinished.rename(folder)
            finally:
                remove(unfinished)
    return folder


def draw_many(
    function: Callable[[T], R], items: Sequence[T], progress: bool = False,
    description: str | None = None,
) -> list[R]:
    """`map(function, items)` as a list, computed by one process per core.

    `function` must be picklable. With `progress`, a bar labelled `description` counts the items.
    """
    # Forked workers start at once and import nothing; they only run numpy and Pillow, never torch.
    workers = min(os.cpu_count() or 1, 16)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
        results = pool.map(function, items, chunksize=32)
        return list(tqdm(results, description, len(items), disable=not progress, unit="image"))


def _generator(name: str, split: str, *numbers: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(f"{name}/{split}".encode()), *numbers])


def _write(name: str, folder: Path, progress: bool, seed: int) -> None:
    """Draw the images of a benchmark into `folder` and write the split file."""
    world, first = WORLDS[name], 1
    split_file: dict[str, list[tuple[str, int, str]]] = {}
    items: list[Wanted] = []
    for split, count in IMAGES_PER_CLASS.items():
        entries = []
        for label, classname in enumerate(world.classnames):
            directory = classname.replace(" ", "")
            (folder / "images" / directory).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                path = f"{directory}/{directory}_{first + index}.jpg"
                entries.append((path, label, classname))
                items.append((split, label, index, path))
        first += count
        # Few-shot draws depend on the order of a split, which is mixed in the published ones.
        order = _generator(name, split, seed).permutation(len(entries))
        split_file[split] = [entries[i] for i in order]
    draw_many(partial(_save, name, folder / "images", seed), items, progress, f"drawing {name}")
    (folder / f"split_zhou_{world.registry_name}.json").write_text(json.dumps(split_file))


def _save(name: str, folder: Path, seed: int, item: Wanted) -> None:
    split, label, index, path = item
    image = Image.fromarray(other_camera(draw(name, seed, split, label, index)))
    # 4:4:4 keeps thin coloured lines, which JPEG's usual chroma subsampling would smear.
    image.save(folder / path, quality=95, subsampling=0)


for _name in WORLDS:
    DRAWN.register(_name)(partial(build, _name))
