"""A dataset of the Hugging Face hub, in image-folder or parquet form, written out as images."""

import io
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from nerp.data.benchmark import Item
from nerp.data.own import SPLIT_FILE, stratified
from nerp.errors import NerpError
from nerp.log import say
from nerp.progress import progress

PREFIX = "hf:"
_IMAGES = "images"
_SPLITS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val",
           "test": "test"}
_LABELS = ("label", "labels", "class", "category", "fine_label")


def fetch(name: str, root: Path, fractions: Sequence[float], seed: int) -> tuple[Path, str]:
    """Write a dataset's images, and a split JSON, into a folder below `root`, once.

    Its own splits are kept; where nothing is for testing, validation images are, and where there
    is one split alone it is split as `nerp.data.own.stratified` does.

    Args: name: OWNER/NAME on the hub, or a local folder of parquet files or of images.

    Returns the folder and the dataset's licence. Raises NerpError where the package `datasets` is
    missing, the dataset cannot be had, or it has no one image column and label column.
    """
    folder = root / re.sub(r"[^\w.-]", "_", name.rstrip("/").rsplit("/", 1)[-1])
    if folder.exists():
        say(f"{folder} is there")
        return folder, ""
    splits = _load(name)
    root.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=root))
    try:
        names = _class_names(splits)
        listed = {split: _write_out(part, split, names, aside / _IMAGES)
                  for split, part in splits.items()}
        listed = {split: items for split, items in listed.items() if items}
        text = json.dumps(_all_three(listed, fractions, seed))
        (aside / SPLIT_FILE).write_text(text + "\n", encoding="utf-8")
        aside.chmod(0o755)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder, next(iter(splits.values())).info.license or ""


def _load(name: str) -> dict[str, Any]:
    """{"train" | "val" | "test": the split's table}."""
    try:
        import datasets
    except ImportError:
        raise NerpError("datasets of the Hugging Face hub need the package datasets: pip install "
                        "'nerp[hub]'") from None
    try:
        found = datasets.load_dataset(name)
    except Exception as error:  # the network, the hub, parsers of many formats
        reason = " ".join(str(error).split())[:200]
        raise NerpError(f"{PREFIX}{name} cannot be loaded: {reason}") from None
    splits = {_SPLITS[split]: part for split, part in found.items() if split in _SPLITS}
    if not splits:
        raise NerpError(f"{PREFIX}{name}: its splits are {', '.join(found)}; expected train, "
                        "validation or test")
    return splits


def _image_column(part: Any) -> str:
    """The one column of images: declared so, or bytes, alone or beside a path, as other programs
    write them."""
    import datasets

    def holds_images(feature):
        content = feature.get("bytes") if isinstance(feature, dict) else feature
        return isinstance(feature, datasets.Image) or \
            getattr(content, "dtype", "") in ("binary", "large_binary")

    found = [name for name, feature in part.features.items() if holds_images(feature)]
    return _one(part, "image", found, ("image",))


def _label_column(part: Any) -> tuple[str, list[str]]:
    """The one column of labels, and the classes it numbers; none where it holds names, or numbers
    of which nothing says the names."""
    import datasets

    classes = {name: feature.names for name, feature in part.features.items()
               if isinstance(feature, datasets.ClassLabel)}
    plain = [name for name, feature in part.features.items() if name in _LABELS
             and re.fullmatch(r"(large_)?string|u?int\d+", str(getattr(feature, "dtype", "")))]
    column = _one(part, "label", list(classes) or plain, _LABELS)
    return column, classes.get(column, [])


def _class_names(splits: dict[str, Any]) -> list[str]:
    """The classes of all splits together, in label order."""
    found: set[Any] = set()
    for part in splits.values():
        column, names = _label_column(part)
        if names:
            return names
        found.update(part.unique(column))
    return [str(label) for label in sorted(found - {None})]


def _write_out(part: Any, split: str, names: list[str], directory: Path) -> list[Item]:
    """Write a split's images as they are encoded; its items. Without labels there are none."""
    import datasets

    image, (column, numbered) = _image_column(part), _label_column(part)
    labels, places = part[column], {name: i for i, name in enumerate(names)}
    (directory / split).mkdir(parents=True)
    items = []
    rows = part.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    for i, row in enumerate(progress(rows, f"writing {split}", len(part), "images")):
        label = labels[i]
        if label is None or numbered and label < 0:
            say(f"the split {split} has images without labels; it is left out")
            return []
        label = label if numbered else places[str(label)]
        path = f"{split}/{i:06}{_suffix(row[image], f'{split}, row {i}')}"
        (directory / path).write_bytes(_content(row[image]))
        items.append(Item(path, label, names[label]))
    return items


def _one(part: Any, kind: str, found: list[str], preferred: Sequence[str]) -> str:
    """The column meant, of those that can be."""
    for name in found if len(found) == 1 else [name for name in preferred if name in found]:
        return name
    raise NerpError(f"no one {kind} column: {', '.join(found) or 'none'} of "
                    f"{', '.join(part.column_names)}")


def _content(image: dict) -> bytes:
    return image["bytes"] or Path(image["path"]).read_bytes()


def _suffix(image: dict, where: str) -> str:
    try:
        with Image.open(io.BytesIO(_content(image))) as opened:
            kind = (opened.format or "").lower()
    except (UnidentifiedImageError, TypeError, OSError):
        raise NerpError(f"{where}: not an image that can be read") from None
    return {"jpeg": ".jpg", "tiff": ".tif"}.get(kind, f".{kind}")


def _all_three(
    listed: dict[str, list[Item]], fractions: Sequence[float], seed: int
) -> dict[str, list[Item]]:
    if not listed:
        raise NerpError("no split has images with labels")
    if len(listed) == 1:
        (items,) = listed.values()
        by_class: dict[str, list[str]] = {}
        for item in items:
            by_class.setdefault(item.classname, []).append(item.path)
        say(f"one split alone: split anew, fractions {fractions}, seed {seed}")
        return stratified(by_class, fractions, seed)
    if "test" not in listed:
        say("there is no test split: the validation images are for testing")
        listed["test"] = listed.pop("val")
    return {split: listed.get(split, []) for split in ("train", "val", "test")}
