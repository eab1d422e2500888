"""The usual names of a dataset's three splits: of folders, tables and values of a column."""

import glob
import re
from collections.abc import Iterable
from pathlib import Path

from nerp.base.errors import NerpError

_CALLED = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "development"),
    "test": ("test", "testing", "tst"),
}
_SPLIT = {name: split for split, names in _CALLED.items() for name in names}
# Words that may stand beside such a name without a meaning: "Training Set", seg_train, test_images.
_BESIDE = {"set", "data", "dataset", "images", "imgs", "img", "split", "seg"}


def split_of(name: str) -> str:
    """The split (train, val or test) with the usual name `name`, in any case; "" for none."""
    words = set(re.findall("[^\\W_]+", name.lower())) - _BESIDE
    return _SPLIT.get(words.pop(), "") if len(words) == 1 else ""


def split_named(names: Iterable[str], where: Path | str) -> dict[str, str]:
    """The names that are names of a split, {split: name}. A name with other words beside it counts
    only if no name is without.

    Raises NerpError, beginning with `where`, for two names of one split.
    """
    names, found = list(names), dict[str, str]()
    for known in (lambda name: _SPLIT.get(name.strip().lower(), ""), split_of):
        new: dict[str, str] = {}
        for name in names:
            split = known(name)
            if split and split not in found and new.setdefault(split, name) != name:
                raise NerpError(f"{where}: {new[split]} and {name} both mean the split {split}; "
                                "rename one of them, or move it away")
        found |= new
    return found


def split_tables(directory: Path, template: str) -> dict[str, Path]:
    """The files that `template` names with a split's name for {}, {split: file}.

    Raises NerpError for two files of one split.
    """
    before, _, after = template.partition("{}")
    pattern = re.compile(f"{re.escape(before)}([^/]+){re.escape(after)}")
    found = directory.glob(f"{glob.escape(before)}*{glob.escape(after)}")
    names = sorted(file.relative_to(directory).as_posix() for file in found if file.is_file())
    middles = [match[1] for name in names if (match := pattern.fullmatch(name))]
    return {split: directory / template.format(middle)
            for split, middle in split_named(middles, directory).items()}


def template_of(name: str) -> str:
    """A file's name with {} for the split that its name begins or ends with: birds_{}.csv for
    birds_train.csv; "" if there is none."""
    stem, suffix = Path(name).stem, Path(name).suffix
    for pattern, template in ((r"(.*[^A-Za-z0-9]|)([A-Za-z]+)", "{0}{{}}"),
                              (r"([A-Za-z]+)([^A-Za-z0-9].*)", "{{}}{1}")):
        match = re.fullmatch(pattern, stem)
        if match and split_of(match[2 if "{0}" in template else 1]):
            return template.format(match[1], match[2]) + suffix
    return ""
