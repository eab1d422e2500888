"""What a rule is, and what it did to predictions, whatever the rule."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.correction.looked_at import NOTHING

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

    @property
    def remark(self) -> str:
        """What a user should know of this very correction, "" for nothing."""
        return ""

    @property
    def findings(self) -> dict[str, float | bool]:
        """The same, by name, for the record."""
        return {}

    @classmethod
    def none(cls, logits: Tensor) -> "Correction":
        """The correction of logits [B, C] that changes nothing."""
        empty = logits.new_zeros(0)
        images, source, target, reason = (empty.long() for _ in range(4))
        return cls(logits.argmax(dim=1), images, source, target, reason, empty, empty)

    def apply(self, logits: Tensor) -> Tensor:
        """Corrected logits [B, C]: a copy in which the old and the new class of each changed
        prediction have exchanged their logits (and the new one has the last bit more, which wins
        where logits are equal).

        So their softmax means something: the model is as sure as it was, of the other class, and
        every other class keeps its probability. Lifting the new class above the old one, as the
        release does (by 0.1), gives the right prediction too, but takes from all classes alike and
        says about one half wherever a prediction was sure.
        """
        corrected = logits.clone()
        top = logits[self.images, self.source]
        corrected[self.images, self.target] = top.nextafter(torch.full_like(top, torch.inf))
        corrected[self.images, self.source] = logits[self.images, self.target]
        return corrected


@dataclass(frozen=True)
class Rescored(Correction):
    """A correction that gives each image other logits. Attributes: corrected: [B, C]."""

    corrected: Tensor

    @classmethod
    def of(cls, logits: Tensor, corrected: Tensor) -> "Rescored":
        """From logits [B, C] to others. Raises NerpError where either are not finite."""
        _, before = top_classes(logits)
        _, after = top_classes(corrected)
        (images,) = (after != before).nonzero(as_tuple=True)
        source, target = before[images], after[images]
        margin, reverse = (z[images, source] - z[images, target] for z in (logits, corrected))
        return cls(after, images, source, target, torch.full_like(images, SHIFT), margin,
                   margin - reverse, corrected)

    def apply(self, logits: Tensor) -> Tensor:
        """z' [B, C]."""
        return self.corrected


@dataclass(frozen=True)
class Extra:
    """What few rules need beside logits, priors and pairs; None for what is not at hand.

    Attributes:
        image_features: [B, D] of the images under test. text_features: [C, D]. image_mean: [D],
            the mean feature of training images. scale: [], what cosines are multiplied by.
        zero_shot_logits: [B, C], frozen CLIP's. labelled_logits: [M, C], frozen CLIP's on training
            images of the classes under test. labelled_labels: [M].
    """

    image_features: Tensor | None = None
    text_features: Tensor | None = None
    image_mean: Tensor | None = None
    scale: Tensor | None = None
    zero_shot_logits: Tensor | None = None
    labelled_logits: Tensor | None = None
    labelled_labels: Tensor | None = None


@dataclass(frozen=True)
class Run:
    """What a rule may depend on that only a run knows.

    Attributes:
        settings: the config node NERP. classnames: C names. seed: of the run.
        spread: gives how far the logits of different classes lie apart on an image: their
            standard deviation, in the mean over training images.
    """

    settings: CfgNode
    classnames: Sequence[str]
    seed: int
    spread: Callable[[], float]


class CorrectionRule(ABC):
    """What priors and pairs do to logits; nothing in it knows a model.

    A rule is a frozen dataclass, registered under the name that NERP.RULE takes; its fields, with
    that name, are its record in result.json.

    Class attributes:
        name: as registered. looked_at: what the rule itself looks at, apart from what it is given.
        weighs: whether it weighs references (NERP.REFERENCES) by strengths. needs: the fields of
            `Extra` that it needs.
    Attributes:
        references: the neutral references whose priors it needs. uses_pairs: whether it needs
            pairs. note: what it will do, for the log. effect: the same without its settings, for
            readers who do not know the rule.
    """

    name: ClassVar[str]
    looked_at: ClassVar[str] = NOTHING
    weighs: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()

    @property
    def references(self) -> tuple[str, ...]:
        return ()

    @property
    def uses_pairs(self) -> bool:
        return False

    @property
    @abstractmethod
    def note(self) -> str: ...

    @property
    def effect(self) -> str:
        return self.note

    @property
    def has_looked_at(self) -> str:
        """`looked_at`, with these settings."""
        return self.looked_at

    @classmethod
    def weighed(cls, node: CfgNode) -> list[str]:
        """The references that it weighs, by a config's NERP node."""
        return list(node.REFERENCES) if cls.weighs else []

    @classmethod
    @abstractmethod
    def from_config(cls, node: CfgNode, strengths: Mapping[str, float]) -> "CorrectionRule":
        """The rule in a config's NERP node. strengths: how much of each reference's prior counts,
        where that has been settled."""

    def settled(self, run: Run) -> "CorrectionRule":
        """The same rule with what it takes from the run."""
        return self

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


class Informed(CorrectionRule):
    """A rule that needs more than logits, priors and pairs: `needs` says what."""

    def correct(self, logits: Tensor, priors: Mapping[str, Tensor], pairs: Tensor) -> Correction:
        raise NerpError(self.lacking(Extra()))

    @abstractmethod
    def correct_with(self, logits: Tensor, extra: Extra) -> Correction:
        """Correct logits [B, C] with what is needed at hand."""

    def lacking(self, extra: Extra) -> str:
        """What is needed and not at hand, in words; "" where nothing is."""
        missing = [name for name in self.needs if getattr(extra, name) is None]
        if not missing:
            return ""
        needed = ", ".join(name.replace("_", " ") for name in missing)
        return (f"the rule {self.name} needs {needed}: nerp test with NERP.RULE {self.name} and "
                "--save-logits keeps them")


def carry_out(
    rule: CorrectionRule, logits: Tensor, priors: Mapping[str, Tensor], pairs: Tensor,
    extra: Extra | None = None,
) -> Correction:
    """What any rule makes of logits [B, C]. Raises NerpError where it lacks what it needs."""
    if not isinstance(rule, Informed):
        return rule.correct(logits, priors, pairs)
    extra = extra or Extra()
    if lacking := rule.lacking(extra):
        raise NerpError(lacking)
    return rule.correct_with(logits, extra)


def correct_in_chunks(
    correct: Callable[[Tensor], Correction], logits: Tensor, width: int = 0
) -> Correction:
    """`correct` on so many rows of `logits` [B, C] at a time that memory stays bounded.

    Args:
        width: how many numbers per image `correct` makes, if more than C.
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
