"""The two seeded streams of random numbers that a search draws from."""

import random
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
_TINY = 1e-4


class Draws:
    """numpy's legacy generator for choices among prompts, Python's for how many; both of one
    seed."""

    def __init__(self, seed: int):
        self._choices = np.random.RandomState(seed)
        self.python = random.Random(seed)

    def pick(
        self, items: Sequence[T], count: int, weights: Sequence[float] | None = None,
        least: bool = False,
    ) -> list[T]:
        """`count` of the items, none twice; with weights, larger ones more likely, or less likely
        where the `least` are sought."""
        p = None if weights is None else _shares(weights, least)
        places = self._choices.choice(len(items), count, replace=False, p=p)
        return [items[place] for place in places]


def _shares(weights: Sequence[float], least: bool) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = np.asarray(weights, dtype=np.float64) + _TINY
    if (values < 0).any():
        values = values - values.min() + _TINY
    shares: npt.NDArray[np.float64] = values / values.sum()
    if least:
        shares = 1 - shares + _TINY
        shares = shares / shares.sum()
    return shares
