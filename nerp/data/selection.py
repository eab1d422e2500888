"""Which images and classes a run uses: the few-shot draw and the base/novel cut.

Both are those of CoOp (few-shot) and CoCoOp (base/novel), draw for draw.
"""

import json
import math
import os
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nerp.base.errors import DiskError, NerpError
from nerp.base.log import say
from nerp.base.paths import write_text
from nerp.data.benchmark import Benchmark, Item, distinct, split_digest
from nerp.data.few_shot_file import published_draw, read_draw
from nerp.files.opening import read_bytes

MAX_VAL_SHOTS = 4


def few_shot(bench: Benchmark, shots: int, seed: int) -> Benchmark:
    """`shots` training and min(shots, 4) validation images per class; if `shots` is below 1, all of
    them.

    Python's generator is seeded with `seed`. For each label, in order of first appearance, k items
    are sampled, first from the training list and then from the validation list. A class with fewer
    than k items is kept whole.
    """
    if shots < 1:
        return bench
    rng = random.Random(seed)
    train = _draw(bench.train, shots, rng)
    return replace(bench, train=train, val=_draw(bench.val, min(shots, MAX_VAL_SHOTS), rng))


def _draw(items: list[Item], count: int, rng: random.Random) -> list[Item]:
    groups: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.label].append(item)
    drawn = (rng.sample(group, count) if len(group) >= count else group
             for group in groups.values())
    return [item for group in drawn for item in group]


def kept_few_shot(bench: Benchmark, shots: int, seed: int, folders: Sequence[Path]) -> Benchmark:
    """`few_shot`, also written to `split_fewshot/shot_<k>-seed_<s>.json` in the first of `folders`
    that can be written. The file is for people and other programs.

    An existing file is never used as the draw, because drawing costs little. A file that differs is
    replaced.
    """
    if shots < 1 or not (bench.train or bench.val):
        return bench
    drawn = few_shot(bench, shots, seed)
    text = json.dumps({
        # Digests of the training and the validation list that it was drawn from, and of the draw.
        "lists": [split_digest(bench.train), split_digest(bench.val)],
        "drawn": [split_digest(drawn.train), split_digest(drawn.val)],
        "train": drawn.train,
        "val": drawn.val,
    }) + "\n"
    name = f"split_fewshot/shot_{shots}-seed_{seed}.json"
    if not any(_holds(folder / name, text) for folder in folders):
        for folder in folders:
            try:
                write_text(folder / name, text, folder)
                break
            except DiskError:
                continue
    return drawn


def _holds(file: Path, text: str) -> bool:
    """Whether a file has this text."""
    data = text.encode()
    try:
        return os.path.lexists(file) and read_bytes(file, len(data)) == data
    except NerpError:
        return False


def _compare(drawn: Benchmark, file: Path, bench: Benchmark) -> None:
    """Print whether a published draw of the same shots and seed lies in the folder and differs."""
    if not file.is_file():
        return
    try:
        train, val = read_draw(file, bench)
    except NerpError as error:
        say(f"not compared with the draw: {error}")
        return
    other = len(set(drawn.train) - set(train)) + (len(set(drawn.val) - set(val)) if val else 0)
    if other:
        say(f"{file}: {other} of the {len(drawn.train) + len(drawn.val)} images drawn here are not "
            f"in it; DATASET.FEW_SHOT_FILE {file} takes its draw")


def short_classes(bench: Benchmark, shots: int) -> dict[str, int]:
    """{class name: number of training images} for the classes of a draw with fewer than `shots`."""
    counts = Counter(item.label for item in bench.train)
    return {name: counts[label] for label, name in enumerate(distinct(bench.classnames))
            if counts[label] < shots}


def class_half(count: int, which: str) -> range:
    """The labels of "all", of "base" (the first ceil(n / 2)) or of "new" (the rest)."""
    middle = math.ceil(count / 2)
    return {"all": range(count), "base": range(middle), "new": range(middle, count)}[which]


def select_run(
    bench: Benchmark, shots: int, seed: int, classes: str, fallback: Path | None = None,
    file: str = "",
) -> Benchmark:
    """The few-shot draw over all classes, then the cut to all, base or new classes.

    The draw is kept with the dataset, or in the folder `fallback` if the dataset's is read-only.

    Args: file: a published draw to use instead (`few_shot_file`). Raises NerpError if it is not of
    this dataset.
    """
    if file and shots > 0:
        train, val = read_draw(file, bench)
        drawn = replace(bench, train=train, val=val)
    else:
        folders = [bench.directory] if fallback is None else [bench.directory, fallback]
        drawn = kept_few_shot(bench, shots, seed, folders)
        _compare(drawn, published_draw(bench, shots, seed), bench)
    return drawn.select(class_half(len(bench.classnames), classes))
