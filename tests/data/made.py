"""Folders made to the layouts of the published datasets: real file names, tiny images."""

import io
import json
import random
from pathlib import Path

from PIL import Image

from nerp.data.benchmark import Item
from nerp.settings.cards import find_card, open_card

# card -> the i-th class's name, and the i-th image of it, as the published split files have them.
JSON_SPLITS = {
    "caltech101": ("wild_cat", "wild_cat{c}/image_{i:04}.jpg"),
    "oxford_pets": ("abyssinian", "Abyssinian{c}_{i}.jpg"),
    "stanford_cars": ("2000 AM General Hummer SUV", "cars_train/{c:03}{i:02}.jpg"),
    "oxford_flowers": ("pink primrose", "image_{c:03}{i:02}.jpg"),
    "food101": ("apple_pie", "apple_pie{c}/10056{i:02}.jpg"),
    "sun397": ("outdoor church", "c/church{c}/outdoor/sun_aaalbzqrimafwb{i:02}.jpg"),
    "dtd": ("banded", "banded{c}/banded_{i:04}.jpg"),
    "eurosat": ("Annual Crop Land", "AnnualCrop{c}/AnnualCrop_{i}.jpg"),
    "ucf101": ("Apply_Eye_Makeup", "Apply_Eye_Makeup{c}/v_ApplyEyeMakeup_g{i:02}_c01.jpg"),
}


def jpeg(size=(8, 6), **options) -> bytes:
    """The bytes of a small JPEG."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 120, 40)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def write(path: Path, content: bytes | str = jpeg()) -> Path:
    """A file with its folders; by default a small JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def card(name: str, root: Path, **changes):
    """The configuration of a shipped card, with some of its keys changed."""
    cfg = open_card(find_card(name), str(root))
    cfg.defrost()
    cfg.DATASET.update(changes)
    return cfg


def heard(monkeypatch) -> list[str]:
    """What preparing a dataset says from now on, line by line."""
    lines = []
    for module in ("prepare", "obtain"):
        monkeypatch.setattr(f"nerp.data.{module}.say", lines.append)
    return lines


def write_json_split(name: str, root: Path) -> dict[str, list[Item]]:
    """A json_split dataset with all its classes and two training images per class; its items."""
    cfg = card(name, root).DATASET
    called, path = JSON_SPLITS[name]
    rng, splits = random.Random(name), {}
    for first, (split, count) in zip((1, 4, 6), (("train", 2), ("val", 1), ("test", 2)),
                                     strict=True):
        splits[split] = [
            Item(path.format(c=c, i=first + i), c, f"{called}{c}")
            for c in range(cfg.NUM_CLASSES) for i in range(count)
        ]
        rng.shuffle(splits[split])
    directory = root / cfg.DIRECTORY
    for item in splits["train"] + splits["val"] + splits["test"]:
        write(directory / cfg.IMAGE_FOLDER / item.path)
    write(directory / cfg.SPLIT_FILE, json.dumps(splits))
    return splits


def wnids(count: int) -> list[str]:
    """`count` identifiers in the order of `classnames.txt`."""
    return [f"n{1440764 + 13 * i:08}" for i in range(count)]


def classnames_text(count: int) -> str:
    """`classnames.txt` of `count` classes, called "great kind <i>"."""
    return "".join(f"{wnid} great kind {i}\n" for i, wnid in enumerate(wnids(count)))
