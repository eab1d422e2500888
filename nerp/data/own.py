"""A folder of one's own: how its images are listed, a split where they have none, a card."""

import json
import os
import random
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from nerp.base.errors import NerpError
from nerp.base.paths import write_text
from nerp.data.benchmark import SPLITS, Benchmark, Item
from nerp.data.layouts import images_below, listed_rows, subfolders
from nerp.data.listing import SUFFIXES
from nerp.files.json_file import read_json
from nerp.files.opening import read_text

SPLIT_FILE = "split.json"
_SHOWN = 5
_CARD = """\
# Written by nerp data; edit what does not fit. DATASETS.md explains the keys.
DATASET:
{keys}
  SPLIT_SIZES: {sizes}  # train, val, test
  # What the prompts say of the pictures: "a satellite photo of {{}}.", "a photo of a {{}}, a bird."
  TEMPLATE: "a photo of a {{}}."
  NEUTRAL: "a photo of an object."  # the same with no class named
  LICENCE: {licence}
"""


def look(directory: Path, anew: bool = False) -> tuple[dict[str, str], bool]:
    """How the images of a folder are listed: the keys of a card that say so, and whether the
    images have splits.

    In this order: a split JSON, a table (`nerp.data.listing`), {train,val,test}/<class>/, and
    <class>/; the last two may lie one folder deeper.

    Args: anew: pass over the split that `split_folder` has made.

    Raises NerpError for none of these.
    """
    if not directory.is_dir():
        raise NerpError(f"{directory}: no such folder")
    files = sorted(file for file in directory.iterdir() if file.is_file() and file.name[0] != ".")
    splits = [file for file in files if file.suffix == ".json" and file.name.startswith("split")
              and not (anew and file.name == SPLIT_FILE)]
    if splits:
        return _split_json(splits[0]), True
    tables = [file.name for file in files if file.suffix in SUFFIXES]
    if tables:
        return _tables(directory, tables)
    return _folders(directory)


def _split_json(file: Path) -> dict[str, str]:
    content = read_json(file)
    try:
        paths = [str(entry[0]) for split in SPLITS for entry in content[split]]
    except (LookupError, TypeError):
        raise NerpError(f"{file}: not a split, {{train, val, test: [[path, label, class name], "
                        "...]}") from None
    return {"LAYOUT": "json_split", "IMAGE_FOLDER": _place(file, paths), "SPLIT_FILE": file.name}


def _tables(directory: Path, tables: Sequence[str]) -> tuple[dict[str, str], bool]:
    one_a_split = {f"{{}}{Path(name).suffix}" for name in tables if Path(name).stem in SPLITS}
    names = sorted(one_a_split or tables)
    if len(names) > 1:
        raise NerpError(f"{directory}: which of {', '.join(tables)} lists the images? Move the "
                        "others away")
    rows = listed_rows(directory, names[0])
    place = _place(directory / names[0], [row.path for row in rows])
    return ({"LAYOUT": "listing", "IMAGE_FOLDER": place, "SPLIT_FILE": names[0]},
            all(row.split for row in rows))


def _place(file: Path, paths: Sequence[str]) -> str:
    """The folder below which the first of the paths that `file` lists is."""
    for place in ("", *subfolders(file.parent)):
        if paths and os.path.exists(file.parent / place / paths[0]):  # whatever the path is
            return place
    raise NerpError(f"{file}: lists {paths[0] if paths else 'no images'}, which is neither in "
                    f"{file.parent} nor in a folder in it")


def _folders(directory: Path) -> tuple[dict[str, str], bool]:
    inner = subfolders(directory)
    deeper = inner if len(inner) == 1 and subfolders(directory / inner[0]) else []
    for place in ("", *deeper):
        if any(subfolders(directory / place / split) for split in SPLITS
               if split in subfolders(directory / place)):
            return {"LAYOUT": "folders", "IMAGE_FOLDER": place}, True
    (place,) = deeper or [""]
    if any(images_below(directory / place / name) for name in subfolders(directory / place)):
        return {"LAYOUT": "json_split", "IMAGE_FOLDER": place, "SPLIT_FILE": SPLIT_FILE}, False
    raise NerpError(f"{directory}: found neither class folders with images, nor train/, val/ and "
                    "test/ with class folders, nor a table of paths and labels "
                    f"({', '.join('*' + suffix for suffix in SUFFIXES)}), nor a split JSON")


