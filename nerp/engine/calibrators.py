"""Calibrators: they change the confidence of predictions, and never a prediction.

- Temperature (Guo et al., ICML 2017, section 4.2): z / T, with one T for all images.
- DAC (Wang et al., ICML 2024, arXiv 2402.04655): all logits of an image times one factor, which
  depends on how much further tuning moved its predicted class from the trained classes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nerp.base.errors import NerpError
from nerp.correction.looked_at import NOTHING, TRAINING_LABELS
from nerp.engine.confidence import Floats, arrays, as_numpy

NEIGHBOURS = 5  # K, as published
_TRAINED = 0.05  # a tested class this near to a trained one, in tuned features, is that class
_COLDEST, _HOTTEST = 1 / 64, 64.0
_ROUNDS = 60  # halvings of the interval of log T

Features = TypeVar("Features", npt.NDArray[Any], Tensor)


class Calibrator(ABC):
    """A function of logits, after any correction and before the softmax.

    Attributes:
        name: as in TEST.CALIBRATION. looked_at: the data it was computed from. note: for the log.
    """

    name: str
    looked_at: str

    @property
    @abstractmethod
    def note(self) -> str:
        """The calibrator and its numbers in words."""

    @abstractmethod
    def apply(self, logits: Tensor) -> Tensor:
        """Calibrated logits [N, C]. The largest logit of an image stays the largest."""

    def among(self, classes: npt.NDArray[np.int64]) -> "Calibrator":
        """The calibrator for a part of the classes, given by their indices."""
        return self


@dataclass(frozen=True)
class Temperature(Calibrator):
    """Attributes: value: T. images: the number of validation images that it was fitted on."""

    value: float
    images: int
    name = "temperature"
    looked_at = TRAINING_LABELS

    @property
    def note(self) -> str:
        return (f"temperature {self.value:.4g}, the least nll on {self.images} validation images "
                "of the classes trained on")

    def apply(self, logits: Tensor) -> Tensor:
        return logits / self.value


@dataclass(frozen=True)
class Distance(Calibrator):
    """Attributes: factors: [C] (`distance_factors`)."""

    factors: Tensor
    looked_at: str = NOTHING
    name = "dac"

    @property
    def note(self) -> str:
        low, high = float(self.factors.min()), float(self.factors.max())
        return (f"dac: an image's logits times {low:.3f} to {high:.3f}, by its predicted class "
                f"(K = {NEIGHBOURS})")

    def apply(self, logits: Tensor) -> Tensor:
        return logits * self.factors.to(logits)[logits.argmax(dim=1), None]

    def among(self, classes: npt.NDArray[np.int64]) -> "Distance":
        return replace(self, factors=self.factors[torch.from_numpy(classes)])


def least_nll(logits: Tensor, labels: Tensor) -> float:
    """The temperature T from 1/64 to 64 with the least mean -log softmax(z / T)[label].

    This nll is convex in 1 / T, so the sign of its slope says on which side of T the least one is.

    Args: logits: [N, C]. labels: [N]. Raises NerpError as `nerp.engine.metrics.confidence`.
    """
    z, y = arrays(logits, labels)
    z = z.astype(np.float64)
    of_label = z[np.arange(len(y)), y].mean()
    low, high = np.log(_COLDEST), np.log(_HOTTEST)
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        x = z / np.exp(middle)
        p = np.exp(x - x.max(axis=1, keepdims=True))
        expected = ((p * z).sum(axis=1) / p.sum(axis=1)).mean()
        # d nll / d(1/T) = expected - of_label: positive if a larger T has a smaller nll.
        low, high = (middle, high) if expected > of_label else (low, middle)
    return float(np.exp((low + high) / 2))


def distance_factors(
    zero_shot_base: Features, zero_shot_tested: Features, tuned_base: Features,
    tuned_tested: Features, neighbours: int = NEIGHBOURS,
) -> Features:
    """DAC's factor of each tested class, [C]: its tuned score over its zero-shot score. A score is
    exp(-d), d the mean distance to the nearest trained classes. The factor is 1 if a tuned distance
    is below 0.05.

    Args:
        zero_shot_base, tuned_base: [B, D] text features of the classes trained on, of frozen CLIP
            and of the tuned text encoder, of length 1. zero_shot_tested, tuned_tested: [C, D].
        neighbours: K. As published, the sums are divided by K even if B is smaller.

    Raises NerpError for shapes that do not agree, no classes, numbers that are not finite, or
    K < 1.
    """
    given = (zero_shot_base, zero_shot_tested, tuned_base, tuned_tested)
    features = [as_numpy(x).astype(np.float64) for x in given]
    shapes = [x.shape for x in features]
    if (any(len(shape) != 2 or not all(shape) for shape in shapes)
            or shapes[:2] != shapes[2:] or shapes[0][1] != shapes[1][1]):
        raise NerpError(f"text features {', '.join(map(str, shapes))}: expected [B, D], [C, D], "
                        "[B, D], [C, D]")
    if not all(np.isfinite(x).all() for x in features):
        raise NerpError("the text features hold numbers that are not finite")
    if neighbours < 1:
        raise NerpError(f"{neighbours} neighbours; it takes at least 1")
    zero_shot, tuned = _distances(*features[:2]), _distances(*features[2:])
    near = [np.sort(d, axis=1)[:, :neighbours].sum(axis=1) / neighbours for d in (zero_shot, tuned)]
    factors: Floats = np.where(tuned.min(axis=1) < _TRAINED, 1.0, np.exp(near[0] - near[1]))
    if isinstance(tuned_tested, Tensor):
        return torch.from_numpy(factors).to(tuned_tested)
    return factors.astype(as_numpy(tuned_tested).dtype)


def _distances(base: Floats, tested: Floats) -> Floats:
    """[C, B] Euclidean distances."""
    squares = (tested**2).sum(1)[:, None] + (base**2).sum(1) - 2 * tested @ base.T
    distances: Floats = np.sqrt(np.maximum(squares, 0))
    return distances
