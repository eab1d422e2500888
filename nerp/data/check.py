"""`nerp data check`: whether the disk holds what a card promises, and every image can be read."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.progress import progress
from nerp.data.benchmark import SPLITS, Benchmark, read_benchmark
from nerp.data.decode import verify_image
from nerp.data.doubts import REMEDY, name_doubts
from nerp.data.layouts import names_unlike_imagenet
from nerp.data.left_over import WRONG, left_over
from nerp.data.published import differences

_SHOWN = 20  # examples of one kind of problem
_BLOCK = 32  # images a thread decodes at a time


@dataclass
class Report:
    """What was found: `facts`, and `problems` by kind, {"missing files": [path, ...]}."""

    name: str
    facts: list[str] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def lines(self) -> Iterator[str]:
        """The report as it is printed."""
        yield f"{self.name}: {'NOT OK' if self.problems else 'ok'}"
        yield from (f"  {fact}" for fact in self.facts)
        for kind, found in self.problems.items():
            yield f"  {kind}: {len(found)}"
            yield from (f"    {problem}" for problem in found[:_SHOWN])
            if len(found) > _SHOWN:
                yield f"    ... and {len(found) - _SHOWN} more"


def check(cfg: CfgNode) -> Report:
    """Read the lists, compare them with the card, and decode every image once."""
    report = Report(cfg.DATASET.NAME)
    try:
        bench, labels = read_benchmark(cfg)
    except NerpError as error:
        report.problems["it cannot be listed"].append(str(error))
        return report
    counts = ", ".join(f"{split} {len(getattr(bench, split))}" for split in SPLITS)
    report.facts.append(f"{bench.directory}: {counts}; {len(bench.classnames)} classes")
    if labels:
        report.problems["labels and class names that do not fit"] += labels
    for split, size in zip(SPLITS, cfg.DATASET.SPLIT_SIZES, strict=True):
        found = len(getattr(bench, split))
        if size and found != size:
            report.problems["counts that differ from the card's"].append(
                f"{split}: {found} images, the card says {size}"
            )
    if not bench.test:
        report.problems["splits without images"].append(f"test: {REMEDY}")
    for kind, texts in left_over(cfg.DATASET, bench).items():
        (report.problems[kind] if kind in WRONG else report.facts).extend(
            texts if kind in WRONG else [f"{kind}: {text}" for text in texts])
    report.facts += name_doubts(bench.classnames)
    names, lists = differences(cfg.DATASET, bench)
    if names:
        report.problems["class names that differ from the published ones"] += names
    report.facts += lists
    differing = names_unlike_imagenet(cfg.DATASET, bench.directory)
    if differing:
        report.problems["class names that differ from ImageNet's"] += differing
    _decode(bench, report)
    return report


def _decode(bench: Benchmark, report: Report) -> None:
    paths = sorted({item.path for split in SPLITS for item in getattr(bench, split)})
    for problem in damaged(bench.image_dir, paths, f"checking {bench.name}"):
        report.problems[problem.kind].append(problem.text)
    for kind, texts in report.problems.items():
        report.problems[kind] = list(dict.fromkeys(texts))  # one dead link hides many files
    report.facts.append(f"{len(paths)} image files looked at")


class Damage(NamedTuple):
    """What is wrong with an image: its path, the kind in words, the text."""

    path: str
    kind: str
    text: str


def damaged(image_dir: Path, paths: Sequence[str], what: str) -> Iterator[Damage]:
    """The images below a folder that are missing or cannot be decoded, in order."""
    blocks = [paths[start : start + _BLOCK] for start in range(0, len(paths), _BLOCK)]
    pool = ThreadPoolExecutor(os.cpu_count())  # Pillow decodes without holding Python's lock
    try:
        found = (
            problem
            for block in pool.map(lambda block: _problems(image_dir, block), blocks)
            for problem in block
        )
        for path, problem in zip(paths, progress(found, what, len(paths), "images"), strict=True):
            if problem:
                yield Damage(path, *problem)
    finally:
        pool.shutdown(cancel_futures=True)


def _problems(image_dir: Path, paths: Sequence[str]) -> list[tuple[str, str] | None]:
    """The problem of each image, as (kind, text)."""
    return [_problem(image_dir / path) for path in paths]


def _problem(path: Path) -> tuple[str, str] | None:
    try:
        verify_image(path)
    except NerpError as error:
        for place in (path, *path.parents):
            if place.is_symlink() and not place.exists():
                return "links that lead nowhere", f"{place} -> {os.readlink(place)}"
        if not path.exists():
            return "missing files", str(path)
        return "files that cannot be decoded", str(error)
    return None
