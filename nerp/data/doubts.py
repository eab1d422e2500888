"""Likely mistakes in a dataset, in words."""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nerp.data.benchmark import Benchmark, comparable

_SHOWN = 5
_ROUNDING = 1e-4  # of a cosine in half precision
REMEDY = ("there are no test images: call the folder, or the split, of the held-out ones test (or "
          "testing, tst), with a folder for each class in it")


def doubts(bench: Benchmark) -> list[str]:
    """About the images and class names of a benchmark, one line each."""
    lines = [] if bench.test else [REMEDY]
    for split in ("train", "test"):
        there = {item.label for item in getattr(bench, split)}
        empty = [name for label, name in enumerate(bench.classnames) if label not in there]
        if there and empty:
            lines.append(f"classes without {split} images: {some(empty)}")
    return lines + name_doubts(bench.classnames)


def name_doubts(names: Sequence[str]) -> list[str]:
    """Lines about class names that a prompt cannot use or cannot tell apart."""
    lines = []
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        lines.append(f"several classes of one name, which no prompt tells apart: {some(twice)}")
    alike: dict[str, set[str]] = {}
    for name in names:
        alike.setdefault(comparable(name), set()).add(name)
    pairs = [" = ".join(sorted(group)) for group in alike.values() if len(group) > 1]
    if pairs:
        lines.append("class names that differ in case or underscores alone, so that their prompts "
                     f"are the same to CLIP: {some(pairs)}")
    marked = [name for name in names if "<" in name or "&" in name and ";" in name]
    if marked:
        lines.append(f"class names with markup, which prompts repeat: {some(marked)}")
    for what, pattern in _SAY_NOTHING.items():
        odd = [name for name in names if re.fullmatch(pattern, name)]
        numbers = {match[0] for name in odd if (match := re.match(r"n?\d+", name))}
        if len(numbers) == len(odd) > len(names) / 2:  # years begin several names
            lines.append(f"{what}: {some(odd)}; rename the folders, or list the images in a table "
                         "whose card has a CLASS_FILE with a name per line")
    return lines


_SAY_NOTHING = {
    "the class names are numbers, which say nothing to CLIP": r"\d+",
    "the class names are WordNet's identifiers, which say nothing to CLIP": r"n\d{8}",
    "the class names begin with numbers, which prompts repeat": r"\d+[ ._-]+\D.*",
}


def coinciding(names: Sequence[str], features: npt.NDArray[np.floating]) -> list[tuple[str, str]]:
    """The pairs of names whose class features [C, D], of length 1, are equal up to rounding, so
    that a model cannot tell the classes apart."""
    cosines = features @ features.T
    first, second = np.nonzero(np.triu(cosines > 1 - _ROUNDING, 1))
    return [(names[i], names[j]) for i, j in zip(first.tolist(), second.tolist(), strict=True)]


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
