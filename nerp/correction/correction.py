"""What a rule is, and what it did to predictions, whatever the rule."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.correction.looked_at import NOTHING

LIFT = 0.1  # what a new class is put above the old one

# Why a prediction was changed. Bits of `Correction.reason`: the signs of weak evidence that the
# flip found, or that a shift of the logits outweighed the margin.
MARGIN, ENTROPY, PROB, SHIFT = 1, 2, 4, 8
REASONS = {MARGIN: "margin", ENTROPY: "entropy", PROB: "probability", SHIFT: "shift"}

AT_ONCE = 2**23  # numbers worked on at once: bounds the memory beyond the inputs


@dataclass(frozen=True)
class Correction:
    """What a rule did to the predictions of B images, F of which it changed ("flipped").

    Attributes:
        predictions: [B] classes after the correction.
        images: [F] which images. source, target: [F] classes before and after.
        reason: [F] bits of `REASONS`.
        margin: [F] z_source - z_target, in logits.
        gap: [F] how much the rule held against source in favour of target, in logits: the flip's
            prior preference, or the difference of a shift's biases.
    """

    predictions: Tensor
    images: Tensor
    source: Tensor
    target: Tensor
    reason: Tensor
    margin: Tensor
    gap: Tensor

    @classmethod
    def none(cls, logits: Tensor) -> "Correction":
        """The correction of logits [B, C] that changes nothing."""
        top, empty = logits.argmax(dim=1), logits.new_zeros(0)
        return cls(top, *(empty.long() for _ in range(4)), empty, empty)

    def apply(self, logits: Tensor) -> Tensor:
        """A copy of the logits [B, C] in which each new class stands 0.1 above the old one."""
        corrected = logits.clone()
        top = logits[self.images, self.source]
        corrected[self.images, self.target] = top + LIFT
        return corrected


class CorrectionRule(ABC):
    """What priors and pairs do to logits; nothing in it knows a model.

    A rule is a frozen dataclass, registered under the name that NERP.RULE takes; its fields, with
    that name, are its record in result.json.

    Class attributes:
        name: as registered. looked_at: what the rule itself looks at, apart from what it is given.
        weighs: whether it weighs references (NERP.REFERENCES) by strengths.
    Attributes:
        references: the neutral references whose priors it needs. uses_pairs: whether it needs
            pairs. note: what it will do, for the log. effect: the same without its settings, for
            readers who do not know the rule.
    """

    name: ClassVar[str]
    looked_at: ClassVar[str] = NOTHING
    weighs: ClassVar[bool] = False
    references: tuple[str, ...] = ()
    uses_pairs: bool = False
    note: str

    @property
    def effect(self) -> str:
        return self.note

    @classmethod
    @abstractmethod
    def from_config(cls, node: CfgNode, strengths: Mapping[str, float]) -> "CorrectionRule":
        """The rule in a config's NERP node. strengths: how much of each reference's prior counts,
        where that has been settled."""

    @abstractmethod
    def correct(self, logits: Tensor, priors: Mapping[str, Tensor], pairs: Tensor) -> Correction:
        """Correct logits [B, C] with priors [C] by reference and pairs [n, 2]."""

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """The settings that a sweep may change."""
        return ()

    def changed(self, key: str, text: str) -> "CorrectionRule":
        """The same rule with one of `keys` changed. Raises ValueError for no value of it."""
        raise ValueError(key)


def correct_in_chunks(
    correct: Callable[[Tensor], Correction], logits: Tensor, width: int = 0
) -> Correction:
    """`correct` on so many rows of `logits` [B, C] at a time that memory stays bounded.

    Args:
        width: how many numbers an image `correct` makes, if more than C.
    """
    rows = max(1, AT_ONCE // max(logits.shape[1], width))
    parts = [correct(chunk) for chunk in logits.split(rows)]  # an empty tensor splits into itself
    for i, part in enumerate(parts):
        part.images.add_(i * rows)
    columns = ([getattr(part, field.name) for part in parts] for field in fields(Correction))
    return Correction(*map(torch.cat, columns))


def top_classes(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit of each image and its class, [B] each.

    Raises NerpError, naming the first image, where it is NaN or infinite.
    """
    value, top = logits.max(dim=1)
    wrong = ~value.isfinite()  # a maximum passes NaN on
    if wrong.any():
        raise NerpError(f"the logits of {int(wrong.sum())} of {len(logits)} images are not finite "
                        f"(first: image {int(wrong.nonzero()[0])})")
    return value, top


def check_logits(logits: Tensor, **priors: Tensor) -> None:
    """Raise NerpError for priors that are not [C] for logits [B, C], or numbers that are not."""
    for name, prior in priors.items():
        if logits.dim() != 2 or prior.dim() != 1:
            raise NerpError(f"logits {tuple(logits.shape)} and {name} {tuple(prior.shape)}: "
                            "expected [B, C] and [C]")
        if logits.shape[1:] != prior.shape:
            raise NerpError(f"logits for {logits.shape[1]} classes, priors for {len(prior)} "
                            f"({name}): expected [B, C] and [C]")
        if not prior.isfinite().all():
            raise NerpError(f"the {name} holds numbers that are not finite")
