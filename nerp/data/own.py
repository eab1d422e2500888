"""A user's own folder: how its images are listed, and a split if they have none."""

import os
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.registry import LAYOUTS
from nerp.data.benchmark import SPLITS, Item, Listing
from nerp.data.check import damaged
from nerp.data.decode import is_image
from nerp.data.layouts import images_below, listed_rows, subfolders, with_slashes
from nerp.data.listing import SUFFIXES
from nerp.data.split_file import SPLIT_FILE, Made, made_by, write_split
from nerp.data.splits import split_named, split_of, template_of
from nerp.files.json_file import read_json

FRACTIONS, SEED = (0.5, 0.2, 0.3), 1


def look(directory: Path) -> tuple[dict[str, str], bool]:
    """How the images of a folder are listed: the keys of a card that describe it, and whether the
    images have splits.

    It looks in this order for a split JSON, a table (`nerp.data.listing`),
    {train,val,test}/<class>/, and <class>/. The last two may lie one folder deeper. A split that
    `make` has written is skipped. Raises NerpError if nothing of these is found.
    """
    if not directory.is_dir():
        raise NerpError(f"{directory}: no such folder")
    files = sorted(file for file in directory.iterdir() if file.is_file() and file.name[0] != ".")
    splits = [file for file in files if file.suffix == ".json" and file.name.startswith("split")
              and not (file.name == SPLIT_FILE and made_by(file))]
    if splits:
        return _split_json(splits[0]), True
    tables = [file.name for file in files if file.suffix in SUFFIXES]
    if tables:
        return _tables(directory, tables)
    return _folders(directory)


def _split_json(file: Path) -> dict[str, str]:
    content = read_json(file)
    lists: dict[str, Any] = content  # what is in it is checked here
    try:
        paths = [str(entry[0]) for split in SPLITS for entry in lists[split]]
    except (LookupError, TypeError):
        raise NerpError(f"{file}: not a split, {{train, val, test: [[path, label, class name], "
                        "...]}") from None
    return {"LAYOUT": "json_split", "IMAGE_FOLDER": _place(file, paths), "SPLIT_FILE": file.name}


def _tables(directory: Path, tables: Sequence[str]) -> tuple[dict[str, str], bool]:
    names = sorted({template_of(name) for name in tables} - {""} or tables)
    if len(names) > 1:
        raise NerpError(f"{directory}: which of {', '.join(tables)} lists the images? Move the "
                        "others away")
    rows = listed_rows(directory, names[0])
    place = _place(directory / names[0], [row.path for row in rows])
    return ({"LAYOUT": "listing", "IMAGE_FOLDER": place, "SPLIT_FILE": names[0]},
            all(row.split for row in rows))


def _place(file: Path, paths: Sequence[str]) -> str:
    """The folder that contains the first of the paths that `file` lists."""
    for place in ("", *subfolders(file.parent)):
        folder = file.parent / place
        if paths and os.path.exists(folder / with_slashes(paths[0], folder)):  # whatever it is
            return place
    raise NerpError(f"{file}: lists {paths[0] if paths else 'no images'}, which is neither in "
                    f"{file.parent} nor in a folder in it")


def _folders(directory: Path) -> tuple[dict[str, str], bool]:
    inner = subfolders(directory)
    deeper = inner if len(inner) == 1 and subfolders(directory / inner[0]) else []
    for place in ("", *deeper):
        folder = directory / place
        called = split_named([n for n in subfolders(folder) if subfolders(folder / n)], folder)
        if called:
            return {"LAYOUT": "folders", "IMAGE_FOLDER": place}, True
    (place,) = deeper or [""]
    folder = directory / place
    classes = [name for name in subfolders(folder) if images_below(folder / name)]
    if len(classes) > 1 and all(split_of(name) for name in classes):
        raise NerpError(f"{folder}: {', '.join(classes)} hold pictures and no class folders, so "
                        "that nothing says what they show: put each into a folder of its class, "
                        f"such as {classes[0]}/cat/, or list them in a table path,label,split")
    if classes:
        return {"LAYOUT": "json_split", "IMAGE_FOLDER": place, "SPLIT_FILE": SPLIT_FILE}, False
    loose = sum(is_image(folder / name) for name in sorted(os.listdir(folder)))
    pictures = f"; {loose} pictures lie in it, in no class folder" if loose else ""
    raise NerpError(f"{directory}: found neither class folders with images, nor train/, "
                    "val/ and test/ with class folders, nor a table of paths and labels "
                    f"({', '.join('*' + suffix for suffix in SUFFIXES)}), nor a split JSON"
                    f"{pictures}")


