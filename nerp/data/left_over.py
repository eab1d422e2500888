"""Files in a dataset's folder that are in none of its lists, so that nothing vanishes silently."""

import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

from yacs.config import CfgNode

from nerp.data.benchmark import SPLITS, Benchmark
from nerp.data.decode import is_image
from nerp.data.doubts import some
from nerp.data.layouts import files_below, split_places, subfolders
from nerp.data.split_file import made_by

LOOSE = "pictures in no class folder"
EMPTY = "class folders without an image"
OTHERS = "files that are no images"
ASIDE = "folders that are not read"
LEFT_OUT = "left out of the split"
WRONG = (LOOSE, EMPTY)  # the kinds that the user has to look at

# Files that runs and commands of this project leave in a dataset's folder.
_OURS = re.compile(r"split\.json$|split_fewshot/|features_cache/"
                   r"|[^/]*_train_image_mean-\d+-\w+\.png$")
_BY_FOLDER = ("folders", "imagenet")  # the layouts whose classes are folders


def left_over(card: CfgNode, bench: Benchmark) -> dict[str, list[str]]:
    """Lines about what is not read, by kind. {} for a layout with published lists, because these
    name only a part of the files."""
    listed = {item.path for split in SPLITS for item in getattr(bench, split)}
    if card.LAYOUT in _BY_FOLDER:
        return below(bench.image_dir, listed)
    made = made_by(bench.directory / card.SPLIT_FILE) if card.LAYOUT == "json_split" else None
    if made is None or made.layout == "listing":
        return {}
    found = below(bench.image_dir, listed | set(made.left_out))
    if made.left_out:
        found[LEFT_OUT] = [f"{path}: {why}" for path, why in made.left_out.items()]
    return found


def below(image_dir: Path, listed: set[str]) -> dict[str, list[str]]:
    """`left_over` of a folder; `listed` are the paths that are read."""
    loose, others = defaultdict(list), defaultdict(list)
    full = {str(parent) for path in listed for parent in PurePosixPath(path).parents}
    for path in files_below(image_dir):
        if path in listed or _OURS.match(path):
            continue
        place = PurePosixPath(path)
        if is_image(image_dir / path):
            loose[str(place.parent)].append(place.name)
        else:
            others[place.suffix.lower() or "no suffix"].append(path)
    found: dict[str, list[str]] = {}
    if loose:
        found[LOOSE] = [_loose(image_dir, folder, names) for folder, names in sorted(loose.items())]
    tops = [name for name in subfolders(image_dir) if not _OURS.match(f"{name}/")]
    by_split = [place for place in split_places(image_dir).values()
                if any(f"{place}/{name}" in full for name in subfolders(image_dir / place))]
    classes = [f"{top}/{name}" for top in by_split for name in subfolders(image_dir / top)]
    empty = [name for name in (classes if by_split else tops) if name not in {*full, *loose}]
    if empty:
        found[EMPTY] = [_empty(image_dir, name, others) for name in empty]
    aside = [top for top in tops if by_split and top not in {*full, *loose}]
    if aside:
        found[ASIDE] = [some([f"{image_dir / top}/" for top in aside])]
    if others:
        found[OTHERS] = [_kind(suffix, paths) for suffix, paths in sorted(others.items())]
    return found


def _loose(image_dir: Path, folder: str, names: list[str]) -> str:
    place = image_dir if folder == "." else image_dir / folder
    return (f"{place}: {len(names)} ({some(sorted(names))}); nothing says what they show: put each "
            "into the folder of its class, or list them in a table path,label,split")


def _empty(image_dir: Path, name: str, others: dict[str, list[str]]) -> str:
    inside = {suffix: n for suffix, paths in others.items()
              if (n := sum(path.startswith(f"{name}/") for path in paths))}
    holds = ", ".join(f"{count} with {suffix}" for suffix, count in inside.items())
    return f"{image_dir / name}" + (f": it holds {holds}" if holds else ": it is empty")


def _kind(suffix: str, paths: list[str]) -> str:
    hint = "; Pillow does not open them here: convert them to JPEG or PNG" if suffix in _PICTURES \
        else ""
    return f"{suffix}: {len(paths)} ({some(sorted(paths))}){hint}"


_PICTURES = (".heic", ".heif", ".avif", ".jxl", ".svg", ".raw", ".cr2", ".nef", ".dng", ".psd")
