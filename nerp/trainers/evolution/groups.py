"""Which classes are searched together: those that gain most, and those that are confused."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from nerp.clip.device import in_float64

_CONFUSED = 0.04  # of a class's images, that have another among the first five
_GAIN = 0.1  # in fitness, over the baseline
_LEFT_OUT = 0.4  # of the classes


@dataclass(frozen=True)
class Sizes:
    """How many of C classes stand in groups, in one group at most, and are left out at most."""

    searched: int
    group: int
    left_out: int

    @classmethod
    def of(cls, classes: int) -> "Sizes":
        return cls(min(classes, int(10 * math.log(classes))), int(2.5 * math.log(classes)),
                   int(_LEFT_OUT * classes))


def by_entropy(logits: Tensor, labels: Tensor) -> list[int]:
    """The classes in ascending order of the cross entropy of their own images' logits [N, C]; those
    without images come last."""
    loss = in_float64(F.cross_entropy(logits, labels, reduction="none"))
    labels = labels.to(loss.device)
    means = [float(loss[labels == c].mean()) if bool((labels == c).any()) else math.inf
             for c in range(logits.shape[1])]
    return sorted(range(len(means)), key=means.__getitem__)


def confusion_groups(
    logits: Tensor, labels: Tensor, order: Sequence[int], most: int
) -> list[list[int]]:
    """Groups of classes, each begun by the next one in `order` that is in none.

    The i-th class of the order is joined by the classes but i that are often among the first five
    of the images whose LABEL is i: the published code confuses rank and label, so that a class can
    stand in its group twice.
    """
    classes = logits.shape[1]
    near = logits.topk(min(5, classes), dim=1).indices
    taken: set[int] = set()
    groups = []
    for i, first in enumerate(order):
        if first in taken:
            continue
        group = [first]
        own = near[labels == i]
        if len(own):
            counts = own.flatten().bincount(minlength=classes).tolist()
            group += [j for j, n in enumerate(counts) if j != i and n >= _CONFUSED * len(own)]
        taken.update(group)
        groups.append(group)
        if len(taken) >= most:
            break
    return groups


def make_groups(
    logits: Tensor, labels: Tensor, clusters: Sequence[int],
    gain: Callable[[int], float] | None,
) -> dict[int, list[int]]:
    """Number -> classes of the groups, of which numbers may be missing.

    Args:
        logits: [N, C] of the training images; labels: [N]. clusters: of each class.
        gain: the fitness, less the baseline, if a class had all its texts; None: no class is
            important or left out.
    """
    sizes = Sizes.of(logits.shape[1])
    order = by_entropy(logits, labels)
    important: list[int] = []
    left_out: set[int] = set()
    if gain is not None:
        gains = {c: gain(c) for c in order}
        ranking = sorted(order, key=lambda c: -gains[c])
        important = _important(ranking, gains)
        worst = [c for c in reversed(ranking) if gains[c] <= 0]
        left_out = set(worst[: sizes.left_out])
    parts = [important[i : i + sizes.group] for i in range(0, len(important), sizes.group)]
    groups = dict(enumerate(parts))
    placed = len(important)
    taken: set[int] = set()
    confused = confusion_groups(logits, labels, order, sizes.searched)
    for place, together in enumerate(confused):
        if placed >= sizes.searched:
            break
        if together[0] in taken:
            continue
        group = [c for c in together if c not in left_out]
        taken.update(together)
        for c, cluster in enumerate(clusters):
            if len(group) >= sizes.group:
                break
            if cluster == clusters[together[0]] and c not in taken and c not in left_out:
                group.append(c)
                taken.add(c)
        groups[len(parts) + place] = group
        placed += len(group)
    return groups


def _important(ranking: Sequence[int], gains: dict[int, float]) -> list[int]:
    """Down the ranking to the baseline, which stands before its equals; from the third class on
    only those that gain something."""
    found: list[int] = []
    for c in ranking:
        if gains[c] <= 0 or len(found) > 1 and gains[c] < _GAIN:
            break
        found.append(c)
    return found
