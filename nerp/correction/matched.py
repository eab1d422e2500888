"""Rules that estimate a class bias from the test images themselves, without their labels.

Each rule assumes the classes' shares among these images: equal shares, unless a file gives others.
The anchored match starts from the neutral references' bias, and stays there if the test classes do
not look equally frequent.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeVar

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.registry import RULES
from nerp.correction.correction import Correction, Rescored, Run
from nerp.correction.looked_at import SEEN_IMAGES, TEST_IMAGES, UNKNOWN, most
from nerp.correction.matching import LIMIT, WIDTH, Guarded, guard, uniform_bias
from nerp.correction.peers import batch_bias, sinkhorn_bias, stationary_bias
from nerp.correction.running import Running, in_order
from nerp.correction.shares import read_shares
from nerp.correction.shifting import Additive, Shift, Shifted, shift
from nerp.correction.transport import transport_plan

# NERP.WIDTH auto and NERP.LIMIT auto, as multiples of the spread of an image's logits
# (`Run.spread`), since biases scale as logits do. They were chosen on benchmarks drawn with other
# seeds than any reported ones (docs/study/choice.md).
WIDTH_OF_SPREAD = 0.125
LIMIT_OF_SPREAD = 0.12

AnyStreaming = TypeVar("AnyStreaming", bound="Streaming")
AnyToShares = TypeVar("AnyToShares", bound="ToShares")


@dataclass(frozen=True)
class FromTest(Additive):
    """Subtracts a bias that is estimated from the test images."""

    looked_at: ClassVar[str] = TEST_IMAGES

    @classmethod
    def from_config(cls, node: CfgNode, strengths: Mapping[str, float]) -> "FromTest":
        if node.STREAM:
            raise NerpError(f"NERP.STREAM: the rule {cls.name} needs all test images at once; "
                            "anchored and batch have a running form")
        return cls(scope=node.SCOPE)

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        return ()

    @property
    def note(self) -> str:
        return f"{self.name}: {self.how}{self.confined}"

    @property
    @abstractmethod
    def how(self) -> str:
        """What the rule does, in a few words."""

    @property
    def effect(self) -> str:
        return f"each class's logits are moved so that {self.how}"


@dataclass(frozen=True)
class Streaming(FromTest):
    """`FromTest` with a running form: in a stream, each image is corrected from the images before
    it.

    Attributes:
        stream: whether the images are a stream. order: the seed of their random order.
    """

    stream: bool = False
    order: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stream and self.uses_pairs:
            raise NerpError("NERP.STREAM: a stream is corrected over all classes, NERP.SCOPE all")

    @classmethod
    def from_config(cls, node: CfgNode, strengths: Mapping[str, float]) -> "Streaming":
        return cls(scope=node.SCOPE, stream=node.STREAM)

    def settled(self: AnyStreaming, run: Run) -> AnyStreaming:
        return replace(self, order=run.seed)

    @property
    def has_looked_at(self) -> str:
        return SEEN_IMAGES if self.stream else self.looked_at

    def correct(self, logits: Tensor, priors: Mapping[str, Tensor], pairs: Tensor) -> Correction:
        if not self.stream:
            return super().correct(logits, priors, pairs)
        return in_order(self.running(logits, priors), logits, self.order)

    @abstractmethod
    def running(self, logits: Tensor, priors: Mapping[str, Tensor]) -> Running:
        """The rule's running form, before the first image."""

    @property
    def note(self) -> str:
        order = f", in a stream (order {self.order})" if self.stream else ""
        return f"{self.name}: {self.how}{order}{self.confined}"


