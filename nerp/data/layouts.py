"""Readers, one per layout on disk: card and folder -> image folder, lists of items, class names.

Lists made from folders are sorted by name, so that draws do not depend on the file system. Files
are listed, never opened.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.paths import is_inside
from nerp.base.printable import brief, is_printable
from nerp.base.registry import LAYOUTS
from nerp.data.benchmark import SPLITS, Item, Listing, Within
from nerp.data.listing import Row, read_rows
from nerp.data.splits import split_named, split_tables
from nerp.files.json_file import read_json
from nerp.files.opening import read_text

_WNID = re.compile(r"n\d{8}")  # WordNet's identifier of a noun: n01440764
_NUMBER = re.compile(r"\d+")
_MOST_CLASSES = 10**6
VISIBLE = re.compile(r"(?!__MACOSX$)[^.].*")  # archives made on macOS have other folders too


@LAYOUTS.register("json_split")
def json_split(card: CfgNode, directory: Path) -> Listing:
    """`SPLIT_FILE` holds train, val and test: lists of [path, label, class name], with paths
    below `IMAGE_FOLDER`."""
    file = directory / card.SPLIT_FILE
    _require(file, card)
    content = read_json(file)
    image_dir = directory / card.IMAGE_FOLDER
    return Listing(image_dir,
                   {split: _json_items(content, split, file, image_dir) for split in SPLITS})


def _json_items(
    content: Mapping[str, object], split: str, file: Path, image_dir: Path
) -> list[Item]:
    listed: Any = content.get(split)  # checked here
    if isinstance(listed, Mapping):
        raise NerpError(f"{file}: {split!r} is a mapping; it takes a list of [path, label, class "
                        "name], or write the paths and classes as a table path,label,split (CSV)")
    try:
        items = [Item(path, label, classname) for path, label, classname in listed]
    except (TypeError, ValueError):
        items = None
    if items is None or not all(
        isinstance(i.path, str) and type(i.label) is int and isinstance(i.classname, str)
        for i in items
    ):
        raise NerpError(f"{file}: {split!r} must be a list of [path, label, class name]")
    items = [item._replace(path=with_slashes(item.path, image_dir)) for item in items]
    for item in items:
        _check_item(item, file)
    return items


def with_slashes(path: str, image_dir: Path) -> str:
    """A path with slashes for the backslashes of Windows, unless a file has backslashes in its
    name."""
    if "\\" not in path or os.path.exists(image_dir / path):
        return path
    return path.replace("\\", "/")


def _check_item(item: Item, file: Path) -> None:
    """Raise NerpError for an image outside the image folder, or a name that cannot be printed."""
    if not is_inside(item.path) or not is_printable(item.path):
        raise NerpError(f"{file}: {brief(item.path)}: not a path inside the image folder")
    if not is_printable(item.classname) or not 0 <= item.label < _MOST_CLASSES:
        raise NerpError(f"{file}: label {item.label}, {brief(item.classname)}: not a class")


@LAYOUTS.register("text_lists")
def text_lists(card: CfgNode, directory: Path) -> Listing:
    """FGVC-Aircraft's lists. `CLASS_FILE` has one class per line, in label order. `SPLIT_FILE`,
    with {} for the split, has lines "<image> <class>" for <image>.jpg in `IMAGE_FOLDER`."""
    classnames = _lines(directory / card.CLASS_FILE, card)
    labels = {name: label for label, name in enumerate(classnames)}
    splits: dict[str, list[Item]] = {}
    for split in SPLITS:
        file = directory / card.SPLIT_FILE.format(split)
        splits[split] = []
        for line in _lines(file, card):
            image, _, name = line.partition(" ")
            name = name.strip()
            if name not in labels:
                raise NerpError(f"{file}: {line!r} names no class of {card.CLASS_FILE}")
            splits[split].append(Item(f"{image}.jpg", labels[name], name))
            _check_item(splits[split][-1], file)
    return Listing(directory / card.IMAGE_FOLDER, splits, classnames)


@LAYOUTS.register("imagenet")
def imagenet(card: CfgNode, directory: Path) -> Listing:
    """`IMAGE_FOLDER`/{train,val}/<wnid>/; val serves as test and validation split.

    Labels are the positions of the wnids in sorted order; their names are in `CLASS_FILE`. Either
    folder may be missing, because ImageNet is often only tested on.
    """
    image_dir = directory / card.IMAGE_FOLDER
    (train, val), wnids = _class_folders(image_dir, ("train", "val"), _WNID)
    names = _names_of(wnids, card, directory)
    held_out = _items(image_dir, val, names)
    splits = {"train": _items(image_dir, train, names), "val": held_out, "test": held_out}
    return Listing(image_dir, splits, names)


@LAYOUTS.register("imagenet_variant")
def imagenet_variant(card: CfgNode, directory: Path) -> Listing:
    """`IMAGE_FOLDER`/<wnid>/, with only a test split. The classes are the existing folders."""
    image_dir = directory / card.IMAGE_FOLDER
    wnids = subfolders(image_dir, _WNID)
    names = _names_of(wnids, card, directory)
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    known = sorted(_names_file(card, directory)[1])
    within = Within(len(known), tuple(map(known.index, wnids)))
    return Listing(image_dir, _only_test(_items(image_dir, labels, names)), names, within)


@LAYOUTS.register("imagenet_v2")
def imagenet_v2(card: CfgNode, directory: Path) -> Listing:
    """`IMAGE_FOLDER`/<label>/, with only a test split. The classes are all those of `CLASS_FILE`,
    in its order, whether or not they have a folder."""
    image_dir = directory / card.IMAGE_FOLDER
    names = list(_names_file(card, directory)[1].values())
    labels = {folder: int(folder) for folder in sorted(subfolders(image_dir, _NUMBER), key=int)}
    for folder, label in labels.items():
        if label >= len(names):
            raise NerpError(f"{image_dir / folder}: {card.CLASS_FILE} has {len(names)} classes")
    within = Within(len(names), tuple(range(len(names))))
    return Listing(image_dir, _only_test(_items(image_dir, labels, names)), names, within)


@LAYOUTS.register("folders")
def folders(card: CfgNode, directory: Path) -> Listing:
    """`IMAGE_FOLDER`/{train,val,test}/<class>/. Any of the three may be missing or have another
    usual name (`nerp.data.splits`).

    The classes are those of the three together, sorted. A folder's name is its class's name; images
    in its subfolders belong to the class too.
    """
    image_dir = directory / card.IMAGE_FOLDER
    places = split_places(image_dir)
    found, names = _class_folders(image_dir, [places.get(s, s) for s in SPLITS], VISIBLE)
    splits = {
        split: _items(image_dir, labels, names)
        for split, labels in zip(SPLITS, found, strict=True)
    }
    return Listing(image_dir, splits, names)


def split_places(image_dir: Path) -> dict[str, str]:
    """The folders of a folder's splits, {split: path}. If a split's folder holds nothing but a
    folder of the same name, as archives are often unpacked, it is the inner one."""
    places = split_named(subfolders(image_dir), image_dir)
    for split, name in places.items():
        if subfolders(image_dir / name) == [name]:
            places[split] = f"{name}/{name}"
    return places


@LAYOUTS.register("listing")
def listing(card: CfgNode, directory: Path) -> Listing:
    """`SPLIT_FILE` is a table (CSV or JSON lines). Each line has a path below `IMAGE_FOLDER`, a
    label and a split. Or, with {} for the split, it is three tables without the split column, of
    which any may be missing.

    The classes are the sorted labels, or the lines of `CLASS_FILE` in its order; a whole number as
    a label is then a position in it.
    """
    rows = listed_rows(directory, card.SPLIT_FILE)
    named = _lines(directory / card.CLASS_FILE, card) if card.CLASS_FILE else []
    classes = named or sorted({row.label for row in rows})
    labels = {str(i): i for i in range(len(named))} | {name: i for i, name in enumerate(classes)}
    splits: dict[str, list[Item]] = {split: [] for split in SPLITS}
    image_dir = directory / card.IMAGE_FOLDER
    for row in rows:
        if row.split not in splits:
            raise NerpError(f"{row.where}: the split is {row.split!r}; it takes train, val or test "
                            "(nerp data split makes one where there is none)")
        if row.label not in labels:
            raise NerpError(f"{row.where}: {row.label!r} is no class of {card.CLASS_FILE}")
        label = labels[row.label]
        item = Item(with_slashes(row.path, image_dir), label, classes[label])
        _check_item(item, row.file)
        splits[row.split].append(item)
    return Listing(image_dir, splits, classes)


def listed_rows(directory: Path, split_file: str) -> list[Row]:
    """The lines of a listing's one table or three tables, each with its split."""
    if "{}" not in split_file:
        return read_rows(directory / split_file)
    files = split_tables(directory, split_file)
    if not files:
        wanted = (str(directory / split_file.format(split)) for split in SPLITS)
        raise NerpError(f"none of {', '.join(wanted)} is there")
    return [row._replace(split=split) for split, file in files.items() for row in read_rows(file)]


