"""Specific prompts: a label and perhaps a description of one class, in fixed templates."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from random import Random

import torch
from torch import Tensor

from nerp.clip.model import normalise

Pair = tuple[str, str | None]
Encode = Callable[[list[str]], Tensor]
_STARTS = 16
_SEVERAL = "*****"  # left between a synonym and a description by the published code


def fill(template: str, pair: Pair) -> str:
    """The text of a label and a description, in lower case."""
    label, description = pair
    text = template.format(label)
    return (text if description is None else f"{text} {description}").lower()


def renamed(description: str, name: str, synonym: str) -> str:
    """A description in lower case, the class name, as it is written, replaced by a synonym."""
    return description.lower().replace(name, synonym)


def all_labels(name: str, descriptions: Sequence[str], synonyms: Sequence[str]) -> list[Pair]:
    """Everything there is to say of a class: its synonyms, alone and with each description.

    A description stands behind five asterisks in the label, which the published code leaves there.
    """
    labels = [label for synonym in synonyms for label in (
        synonym, *(f"{synonym}{_SEVERAL}{renamed(d, name, synonym)}" for d in descriptions))]
    return [(label, None) for label in dict.fromkeys(labels)]


def own_pairs(name: str, descriptions: Sequence[str], synonyms: Sequence[str]) -> list[Pair]:
    """The specific prompts that a class may be given: each synonym alone and with each
    description, the name last where it is no synonym."""
    plain = name.lower()
    labels = [*synonyms, *([] if plain in synonyms else [plain])]
    return [pair for label in labels
            for pair in ((label, None), *((label, renamed(d, name, label)) for d in descriptions))]


def drawn_starts(
    names: Sequence[str], descriptions: Mapping[str, Sequence[str]], draw: Random
) -> Iterator[list[list[Pair]]]:
    """Prompts of each class that a search may start from: all descriptions, none, 16 times some of
    each class, 16 times as many of each."""
    plain: list[list[Pair]] = [[(name.lower(), None)] for name in names]
    own: list[list[Pair]] = [
        [(name.lower(), d.lower()) for d in descriptions.get(name, ())] for name in names
    ]

    def some(count: int) -> int:
        return draw.randint(int(count / 3 + 0.71), count)

    def candidates() -> Iterator[list[list[Pair]]]:
        yield own
        yield plain
        for _ in range(_STARTS):
            yield [draw.sample(pairs, some(len(pairs))) for pairs in own]
        for _ in range(_STARTS):
            k, drawn = some(len(own[-1])), []
            for pairs in own:
                k = min(k, len(pairs))  # it shrinks along the classes
                drawn.append(draw.sample(pairs, k))
            yield drawn

    for candidate in candidates():
        yield [pairs or alone for pairs, alone in zip(candidate, plain, strict=True)]


class Encoded:
    """Features of specific prompts in fixed templates, each encoded once."""

    def __init__(self, templates: Sequence[str], encode: Encode):
        self._templates = templates
        self._encode = encode
        self._sums: dict[Pair, Tensor] = {}

    def prepare(self, pairs: Iterable[Pair]) -> None:
        """Encode those that are not yet, together."""
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._sums]
        if new:
            features = self._encode([fill(t, pair) for pair in new for t in self._templates])
            sums = features.view(len(new), len(self._templates), -1).sum(1)
            self._sums.update(zip(new, sums, strict=True))

    def feature(self, pairs: Sequence[Pair]) -> Tensor:
        """A class's feature [D]: the mean over its texts, normalised."""
        self.prepare(pairs)
        return normalise(reduce(torch.add, (self._sums[pair] for pair in pairs)))