@dataclass(frozen=True)
class ToShares(FromTest):
    """Attributes: shares: of the classes, by name in their order; {}: equal shares."""

    shares: Mapping[str, float] = field(default_factory=dict)

    def settled(self: AnyToShares, run: Run) -> AnyToShares:
        shares = read_shares(run.settings.SHARES, run.classnames)
        return replace(self, shares=shares) if shares else self

    @property
    def has_looked_at(self) -> str:
        seen = super().has_looked_at
        return most([seen, UNKNOWN]) if self.shares else seen

    def wanted(self, logits: Tensor) -> Tensor | None:
        """The shares [C]; None for equal shares."""
        if not self.shares:
            return None
        return torch.tensor(list(self.shares.values()), dtype=torch.float64, device=logits.device)

    @property
    def assumption(self) -> str:
        return "as the shares in a file say" if self.shares else (
            "as if no class had more images than another")


@RULES.register("match")
@dataclass(frozen=True)
class Match(ToShares):
    """Subtracts the bias with which the mean prediction over the test images is uniform."""

    name: ClassVar[str] = "match"

    def bias(self, logits: Tensor, priors: Mapping[str, Tensor]) -> Tensor:
        return uniform_bias(logits, self.wanted(logits))

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        return Additive.keys()

    @property
    def how(self) -> str:
        met = "met" if self.shares else "uniform"
        return f"the mean prediction is {met}, {self.assumption}"


@RULES.register("sinkhorn")
@dataclass(frozen=True)
class Sinkhorn(ToShares):
    """Subtracts the logarithms of the column scaling after 20 Sinkhorn rounds (InMaP, Frolic)."""

    name: ClassVar[str] = "sinkhorn"
    how: ClassVar[str] = "twenty rounds of scaling bring the mean prediction near given shares"

    def bias(self, logits: Tensor, priors: Mapping[str, Tensor]) -> Tensor:
        return sinkhorn_bias(logits, self.wanted(logits))


@RULES.register("transport")
@dataclass(frozen=True)
class Transport(ToShares):
    """Assigns to each class its share of the images (OTTER)."""

    name: ClassVar[str] = "transport"

    def bias(self, logits: Tensor, priors: Mapping[str, Tensor]) -> Tensor:
        return transport_plan(logits, self.wanted(logits)).bias.to(logits.dtype)

    def correct(self, logits: Tensor, priors: Mapping[str, Tensor], pairs: Tensor) -> Correction:
        if self.uses_pairs:
            return super().correct(logits, priors, pairs)
        plan = transport_plan(logits, self.wanted(logits))
        corrected = logits - plan.bias.to(logits.dtype)
        # At most C - 1 images are shared by classes or tied: they prefer both classes equally.
        (rows,) = (corrected.argmax(dim=1) != plan.predictions).nonzero(as_tuple=True)
        most = corrected[rows].amax(dim=1)
        above = most.nextafter(torch.full_like(most, math.inf))
        corrected[rows, plan.predictions[rows]] = above
        return Rescored.of(logits, corrected)

    @property
    def how(self) -> str:
        return f"each class is predicted for its share of the images, {self.assumption}"


@RULES.register("batch")
@dataclass(frozen=True)
class Batch(Streaming):
    """Subtracts the logarithm of the mean prediction (batch calibration)."""

    name: ClassVar[str] = "batch"
    how: ClassVar[str] = "the logarithm of the mean prediction is taken off"

    def bias(self, logits: Tensor, priors: Mapping[str, Tensor]) -> Tensor:
        return batch_bias(logits)

    def running(self, logits: Tensor, priors: Mapping[str, Tensor]) -> Running:
        return Running("batch", logits.shape[1])


@RULES.register("stationary")
@dataclass(frozen=True)
class Stationary(FromTest):
    """Subtracts the logarithms of stationary priors, in eleven rounds (Frolic's bias)."""

    name: ClassVar[str] = "stationary"
    how: ClassVar[str] = "a prior that is stationary under the predictions' confusions is taken off"

    def bias(self, logits: Tensor, priors: Mapping[str, Tensor]) -> Tensor:
        return stationary_bias(logits)