def names_unlike_imagenet(card: CfgNode, directory: Path) -> list[str]:
    """Where a variant's own class names differ from those of ImageNet's folder beside it."""
    own, theirs = directory / card.CLASS_FILE, _imagenet_names(card, directory)
    if not card.LAYOUT.startswith("imagenet_") or not (own.is_file() and theirs.is_file()):
        return []
    names = _wnid_lines(theirs, card)
    return [
        f"{wnid} is {name!r}, in {theirs} {names[wnid]!r}"
        for wnid, name in _wnid_lines(own, card).items()
        if names.get(wnid, name) != name
    ]


def _only_test(items: list[Item]) -> dict[str, list[Item]]:
    return {"train": [], "val": [], "test": items}


def _class_folders(
    image_dir: Path, splits: Sequence[str], pattern: re.Pattern[str]
) -> tuple[list[dict[str, int]], list[str]]:
    """For each split {<split>/<folder>: label}, and the sorted folders of all splits. A folder's
    label is its position among them."""
    found = [subfolders(image_dir / split, pattern) if os.path.lexists(image_dir / split) else []
             for split in splits]
    if not any(found):
        raise NerpError(f"{image_dir}: no class folders in {' or '.join(f'{s}/' for s in splits)}")
    classes = sorted(set().union(*found))
    places = {folder: label for label, folder in enumerate(classes)}
    return [{f"{split}/{folder}": places[folder] for folder in folders}
            for split, folders in zip(splits, found, strict=True)], classes


