"""Where a bundle's pairs may come from: how well each source explains them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nerp.correction.pairs import Clues
from nerp.errors import NerpError
from nerp.registry import PAIR_SOURCES

# From what has looked at least to what has looked at most.
SOURCES = ("text", "reference", "train", "unlabelled", "labels")


@dataclass(frozen=True)
class Match:
    """How a source's strongest pairs meet the given ones.

    Attributes:
        pairs: how many the source was asked for: as many as are given, or all it has.
        overlap: how many of them are given. chance: what so many random pairs would share.
        missing: why the source could not be asked, "" where it could.
    """

    source: str
    looked_at: str
    pairs: int
    overlap: int
    given: int
    chance: float
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
    def above_chance(self) -> bool:
        """Whether the overlap exceeds its mean under random pairs by two standard deviations
        (hypergeometric, bounded by the binomial's)."""
        return self.overlap > self.chance + 2 * max(self.chance, 1.0) ** 0.5


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
            matches.append(Match(name, "", 0, 0, count, 0.0, str(error)))
            continue
        upper = scores.matrix[first, second]
        asked = min(count, int(upper.isfinite().sum()))
        strongest = upper.argsort(descending=True, stable=True)[:asked]
        overlap = int(wanted[strongest].sum())
        chance = asked * count / len(upper)
        matches.append(Match(name, scores.looked_at, asked, overlap, count, chance))
    return matches


def verdict(matches: Sequence[Match]) -> str:
    """Which information the given pairs are closest to, in a sentence."""
    best = max(matches, key=lambda match: match.f1)
    if not best.above_chance:
        return "The pairs are close to none of these sources: no overlap stands out from chance."
    return (f"The pairs are closest to what {best.source} yields, which has looked at "
            f"{best.looked_at} ({best.overlap} of {best.given} shared, chance {best.chance:.1f}).")
