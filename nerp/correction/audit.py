"""Where a bundle's pairs may come from: how well each source explains them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nerp.base.errors import NerpError
from nerp.base.registry import PAIR_SOURCES
from nerp.correction.pairs import Clues

# From what has looked at least to what has looked at most.
SOURCES = ("text", "reference", "train", "unlabelled", "labels")
# An overlap stands out where chance gives it, or a larger one, with at most this probability: one
# in twenty, shared among the sources.
_RARE = 0.05 / len(SOURCES)


@dataclass(frozen=True)
class Match:
    """How a source's strongest pairs meet the given ones.

    Attributes:
        pairs: how many the source was asked for: as many as are given, or all it has.
        overlap: how many of them are given. possible: how many pairs the classes have.
        missing: why the source could not be asked, "" where it could.
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
        """The overlap of so many random pairs, on average."""
        return self.pairs * self.given / self.possible

    @property
    def probability(self) -> float:
        """That so many random pairs have this overlap or a larger one (hypergeometric)."""
        return sum(self._share(k) for k in range(self.overlap, min(self.pairs, self.given) + 1))

    @property
    def least_probability(self) -> float:
        """That of the largest overlap there could be."""
        return self._share(min(self.pairs, self.given))

    def _share(self, overlap: int) -> float:
        """The probability of just this overlap, by logarithms."""
        left, asked = self.possible - self.given, self.pairs - overlap
        if asked > left:
            return 0.0
        return math.exp(_log_choose(self.given, overlap) + _log_choose(left, asked)
                        - _log_choose(self.possible, self.pairs))


def audit(given: Tensor, clues: Clues, sources: Sequence[str] = SOURCES) -> list[Match]:
    """Compare pairs [n, 2] with what each source yields, the source's strongest n of them.

    A source that cannot serve these classes (train, on classes not trained on) says why.
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
    """Which information the given pairs are closest to, and how sure that is, in words."""
    best = max(matches, key=lambda match: match.f1)
    shared = (f"{best.overlap} of {best.given} shared, where {best.possible} are possible; chance "
              f"alone gives {best.chance:.1f}, and so many or more with probability "
              f"{best.probability:.2g}")
    if best.least_probability > _RARE:
        return ("So few classes cannot tell where the pairs are from: that all are shared could be "
                f"chance (at best, with {best.source}, {shared}).")
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