def split_folder(
    directory: Path, fractions: Sequence[float], seed: int, overwrite: bool
) -> dict[str, str]:
    """Write a split JSON for images that have none; no file is moved. The keys of a card for it.

    The same images, fractions and seed give the same split on every machine. Raises NerpError for
    images that have splits, or where another split is there already.
    """
    keys, has_splits = look(directory, anew=True)
    if has_splits:
        raise NerpError(f"{directory}: its images have splits already; nerp data new {directory}")
    image_dir = directory / keys["IMAGE_FOLDER"]
    if keys["LAYOUT"] == "listing":
        by_class: dict[str, list[str]] = {}
        for row in listed_rows(directory, keys["SPLIT_FILE"]):
            by_class.setdefault(row.label, []).append(row.path)
    else:
        by_class = {name: [f"{name}/{file}" for file in images_below(image_dir / name)]
                    for name in subfolders(image_dir)}
    _write(directory / SPLIT_FILE, json.dumps(stratified(by_class, fractions, seed)) + "\n",
           overwrite, "and with it what runs on it were trained and tested on")
    return {**keys, "LAYOUT": "json_split", "SPLIT_FILE": SPLIT_FILE}


def _write(file: Path, text: str, overwrite: bool, loss: str) -> None:
    if file.exists() and not overwrite and read_text(file) != text:
        raise NerpError(f"{file} is there already and differs; --overwrite replaces it, {loss}")
    write_text(file, text)


def stratified(
    by_class: Mapping[str, Sequence[str]], fractions: Sequence[float], seed: int
) -> dict[str, list[Item]]:
    """Each class's images in three parts, {"train" | "val" | "test": items}, drawn at random.

    A class is drawn by the seed and its name alone, so one class more changes nothing for the
    others; one without images is left out. Where a class has two images or more, train and test
    get one at least. Labels are the places of the sorted names.

    Raises NerpError for fractions that are not three that sum to 1.
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


def write_card(
    file: Path, keys: Mapping[str, object], bench: Benchmark, licence: str, overwrite: bool
) -> None:
    """Write a card with `keys` and the counts of `bench`, which was read by them.

    Raises NerpError where another one is there already.
    """
    keys = {**keys, "NUM_CLASSES": len(bench.classnames)}
    sizes = [len(getattr(bench, split)) for split in SPLITS]
    lines = [f"  {key}: {_scalar(value)}" for key, value in keys.items()]
    text = _CARD.format(keys="\n".join(lines), sizes=sizes, licence=_scalar(licence))
    _write(file, text, overwrite, "and what was edited in it")


def _scalar(value: object) -> str:
    """A value as YAML on one line."""
    return yaml.safe_dump(value, width=10**6, allow_unicode=True).removesuffix("...\n").strip()


def describe(bench: Benchmark, card: Path) -> list[str]:
    """Lines about a dataset: classes, images, what may not be meant so, and what comes next."""
    names = bench.classnames
    images = ", ".join(f"{split} {len(getattr(bench, split))}" for split in SPLITS)
    root = shlex.quote(str(card.parent))
    protocol = "base_to_novel" if len(names) > 3 else "few_shot"
    return [
        f"{len(names)} classes ({_some(names)}); images: {images}",
        *doubts(bench),
        f"\nThe card is {card}; its TEMPLATE is worth an edit. Then:",
        f"  nerp sweep --protocol {protocol} --methods ZeroshotCLIP,CoOp,MMRL,MMRL_NeRP "
        f"--datasets {shlex.quote(str(card))} --root {root}",
        "  nerp table output",
        "(to try it at once, without a download: --options MODEL.BACKBONE.NAME tiny)",
    ]


def doubts(bench: Benchmark) -> list[str]:
    """What of a benchmark may not be meant as it is, a line each."""
    lines = []
    if not bench.test:
        lines.append("there are no test images: call the folder, or the split, of the held-out "
                     "ones test")
    for split in ("train", "test"):
        there = {item.label for item in getattr(bench, split)}
        empty = [name for label, name in enumerate(bench.classnames) if label not in there]
        if there and empty:
            lines.append(f"classes without {split} images: {_some(empty)}")
    names = bench.classnames
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        lines.append(f"several classes of one name, which no prompt tells apart: {_some(twice)}")
    marked = [name for name in names if "<" in name or "&" in name and ";" in name]
    if marked:
        lines.append(f"class names with markup, which prompts repeat: {_some(marked)}")
    if names and all(name.isdecimal() for name in names):
        lines.append("the class names are numbers, which say nothing to CLIP; a listing's card "
                     "takes a CLASS_FILE with a name a line")
    return lines


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
