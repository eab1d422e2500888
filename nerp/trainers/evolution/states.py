"""Candidates that come to the same score exactly the same."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from nerp.trainers.evolution.texts import Pair

_State = frozenset[tuple[int, frozenset[tuple[Pair, int]]]]


class Searched(Protocol):
    """What a search knows of its classes."""

    now: list[tuple[Pair, ...]]

    def by_class(self, prompts: Sequence[Pair]) -> dict[int, list[Pair]]: ...

    def measured(self, changed: Mapping[int, Sequence[Pair]]) -> dict[str, float]: ...


class States:
    """The fitness of what candidates of one group amount to.

    Two that give each class the same prompts in the same proportions differ by rounding alone,
    which would otherwise decide which of them is a parent.
    """

    def __init__(self, search: Searched):
        self._search = search
        self._known: dict[_State, float] = {}

    def keep(self, prompts: Sequence[Pair], fitness: float) -> None:
        """Let a candidate, and those that come to the same, have this fitness."""
        self._known[self._state(prompts)] = fitness

    def fitness(self, prompts: Sequence[Pair]) -> float:
        """Of a candidate's prompts: that of the first one that came to the same, else measured."""
        state = self._state(prompts)
        if state not in self._known:
            own = self._search.by_class(prompts)
            changed = {c: own[c] for c, _ in state}
            self._known[state] = self._search.measured(changed)["fitness"]
        return self._known[state]

    def _state(self, prompts: Sequence[Pair]) -> _State:
        shares = {c: _shares(pairs) for c, pairs in self._search.by_class(prompts).items()}
        return frozenset((c, own) for c, own in shares.items()
                         if own != _shares(self._search.now[c]))


def _shares(pairs: Sequence[Pair]) -> frozenset[tuple[Pair, int]]:
    counts = Counter(pairs)
    divisor = math.gcd(*counts.values())
    return frozenset((pair, count // divisor) for pair, count in counts.items())
