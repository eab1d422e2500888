"""Where a bundle's pairs may come from: how well each pair source reproduces them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nerp.base.errors import NerpError
from nerp.base.registry import PAIR_SOURCES
from nerp.correction.pairs import Clues

# From the source that has looked at least to the source that has looked at most.
SOURCES = ("text", "reference", "train", "unlabelled", "labels")
# An overlap is remarkable if random pairs reach it with at most this probability: one in twenty,
# divided by the number of sources.
_RARE = 0.05 / len(SOURCES)


@dataclass(frozen=True)
class Match:
    """How a source's strongest pairs agree with the given ones.

    Attributes:
        pairs: how many pairs the source gave: as many as are given, or all that it has.
        overlap: how many of them are among the given. possible: number of pairs of the classes.
        missing: why the source gives no pairs, "" if it does.
    """

    source: str
    looked_at: str
    pairs: int
    overlap: int
    given: int
    possible: int
    missing: str = ""

    @property
    def precision(self) -> float:
        return self.overlap / self.pairs if self.pairs else 0.0

    @property
    def recall(self) -> float:
        return self.overlap / self.given

    @property
    def f1(self) -> float:
        return 2 * self.overlap / (self.pairs + self.given)

    @property
    def chance(self) -> float:
        """The mean overlap of random pairs, as many as the source gave."""
        return self.pairs * self.given / self.possible

    @property
    def probability(self) -> float:
        """The probability that random pairs overlap at least this much (hypergeometric)."""
        return sum(self._share(k) for k in range(self.overlap, min(self.pairs, self.given) + 1))

    @property
    def least_probability(self) -> float:
        """The probability of the largest possible overlap, for random pairs."""
        return self._share(min(self.pairs, self.given))

    def _share(self, overlap: int) -> float:
        """The probability of exactly this overlap, computed with logarithms."""
        left, asked = self.possible - self.given, self.pairs - overlap
        if asked > left:
            return 0.0
        return math.exp(_log_choose(self.given, overlap) + _log_choose(left, asked)
                        - _log_choose(self.possible, self.pairs))


def audit(given: Tensor, clues: Clues, sources: Sequence[str] = SOURCES) -> list[Match]:
    """Compare given pairs [n, 2] with the n strongest pairs of each source.

    A source that has none for these classes (train, on classes not trained on) says why.
    """
    classes = len(clues.classnames)
    wanted = torch.zeros(classes, classes, dtype=torch.bool)
    wanted[given[:, 0], given[:, 1]] = wanted[given[:, 1], given[:, 0]] = True
    first, second = torch.triu_indices(classes, classes, offset=1)
    wanted = wanted[first, second]
    count = int(wanted.sum())
    matches = []
    for name in sources:
        try:
            scores = PAIR_SOURCES[name](clues)
        except NerpError as error:
            matches.append(Match(name, "", 0, 0, count, len(wanted), str(error)))
            continue
        upper = scores.matrix[first, second]
        asked = min(count, int(upper.isfinite().sum()))
        strongest = upper.argsort(descending=True, stable=True)[:asked]
        overlap = int(wanted[strongest].sum())
        matches.append(Match(name, scores.looked_at, asked, overlap, count, len(wanted)))
    return matches


def verdict(matches: Sequence[Match]) -> str:
    """Which source the given pairs are closest to, and how sure that is, in words."""
    best = max(matches, key=lambda match: match.f1)
    shared = (f"{best.overlap} of {best.given} shared, where {best.possible} are possible; chance "
              f"alone gives {best.chance:.1f}, and so many or more with probability "
              f"{best.probability:.2g}")
    if best.least_probability > _RARE:
        return ("So few classes cannot tell where the pairs are from: chance alone could explain "
                f"that all are shared (at best, with {best.source}, {shared}).")
    if best.probability > _RARE:
        return ("The pairs are close to none of these sources: no overlap stands out from chance "
                f"(at best, with {best.source}, {shared}).")
    text = (f"The pairs are closest to what {best.source} yields, which has looked at "
            f"{best.looked_at} ({shared}).")
    if best.chance > best.given / 2:
        text += " With so few classes chance alone shares most of them: a weak sign."
    return text


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