def subfolders(parent: Path, pattern: re.Pattern[str] = VISIBLE) -> list[str]:
    """The sorted names of the folders in `parent` that match, by default those not hidden."""
    try:
        with os.scandir(parent) as entries:
            found = [entry for entry in entries if pattern.fullmatch(entry.name)]
            for entry in found:
                if entry.is_symlink() and not os.path.exists(entry.path):
                    raise NerpError(f"{entry.path}: a link that leads nowhere")
            return sorted(entry.name for entry in found if entry.is_dir())
    except OSError as error:
        lost = isinstance(error, FileNotFoundError) and parent.is_symlink()
        reason = "a link that leads nowhere" if lost else error.strerror
        raise NerpError(f"{parent}: {reason}") from None


def _items(image_dir: Path, labels: dict[str, int], names: list[str]) -> list[Item]:
    """The images in each folder of `labels`, folder by folder."""
    items = []
    for folder, label in labels.items():
        files = images_below(image_dir / folder)
        items += [Item(f"{folder}/{file}", label, names[label]) for file in files]
    return items


def images_below(folder: Path) -> list[str]:
    """The image files in a folder and its subfolders, also through links, as sorted paths relative
    to the folder. Hidden files are left out.

    Raises NerpError for a name that is not UTF-8, and for a link to a folder that contains it.
    """
    from nerp.data.decode import is_image  # numpy and Pillow come with it; a sweep needs neither

    found = [path for path in files_below(folder) if is_image(folder / path)]
    for path in found:
        if not is_printable(path):
            raise NerpError(f"{folder}: {path!a}: a file name with control codes, or not UTF-8; "
                            "rename it")
    return sorted(found)


def files_below(folder: Path) -> Iterator[str]:
    """`images_below` of files of any kind, in no order."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if VISIBLE.fullmatch(name)]
        for name in folders:
            path = Path(parent, name)
            if path.is_symlink() and Path(parent).resolve().is_relative_to(path.resolve()):
                raise NerpError(f"{path}: a link to a folder that it is in")
        yield from (os.path.relpath(Path(parent, name), folder) for name in files
                    if VISIBLE.fullmatch(name))


def _names_of(wnids: list[str], card: CfgNode, directory: Path) -> list[str]:
    file, names = _names_file(card, directory)
    for wnid in wnids:
        if wnid not in names:
            raise NerpError(f"{file}: no line for {wnid}, a folder of {card.NAME}")
    return [names[wnid] for wnid in wnids]


def _names_file(card: CfgNode, directory: Path) -> tuple[Path, dict[str, str]]:
    """The dataset's own `CLASS_FILE`, or that of ImageNet's folder beside it; wnid -> name."""
    own, theirs = directory / card.CLASS_FILE, _imagenet_names(card, directory)
    file = own if own.exists() or not theirs.exists() else theirs
    return file, _wnid_lines(file, card)


def _imagenet_names(card: CfgNode, directory: Path) -> Path:
    return directory.parent / "imagenet" / str(card.CLASS_FILE)


def _wnid_lines(file: Path, card: CfgNode) -> dict[str, str]:
    names = {}
    for line in _lines(file, card):
        wnid, _, name = line.partition(" ")
        if not _WNID.fullmatch(wnid) or not name.strip() or wnid in names:
            raise NerpError(f"{file}: expected a line \"<wnid> <name>\" a class, found {line!r}")
        names[wnid] = name.strip()
    return names


def _lines(file: Path, card: CfgNode) -> list[str]:
    return [line.strip() for line in _read(file, card).splitlines() if line.strip()]


def _read(file: Path, card: CfgNode) -> str:
    _require(file, card)
    return read_text(file)


def _require(file: Path, card: CfgNode) -> None:
    if not file.exists():
        raise NerpError(f"{card.NAME}: no file {file}; DATASETS.md says where it is from "
                        "(nerp data prepare)")