def make(
    directory: Path, fractions: Sequence[float], seed: int | None, overwrite: bool
) -> tuple[dict[str, str], Made | None]:
    """Decode the images of a folder. Write a split JSON if they have no splits, or if some cannot
    be decoded; the split leaves those out. No file is moved.

    The same images, fractions and seed give the same split on every machine. Without fractions and
    seed, those of the existing split are used, or else half, a fifth and the rest, and seed 1.

    Returns the keys of a card, and how the split JSON was made; None if none is needed. Raises
    NerpError if another split is there already.
    """
    keys, has_splits = look(directory)
    file, before = directory / SPLIT_FILE, made_by(directory / SPLIT_FILE)
    if before and before.fractions and not has_splits:
        fractions = fractions or before.fractions
        seed = before.seed if seed is None else seed
    fractions, seed = tuple(fractions or FRACTIONS), SEED if seed is None else seed
    listed = _listed(directory, keys) if has_splits else {}
    by_class = {} if has_splits else _by_class(directory, keys)
    paths = [item.path for items in listed.values() for item in items]
    paths += [path for of_class in by_class.values() for path in of_class]
    image_dir = directory / keys["IMAGE_FOLDER"]
    left_out = {found.path: _why(found.text, image_dir / found.path)
                for found in damaged(image_dir, sorted(set(paths)), f"checking {directory.name}")}
    if has_splits and not left_out:
        if before and not overwrite:
            raise NerpError(f"{file} leaves out images that can be decoded now; --overwrite takes "
                            "them in")
        if before:
            file.unlink()
        return keys, None
    if has_splits:
        splits = _without(listed, left_out)
        made = Made(keys["LAYOUT"], left_out=left_out)
    else:
        sound = {name: [path for path in of_class if path not in left_out]
                 for name, of_class in by_class.items()}
        splits = stratified(sound, fractions, seed)
        made = Made(_SOURCE[keys["LAYOUT"]], fractions, seed, left_out)
    write_split(file, splits, made, overwrite)
    return {**keys, "LAYOUT": "json_split", "SPLIT_FILE": SPLIT_FILE}, made


# What images without splits are listed by: a table, or the folders of their classes.
_SOURCE = {"listing": "listing", "json_split": "folders"}


def _listed(directory: Path, keys: Mapping[str, str]) -> dict[str, list[Item]]:
    """The items of each split of a folder whose images have splits."""
    card = CfgNode({"NAME": directory.name, "CLASS_FILE": "", "SPLIT_FILE": "", **keys})
    found: Listing = LAYOUTS[card.LAYOUT](card, directory)
    return found.splits


def _without(listed: Mapping[str, list[Item]], paths: Collection[str]) -> dict[str, list[Item]]:
    """The items whose paths are none of these, for the classes that still have images."""
    kept = {split: [item for item in items if item.path not in paths]
            for split, items in listed.items()}
    there = sorted({item.label for items in kept.values() for item in items})
    place = {label: i for i, label in enumerate(there)}
    return {split: [item._replace(label=place[item.label]) for item in items]
            for split, items in kept.items()}


def _by_class(directory: Path, keys: Mapping[str, str]) -> dict[str, list[str]]:
    """The paths of each class's images, of a folder whose images have no splits."""
    image_dir = directory / keys["IMAGE_FOLDER"]
    if keys["LAYOUT"] != "listing":
        return {name: [f"{name}/{file}" for file in images_below(image_dir / name)]
                for name in subfolders(image_dir)}
    by_class: dict[str, list[str]] = {}
    for row in listed_rows(directory, keys["SPLIT_FILE"]):
        by_class.setdefault(row.label, []).append(with_slashes(row.path, image_dir))
    return by_class


def _why(text: str, path: Path) -> str:
    """The text of an image's problem without the image's path."""
    return text.removeprefix(f"{path}: ") if text != str(path) else "there is no such file"


def stratified(
    by_class: Mapping[str, Sequence[str]], fractions: Sequence[float], seed: int
) -> dict[str, list[Item]]:
    """Each class's images in three parts, {"train" | "val" | "test": items}, drawn at random.

    The draw of a class depends only on the seed and its name, so an additional class changes
    nothing for the others. A class without images is left out. A class with two images or more gets
    at least one in train and one in test. Labels are the positions of the sorted names. Raises
    NerpError unless the fractions are three that sum to 1.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise NerpError(f"--fractions {' '.join(f'{f:g}' for f in fractions)}: it takes three "
                        "numbers that sum to 1, for train, val and test")
    splits: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for label, name in enumerate(sorted(name for name in by_class if by_class[name])):
        paths = sorted(by_class[name])
        random.Random(f"{seed} {name}").shuffle(paths)
        for split, count in zip(SPLITS, _counts(len(paths), fractions), strict=True):
            splits[split] += [Item(path, label, name) for path in sorted(paths[:count])]
            del paths[:count]
    return splits


def _counts(count: int, fractions: Sequence[float]) -> list[int]:
    """Shares of `count` by the largest remainder; train and test are not left empty if possible."""
    exact = [count * fraction for fraction in fractions]
    counts = [int(share + 1e-9) for share in exact]
    by_remainder = sorted(range(3), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: count - sum(counts)]:
        counts[i] += 1
    for i in (2, 0):
        if fractions[i] and not counts[i]:
            counts[counts.index(max(counts))] -= 1
            counts[i] = 1
    return counts
