"""Calibrated stacking: one number is subtracted from the logits of all trained classes.

(Chao et al., ECCV 2016, for the same problem in zero-shot learning.) In the open world a tuned
model prefers the classes it was trained on. z' = z - γ · [trained] subtracts one preference from
all of them. It is a shift whose only reference is `trained`, the indicator of the trained classes,
with γ as its strength. γ is chosen:

- `stacking`: from labelled validation images of the trained classes only, as the largest that costs
  at most a given share of them (NERP.COST). It has seen no image of a novel class.
- `stacking_ceiling`: as the one with the best harmonic mean on the test labels, an upper bound.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.registry import REFERENCES, RULES
from nerp.correction.looked_at import TEST_LABELS, TRAINING_LABELS
from nerp.correction.references import Openness, Prior, Probe, Unsuited
from nerp.correction.shifting import Shift


def affordable_number(logits: Tensor, labels: Tensor, base: Tensor, share: float) -> float:
    """The γ >= 0 that turns at most `share` of the images from right to wrong. It lies half-way
    between the last margin over the novel classes that may be lost and the first that may not. It
    is 0 if no image is right.

    Args:
        logits: [N, C] of images of base classes. labels: [N]. base: [C], whether trained on.

    Raises NerpError for no images.
    """
    if not len(labels):
        raise NerpError("stacking: there are no validation images of the classes trained on")
    margins = _margins(logits, labels, base, of_base=True)
    right: list[float] = margins[margins >= 0].sort().values.tolist()
    allowed = int(share * len(labels))
    if not right:
        return 0.0
    below = [0.0, *right][allowed] if allowed <= len(right) else right[-1]
    above = right[min(allowed, len(right) - 1)]
    return (below + above) / 2


def best_number(logits: Tensor, labels: Tensor, base: Tensor) -> float:
    """The γ with the largest harmonic mean of base and novel accuracy on these labels; of equal
    ones the one nearest to 0.

    Args: as of `affordable_number`, with images of base and novel classes.
    """
    shown = base[labels]
    lost = _margins(logits[shown], labels[shown], base, of_base=True).sort().values
    won = (-_margins(logits[~shown], labels[~shown], base, of_base=False)).sort().values
    edges = torch.cat([lost, won, lost.new_zeros(1)])
    edges = torch.unique(edges[edges.isfinite()])
    between = (edges[1:] + edges[:-1]) / 2
    tried = torch.cat([edges[:1] - 1, between, edges[-1:] + 1, edges.new_zeros(1)])
    of_base = (len(lost) - torch.searchsorted(lost, tried, right=True)) / int(shown.sum())
    of_novel = torch.searchsorted(won, tried) / int((~shown).sum())
    harmonic = 2 * of_base * of_novel / (of_base + of_novel).clamp(min=1e-12)
    best = tried[harmonic == harmonic.max()]
    return float(best[best.abs().argmin()])


def _margins(logits: Tensor, labels: Tensor, base: Tensor, of_base: bool) -> Tensor:
    """[N] in float64: the label's logit minus the largest logit of the other kind of classes; -inf
    if another class of the label's kind has a larger logit."""
    logits = logits.double()
    own = base if of_base else ~base
    of_label = logits.gather(1, labels[:, None])[:, 0]
    first = logits.masked_fill(~own, -torch.inf).argmax(dim=1) == labels
    margin = of_label - logits.masked_fill(own, -torch.inf).max(dim=1).values
    return margin.where(first, -torch.inf)


def _openness(probe: Probe) -> Openness:
    if probe.openness is None:
        raise Unsuited("it is of the open world, where base and novel classes are told apart "
                       "(TASK OW)")
    return probe.openness


@REFERENCES.register("trained")
def trained_classes(probe: Probe) -> Prior:
    """The indicator of the trained classes; its strength comes from validation images."""
    known = _openness(probe)
    held = known.held()
    number = affordable_number(held.logits, held.labels, known.base, probe.settings.COST)
    return Prior(known.base.float(), TRAINING_LABELS, number)


@REFERENCES.register("trained_ceiling")
def trained_classes_by_test_labels(probe: Probe) -> Prior:
    """The indicator of the trained classes; its strength comes from the test labels."""
    known = _openness(probe)
    tested = known.tested()
    return Prior(known.base.float(), TEST_LABELS,
                 best_number(tested.logits, tested.labels, known.base))


@RULES.register("stacking")
@dataclass(frozen=True)
class Stacking(Shift):
    """Subtracts one number from all trained classes, chosen on their validation images."""

    name: ClassVar = "stacking"
    effect: ClassVar = ("one number is taken off the logits of all classes that were trained on, "
                        "the largest that costs their validation images next to nothing")

    @classmethod
    def weighed(cls, node: CfgNode) -> list[str]:
        return ["trained"]


@RULES.register("stacking_ceiling")
@dataclass(frozen=True)
class StackingCeiling(Shift):
    """Subtracts from all trained classes the number that is best on the test labels."""

    name: ClassVar = "stacking_ceiling"
    effect: ClassVar = ("one number is taken off the logits of all classes that were trained on, "
                        "the one that is best on the test labels")

    @classmethod
    def weighed(cls, node: CfgNode) -> list[str]:
        return ["trained_ceiling"]
