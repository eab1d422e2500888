"""Additive corrections (logit adjustment): one bias per class is subtracted from the logits.

z' = z - bias, with a bias [C] of one of two kinds:

- from neutral references k with priors π_k [C]: bias = sum_k s_k (π_k - mean π_k). A prior is the
  model's preference without any evidence; s_k < 1 is the share of it that remains if an image is
  shown;
- from unlabelled test images (`matched`, `published`).

A shift can act over all classes, or only between the predicted class and its partners in pairs.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.registry import REFERENCES, RULES
from nerp.correction.correction import (
    SHIFT,
    Correction,
    CorrectionRule,
    check_logits,
    correct_in_chunks,
    top_classes,
)
from nerp.correction.flipping import Partners


@dataclass(frozen=True)
class Shifted(Correction):
    """Attributes: bias: [C], in logits. partners: the pairs it is confined to; None: no limit."""

    bias: Tensor
    partners: Partners | None

    def apply(self, logits: Tensor) -> Tensor:
        """z' [B, C]. In a shift confined to pairs, the partners of the largest class move by their
        bias minus its own; all other logits stay."""
        if self.partners is None:
            return logits - self.bias
        top = logits.argmax(dim=1)
        gap = self.partners.gap[top]
        return logits.scatter_add(1, self.partners.index[top], gap.where(gap.isfinite(), 0.0))


def class_bias(priors: Mapping[str, Tensor], strengths: Mapping[str, float]) -> Tensor:
    """sum_k s_k (π_k - mean π_k), [C], over the references in `strengths`. Raises NerpError if
    there are none."""
    if not strengths:
        raise NerpError("a shift needs the strength of at least one neutral reference")
    return reduce(torch.add, (s * (priors[k] - priors[k].mean()) for k, s in strengths.items()))


SCOPES = ("all", "pairs")


@dataclass(frozen=True)
class Additive(CorrectionRule):
    """Subtracts a class bias: over all classes, or only between the classes of a pair."""

    scope: str = "all"

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise NerpError(f"SCOPE is {self.scope!r}; it is {' or '.join(SCOPES)}")

    @classmethod
    def from_config(cls, node: CfgNode, strengths: Mapping[str, float]) -> "Additive":
        return cls(node.SCOPE)

    @abstractmethod
    def bias(self, logits: Tensor, priors: Mapping[str, Tensor]) -> Tensor:
        """The bias [C] that is subtracted."""

    @property
    def uses_pairs(self) -> bool:
        return self.scope == "pairs"

    def correct(self, logits: Tensor, priors: Mapping[str, Tensor], pairs: Tensor) -> Correction:
        return shift(logits, self.bias(logits, priors), pairs if self.uses_pairs else None)

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        return ("SCOPE",)

    def changed(self, key: str, text: str) -> CorrectionRule:
        if text not in SCOPES:
            raise ValueError(text)
        return replace(self, scope=text)

    @property
    def confined(self) -> str:
        """The scope in words, for the note."""
        return ", between the classes of a pair" if self.uses_pairs else ""


@RULES.register("shift")
@dataclass(frozen=True)
class Shift(Additive):
    """Subtracts the priors of neutral references, each times its strength."""

    name: ClassVar[str] = "shift"
    weighs: ClassVar[bool] = True
    effect: ClassVar[str] = ("each class's logits are lowered by as much as neutral references "
                             "say the model prefers it anyway")

    strengths: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_config(cls, node: CfgNode, strengths: Mapping[str, float]) -> "Shift":
        return cls(node.SCOPE, dict(strengths))

    @property
    def references(self) -> tuple[str, ...]:
        return tuple(self.strengths)

    def bias(self, logits: Tensor, priors: Mapping[str, Tensor]) -> Tensor:
        return class_bias(priors, self.strengths)

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        return (*super().keys(), *REFERENCES.names())

    def changed(self, key: str, text: str) -> CorrectionRule:
        if key == "SCOPE":
            return super().changed(key, text)
        return replace(self, strengths={**self.strengths, key: float(text)})

    @property
    def note(self) -> str:
        parts = " + ".join(f"{s:.2g} {name}" for name, s in self.strengths.items())
        return f"shift by {parts}{self.confined}"


def shift(logits: Tensor, bias: Tensor, pairs: Tensor | None = None) -> Shifted:
    """Predictions from logits minus a class bias.

    Args:
        logits: [B, C] float. bias: [C], on the logits' device.
        pairs: [n, 2] classes by index, used in both directions: a prediction can only change to a
            partner of its class. None: to any class.

    Raises NerpError for shapes that do not agree, classes that do not exist, or NaN.
    """
    check_logits(logits, bias=bias)
    partners = None if pairs is None else Partners(pairs, bias)

    def correct(chunk: Tensor) -> Correction:
        value, top = top_classes(chunk)
        if partners is None:
            after = (chunk - bias).argmax(dim=1)
        else:
            after = _best_partner(chunk, value, top, partners)
        (images,) = (after != top).nonzero(as_tuple=True)
        source, target = top[images], after[images]
        return Correction(
            after, images, source, target, torch.full_like(images, SHIFT),
            margin=value[images] - chunk[images, target], gap=bias[source] - bias[target],
        )

    found = correct_in_chunks(correct, logits)
    return Shifted(**vars(found), bias=bias, partners=partners)


def _best_partner(logits: Tensor, value: Tensor, top: Tensor, partners: Partners) -> Tensor:
    """[B] the predicted class, or its partner with the highest shifted logit above it."""
    if not partners.index.shape[1]:
        return top
    index = partners.index[top]
    shifted, column = (logits.gather(1, index) + partners.gap[top]).max(dim=1)
    best = index.gather(1, column[:, None])[:, 0]
    return torch.where(shifted > value, best, top)