@dataclass(frozen=True)
class Followed(Shifted):
    """Attributes: guarded: the bias and the decision behind it. limit: the rule's."""

    guarded: Guarded
    limit: float

    @property
    def findings(self) -> dict[str, float | bool]:
        found = self.guarded
        return {"distance": found.distance, "noise": found.noise, "uneven": found.uneven,
                "followed": found.followed}

    @property
    def remark(self) -> str:
        found = self.guarded
        measured = (f"the test images ask for a bias {found.distance:.2f} logits from the "
                    f"references' (a balanced test set's noise: {found.noise:.2f}; limit: "
                    f"{self.limit:.2f})")
        if not found.uneven:
            return f"{measured}; it is followed"
        done = "it is followed all the same (NERP.GUARD False)" if found.followed else (
            "the references' bias stands")
        return f"{measured}: the test classes do not look equally frequent, and {done}"


@RULES.register("anchored")
@dataclass(frozen=True)
class Anchored(Streaming, Shift):
    """Moves from the shift's bias towards that of the test images: further for more images, and
    only if their classes look balanced.

    Attributes:
        width: how far a bias usually lies from the references' bias, in logits.
        limit: the distance beyond which the test classes do not look equally frequent, in logits.
        guard: whether the references' bias is kept beyond the limit.
    """

    name: ClassVar[str] = "anchored"
    effect: ClassVar[str] = (
        "each class's logits are lowered by what neutral references say the model prefers it "
        "anyway, corrected by the test images as far as they are many and look balanced")
    weighs: ClassVar[bool] = True

    width: float = WIDTH
    limit: float = LIMIT
    guard: bool = True

    @classmethod
    def weighed(cls, node: CfgNode) -> list[str]:
        return list(node.ANCHOR or node.REFERENCES)

    @classmethod
    def from_config(cls, node: CfgNode, strengths: Mapping[str, float]) -> "Anchored":
        return cls(scope=node.SCOPE, stream=node.STREAM, strengths=dict(strengths),
                   guard=node.GUARD)

    def settled(self, run: Run) -> "Anchored":
        def logits(value: float | str, multiple: float) -> float:
            return multiple * run.spread() if value == "auto" else float(value)

        node = run.settings
        return replace(self, order=run.seed, width=logits(node.WIDTH, WIDTH_OF_SPREAD),
                       limit=logits(node.LIMIT, LIMIT_OF_SPREAD))

    def anchor(self, logits: Tensor, priors: Mapping[str, Tensor]) -> Tensor:
        """The bias [C] of the references."""
        if not self.strengths:
            return torch.zeros_like(logits[0])
        return Shift.bias(self, logits, priors).to(logits)

    def bias(self, logits: Tensor, priors: Mapping[str, Tensor]) -> Tensor:
        return self.guarded(logits, priors).bias

    def guarded(self, logits: Tensor, priors: Mapping[str, Tensor]) -> Guarded:
        anchor = self.anchor(logits, priors)
        return guard(logits, anchor, self.width, self.limit, heed=self.guard)

    def correct(self, logits: Tensor, priors: Mapping[str, Tensor], pairs: Tensor) -> Correction:
        if self.stream:
            return super().correct(logits, priors, pairs)
        guarded = self.guarded(logits, priors)
        found = shift(logits, guarded.bias, pairs if self.uses_pairs else None)
        return Followed(**vars(found), guarded=guarded, limit=self.limit)

    def running(self, logits: Tensor, priors: Mapping[str, Tensor]) -> Running:
        kind = "guarded" if self.guard else "anchored"
        anchor = self.anchor(logits, priors)
        return Running(kind, logits.shape[1], anchor, self.width, self.limit)

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        return ("WIDTH", "LIMIT")

    def changed(self, key: str, text: str) -> "Anchored":
        if key == "WIDTH":
            return replace(self, width=float(text))
        if key == "LIMIT":
            return replace(self, limit=float(text))
        raise ValueError(key)

    @property
    def how(self) -> str:
        parts = " + ".join(f"{s:.2g} {name}" for name, s in self.strengths.items()) or "nothing"
        guarded = f", unless they part by {self.limit:.2g}" if self.guard else ""
        return (f"from the bias of {parts} the test images are followed as far as they are many, "
                f"width {self.width:.2g}{guarded}")
