"""Votes of cached image features for their classes, which are added to zero-shot logits."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nerp.data.benchmark import comparable

_AT_ONCE = 2**24  # affinities held at once: 64 MiB in float32
Closeness = Callable[[Tensor, Tensor], Tensor]


def cosines(features: Tensor, keys: Tensor) -> Tensor:
    """Cosines [N, B] of features [B, D] and keys [N, D], both of length 1."""
    return keys @ features.t()


def class_votes(
    features: Tensor, keys: Tensor, labels: Tensor, classes: int, beta: float | Tensor,
    closeness: Closeness = cosines,
) -> Tensor:
    """Votes [B, C]: for each class c, the sum over its keys of exp(-β (1 - closeness)).

    It is differentiable. Besides arguments and result it needs at most some 100 MiB.

    Args:
        features: [B, D]. keys: [N, D]. labels: [N]; a key with the label -1 has no vote.
        closeness: features [B, D] and keys [N, D] -> their closeness [N, B].
    """
    keys, labels = sorted_keys(keys, labels)
    if not len(keys):
        return features.new_zeros(len(features), classes)
    counts = torch.bincount(labels, minlength=classes)
    parts = features.split(max(1, _AT_ONCE // len(keys)))
    return torch.cat([add_up(weights(closeness(part, keys), beta), counts) for part in parts])


def sorted_keys(keys: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The keys [N, D] that have a vote and their labels [N], sorted by label."""
    if bool((labels[1:] < labels[:-1]).any()):
        labels, order = labels.sort(stable=True)
        keys = keys[order]
    silent = int((labels < 0).sum())
    return keys[silent:], labels[silent:]


def weights(close: Tensor, beta: float | Tensor) -> Tensor:
    """exp(-β (1 - close)), of the shape of `close`."""
    return (beta * close - beta).exp_()


def add_up(votes: Tensor, counts: Tensor) -> Tensor:
    """Sums [B, C] of votes [N, B] per class. The first counts[0] rows belong to class 0, the next
    counts[1] to class 1, and so on."""
    # The rows of a class are adjacent, so a sum takes a tenth of a product with one-hot labels.
    return torch.segment_reduce(votes, "sum", lengths=counts, axis=0, initial=0.0).t()


def columns_by_name(labels: Tensor, trained: Sequence[str], asked: Sequence[str]) -> Tensor:
    """Labels [N] of the classes `trained`, converted to labels of the classes `asked`; -1 for a
    class that is not in `asked`. Names are compared without case; underscores and hyphens count as
    spaces."""
    place = {plain_name(name): i for i, name in enumerate(asked)}
    found = [place.get(plain_name(name), -1) for name in trained]
    return torch.tensor(found, dtype=torch.long, device=labels.device)[labels]


def plain_name(name: str) -> str:
    """The form of a class name in which these methods compare names."""
    return comparable(name.replace("-", " "))
