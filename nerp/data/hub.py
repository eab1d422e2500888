"""A dataset of the Hugging Face hub, in image-folder or parquet form, written out as images."""

import io
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from nerp.base.beside import disk_error
from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.base.progress import progress
from nerp.data.benchmark import Item
from nerp.data.decode import FORMATS
from nerp.data.own import stratified
from nerp.data.split_file import SPLIT_FILE
from nerp.data.splits import split_named
from nerp.files.opening import MIB, read_bytes, reading

PREFIX = "hf:"
_IMAGES = "images"
_LARGEST = 64 * MIB  # of an image
_LABELS = ("label", "labels", "class", "category", "fine_label")


def fetch(name: str, root: Path, fractions: Sequence[float], seed: int) -> tuple[Path, str]:
    """Write a dataset's images, and a split JSON, into a folder below `root`, once.

    The dataset's own splits are kept. If it has no test split, its validation images become the
    test images. If it has only one split, that is split as `nerp.data.own.stratified` does.

    Args: name: OWNER/NAME on the hub, or a local folder of parquet files or of images.

    Returns the folder and the dataset's licence. Raises NerpError if the package `datasets` is
    missing, if the dataset cannot be loaded, or if it does not have exactly one image column and
    one label column.
    """
    folder = root / re.sub(r"[^\w.-]", "_", name.rstrip("/").rsplit("/", 1)[-1])
    if folder.exists():
        say(f"{folder} is there")
        return folder, ""
    splits = _load(name)
    root.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=root))
    try:
        with reading(f"{PREFIX}{name}", "a dataset of images with labels"):
            names = _class_names(splits)
            listed = {split: _write_out(part, split, names, aside / _IMAGES, _places_of(name))
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
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(name)
    except Exception as error:  # the network, the hub, parsers of many formats
        reason = " ".join(str(error).split())[:200]
        raise NerpError(f"{PREFIX}{name} cannot be loaded: {reason}") from None
    named = split_named(found, f"{PREFIX}{name}")
    if not named:
        raise NerpError(f"{PREFIX}{name}: its splits are {', '.join(found)}; expected train, "
                        "validation or test")
    if rest := sorted(set(found) - set(named.values())):
        say(f"{PREFIX}{name}: ignored, because they name no split: {', '.join(rest)}")
    return {split: found[own] for split, own in named.items()}


def _places_of(name: str) -> list[Path]:
    """The folders of a dataset's files, which its rows may name."""
    from huggingface_hub import constants

    import datasets

    if Path(name).is_dir():
        return [Path(name).resolve()]
    return [Path(place).resolve()
            for place in (constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE)]


def _image_column(part: Any) -> str:
    """The one column of images. It is declared as such, or holds bytes, alone or beside a path, as
    other programs write them."""
    import datasets

    def holds_images(feature: object) -> bool:
        content = feature.get("bytes") if isinstance(feature, dict) else feature
        return isinstance(feature, datasets.Image) or \
            getattr(content, "dtype", "") in ("binary", "large_binary")

    found = [name for name, feature in part.features.items() if holds_images(feature)]
    return _one(part, "image", found, ("image",))


def _label_column(part: Any) -> tuple[str, list[str]]:
    """The one column of labels, and the classes that it numbers; no classes if it holds names, or
    numbers whose names are not given."""
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


def _write_out(
    part: Any, split: str, names: list[str], directory: Path, places: list[Path]
) -> list[Item]:
    """Write a split's images as they are encoded; returns its items. Without labels there are none.

    Args: places: the folders that may hold images whose bytes are not in the table.
    """
    import datasets

    image, (column, numbered) = _image_column(part), _label_column(part)
    labels, numbers = part[column], {name: i for i, name in enumerate(names)}
    (directory / split).mkdir(parents=True)
    items = []
    rows = part.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    for i, row in enumerate(progress(rows, f"writing {split}", len(part), "images")):
        label = labels[i]
        if label is None or numbered and label < 0:
            say(f"the split {split} has images without labels; it is left out")
            return []
        label = label if numbered else numbers[str(label)]
        where = f"{split}, row {i}"
        if label >= len(names):
            raise NerpError(f"{where}: the label {label} of {len(names)} classes")
        content = _content(row[image], places, where)
        path = f"{split}/{i:06}{_suffix(content, where)}"
        try:
            (directory / path).write_bytes(content)
        except OSError as error:
            raise disk_error(directory / path, error, len(content)) from None
        items.append(Item(path, label, names[label]))
    return items


def _one(part: Any, kind: str, found: list[str], preferred: Sequence[str]) -> str:
    """The one column among the candidates."""
    for name in found if len(found) == 1 else [name for name in preferred if name in found]:
        return name
    raise NerpError(f"no one {kind} column: {', '.join(found) or 'none'} of "
                    f"{', '.join(part.column_names)}")


def _content(image: Mapping[str, Any] | None, places: list[Path], where: str) -> bytes:
    if image and image["bytes"]:
        content: bytes = image["bytes"]
        return content
    path = Path(image and image["path"] or "").resolve()
    if not any(path.is_relative_to(place) for place in places):
        raise NerpError(f"{where}: its image is neither in the table nor in the dataset's folder")
    return read_bytes(path, _LARGEST)


def _suffix(content: bytes, where: str) -> str:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            kind = (opened.format or "").lower()
    except Exception:  # on damaged files Pillow's plugins raise all sorts
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
