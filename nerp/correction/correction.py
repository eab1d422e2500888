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

# Bits of `Correction.reason`, why a prediction was changed: the signs of weak evidence that the
# flip found, or a shift of the logits that exceeded the margin.
MARGIN, ENTROPY, PROB, SHIFT = 1, 2, 4, 8
REASONS = {MARGIN: "margin", ENTROPY: "entropy", PROB: "probability", SHIFT: "shift"}

AT_ONCE = 2**23  # numbers in one chunk; this bounds the memory beyond the inputs


@dataclass(frozen=True)
class Correction:
    """What a rule did to the predictions of B images, F of which it changed ("flipped").

    Attributes:
        predictions: [B] classes after the correction.
        images: [F] indices of the changed images. source, target: [F] classes before and after.
        reason: [F] bits of `REASONS`.
        margin: [F] z_source - z_target, in logits.
        gap: [F] the rule's preference for target over source, in logits: the difference of the
            priors for a flip, the difference of the biases for a shift.
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
        """A note to the user about this correction's data, "" for none."""
        return ""

    @property
    def findings(self) -> dict[str, float | bool]:
        """The numbers in `remark`, by name, for the record."""
        return {}

    @classmethod
    def none(cls, logits: Tensor) -> "Correction":
        """The correction of logits [B, C] that changes nothing."""
        empty = logits.new_zeros(0)
        images, source, target, reason = (empty.long() for _ in range(4))
        return cls(logits.argmax(dim=1), images, source, target, reason, empty, empty)

    def apply(self, logits: Tensor) -> Tensor:
        """Corrected logits [B, C]: in each changed prediction, the old and the new class exchange
        their logits. (The new class gets one last bit more, which decides between equal logits.)

        So the softmax keeps its meaning: the model is as confident as before, in the other class,
        and all other classes keep their probabilities. The release raises the new class above the
        old one by 0.1. That gives the same prediction, but takes probability from all classes and
        yields about one half even for confident predictions.
        """
        corrected = logits.clone()
        top = logits[self.images, self.source]
        corrected[self.images, self.target] = top.nextafter(torch.full_like(top, torch.inf))
        corrected[self.images, self.source] = logits[self.images, self.target]
        return corrected


@dataclass(frozen=True)
class Rescored(Correction):
    """A correction that replaces each image's logits. Attributes: corrected: [B, C]."""

    corrected: Tensor

    @classmethod
    def of(cls, logits: Tensor, corrected: Tensor) -> "Rescored":
        """The correction from logits [B, C] to `corrected`. Raises NerpError for a number that is
        not finite."""
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
    """Inputs that few rules need besides logits, priors and pairs; None: not available.

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
    """What a rule may take from the run.

    Attributes:
        settings: the config node NERP. classnames: C names. seed: of the run.
        spread: returns the standard deviation of an image's logits over the classes, averaged over
            training images.
    """

    settings: CfgNode
    classnames: Sequence[str]
    seed: int
    spread: Callable[[], float]


class CorrectionRule(ABC):
    """Turns logits, priors and pairs into a correction; no rule knows a model.

    A rule is a frozen dataclass, registered under its name in NERP.RULE. Its name and its fields
    are its record in result.json.

    Class attributes:
        name: as registered. looked_at: what the rule itself looks at, beside its inputs.
        weighs: whether it weighs references (NERP.REFERENCES) by strengths. needs: the fields of
            `Extra` that it needs.
    Attributes:
        references: the neutral references whose priors it needs. uses_pairs: whether it needs
            pairs. note: what it does, with its settings, for the log. effect: what it does, without
            settings, for readers who do not know the rule.
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
        """`looked_at` for this rule's settings."""
        return self.looked_at

    @classmethod
    def weighed(cls, node: CfgNode) -> list[str]:
        """The references that the rule weighs, as a config's NERP node names them."""
        return list(node.REFERENCES) if cls.weighs else []

    @classmethod
    @abstractmethod
    def from_config(cls, node: CfgNode, strengths: Mapping[str, float]) -> "CorrectionRule":
        """The rule in a config's NERP node. strengths: the factor of each reference's prior, if it
        is known."""

    def settled(self, run: Run) -> "CorrectionRule":
        """A copy of the rule with the values that depend on the run."""
        return self

    @abstractmethod
    def correct(self, logits: Tensor, priors: Mapping[str, Tensor], pairs: Tensor) -> Correction:
        """The correction of logits [B, C]. priors: reference -> [C]. pairs: [n, 2]."""

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """The settings that a sweep may change."""
        return ()

    def changed(self, key: str, text: str) -> "CorrectionRule":
        """A copy with one of `keys` changed. Raises ValueError if it does not take the value."""
        raise ValueError(key)


class Informed(CorrectionRule):
    """A rule that needs more than logits, priors and pairs (see `needs`)."""

    def correct(self, logits: Tensor, priors: Mapping[str, Tensor], pairs: Tensor) -> Correction:
        raise NerpError(self.lacking(Extra()))

    @abstractmethod
    def correct_with(self, logits: Tensor, extra: Extra) -> Correction:
        """The correction of logits [B, C]. `extra` has all that the rule needs."""

    def lacking(self, extra: Extra) -> str:
        """The needed inputs that `extra` lacks, in words; "" if it has all."""
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
    """The correction of logits [B, C] by any rule. Raises NerpError if an input is missing."""
    if not isinstance(rule, Informed):
        return rule.correct(logits, priors, pairs)
    extra = extra or Extra()
    if lacking := rule.lacking(extra):
        raise NerpError(lacking)
    return rule.correct_with(logits, extra)


def correct_in_chunks(
    correct: Callable[[Tensor], Correction], logits: Tensor, width: int = 0
) -> Correction:
    """`correct`, applied to chunks of the rows of `logits` [B, C] to bound the memory.

    Args:
        width: how many numbers `correct` makes per image, if more than C.
    """
    rows = max(1, AT_ONCE // max(logits.shape[1], width))
    parts = [correct(chunk) for chunk in logits.split(rows)]  # an empty tensor splits into itself
    for i, part in enumerate(parts):
        part.images.add_(i * rows)
    columns = ([getattr(part, field.name) for part in parts] for field in fields(Correction))
    return Correction(*map(torch.cat, columns))


def top_classes(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit of each image and its class, [B] each.

    Raises NerpError, naming the first image, for logits that are NaN or infinite.
    """
    value, top = logits.max(dim=1)
    wrong = ~value.isfinite()  # the maximum of a row with NaN is NaN
    if wrong.any():
        raise NerpError(f"the logits of {int(wrong.sum())} of {len(logits)} images are not finite "
                        f"(first: image {int(wrong.nonzero()[0])})")
    return value, top


def check_logits(logits: Tensor, **priors: Tensor) -> None:
    """Raise NerpError for priors that are not [C] with logits [B, C], or that are not finite."""
    for name, prior in priors.items():
        if logits.dim() != 2 or prior.dim() != 1:
            raise NerpError(f"logits {tuple(logits.shape)} and {name} {tuple(prior.shape)}: "
                            "expected [B, C] and [C]")
        if logits.shape[1:] != prior.shape:
            raise NerpError(f"logits for {logits.shape[1]} classes, priors for {len(prior)} "
                            f"({name}): expected [B, C] and [C]")
        if not prior.isfinite().all():
            raise NerpError(f"the {name} holds numbers that are not finite")
