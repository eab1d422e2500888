"""Which images and classes a run uses: the few-shot draw and the base/novel cut.

Both are those of CoOp (few-shot) and CoCoOp (base/novel), draw for draw.
"""

import math
import random
from collections import defaultdict
from dataclasses import replace

from nerp.data.benchmark import Benchmark, Item

MAX_VAL_SHOTS = 4


def few_shot(bench: Benchmark, shots: int, seed: int) -> Benchmark:
    """`shots` training and min(shots, 4) validation images a class; fewer than 1: all of them.

    Python's generator is seeded with `seed`; for each label in order of first appearance k items
    are sampled, from the training list and then from the validation list. A class with fewer than
    k items is kept whole.
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


def class_half(count: int, which: str) -> range:
    """The labels of "all", of "base" (the first ceil(n / 2)) or of "new" (the rest)."""
    middle = math.ceil(count / 2)
    return {"all": range(count), "base": range(middle), "new": range(middle, count)}[which]


def select_run(bench: Benchmark, shots: int, seed: int, classes: str) -> Benchmark:
    """The few-shot draw over all classes, then the cut to all, base or new ones."""
    drawn = few_shot(bench, shots, seed)
    return drawn.select(class_half(len(bench.classnames), classes))
