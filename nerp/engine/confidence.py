"""Confidence of predictions compared with their accuracy: calibration errors and their bins."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nerp.base.errors import NerpError
from nerp.engine.measures import METRICS

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

BINS = 15  # number of bins (M) in every record
_AT_ONCE = 2**22  # numbers in one chunk; this bounds the memory beyond the inputs
_SAME_EDGE = 1e-8  # quantiles that are this close are one edge


@dataclass(frozen=True)
class Judged:
    """Confidence and correctness of N predictions.

    Attributes:
        confidence: [N] the largest probability. right: [N] whether the predicted class is the
        label.
        nll: [N] -log of the label's probability, in nats. brier: [N] squared distance of the
            probabilities from the label's indicator.
    """

    confidence: Floats
    right: npt.NDArray[np.bool_]
    nll: Floats
    brier: Floats
    _of_equal_width: dict[int, "Bins"] = field(
        default_factory=dict, init=False, repr=False, compare=False)

    def equal_width(self, bins: int) -> "Bins":
        """Bins of equal width on [0, 1]; an edge belongs to the bin above it, 1 to the last.
        Raises NerpError for no bins."""
        if bins not in self._of_equal_width:  # two metrics read the same bins
            self._of_equal_width[bins] = _binned(self, np.linspace(0, 1, _checked(bins) + 1))
        return self._of_equal_width[bins]

    def equal_count(self, bins: int) -> "Bins":
        """Bins with equally many images. Their edges are the quantiles of the confidences; equal
        edges are merged. An edge belongs to the bin above it, the last edge to the last bin. Raises
        NerpError for no bins."""
        shares = np.linspace(0, 1, _checked(bins) + 1)
        edges = np.quantile(self.confidence, shares, method="averaged_inverted_cdf")
        apart = np.diff(edges, prepend=-np.inf) > _SAME_EDGE
        return _binned(self, edges[apart])


@dataclass(frozen=True)
class Bins:
    """Bins of confidence, in ascending order.

    Attributes:
        edges: [M + 1]. images: [M] how many images are in each.
        confidence, accuracy: [M] their means, as fractions; NaN in a bin without images.
    """

    edges: Floats
    images: Labels
    confidence: Floats
    accuracy: Floats

    @property
    def error(self) -> float:
        """Mean |confidence - accuracy| over the bins, weighted by their numbers of images."""
        return float(np.nansum(self._gaps * self.images) / self.images.sum())

    @property
    def largest(self) -> float:
        """The largest |confidence - accuracy| over the bins that have images."""
        return float(np.nanmax(self._gaps))

    @property
    def _gaps(self) -> Floats:
        gaps: Floats = np.abs(self.confidence - self.accuracy)
        return gaps


def arrays(logits: "npt.NDArray[Any] | Tensor", labels: "npt.NDArray[Any] | Tensor") -> tuple[
        npt.NDArray[Any], Labels]:
    """Logits [N, C] and labels [N] as numpy arrays, checked.

    Raises NerpError for shapes that do not agree, no images, logits that are not finite, or labels
    outside 0..C-1.
    """
    z, y = as_numpy(logits), as_numpy(labels)
    if z.ndim != 2 or y.shape != z.shape[:1]:
        raise NerpError(f"logits {z.shape} and labels {y.shape}: expected [N, C] and [N]")
    if not z.size:
        raise NerpError(f"logits {z.shape}: there is nothing to measure")
    if not np.isfinite(z).all():
        raise NerpError("the logits hold numbers that are not finite")
    if y.dtype.kind not in "iu" or not 0 <= y.min() <= y.max() < z.shape[1]:
        raise NerpError(f"labels must be whole numbers from 0 to {z.shape[1] - 1}, found "
                        f"{y.min()} to {y.max()}")
    return z, y.astype(np.int64, copy=False)


def as_numpy(x: "npt.NDArray[Any] | Tensor") -> npt.NDArray[Any]:
    """A tensor, or anything that numpy accepts as an array, as a numpy array."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = x.float() if x.is_floating_point() and x.element_size() < 4 else x
    return np.asarray(x)


def probabilities(logits: npt.NDArray[Any]) -> Iterator[tuple[slice, Floats, Floats]]:
    """softmax(z) of logits [N, C] and its logarithm, in float64, for some rows at a time."""
    rows = max(1, _AT_ONCE // logits.shape[1])
    for start in range(0, len(logits), rows):
        part = slice(start, start + rows)
        z = logits[part].astype(np.float64)
        z -= z.max(axis=1, keepdims=True)
        log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        yield part, np.exp(log_p), log_p


def judge(logits: "npt.NDArray[Any] | Tensor", labels: "npt.NDArray[Any] | Tensor") -> Judged:
    """Judge the predictions of logits [N, C] by labels [N]. Raises NerpError as `arrays`."""
    z, y = arrays(logits, labels)
    judged = Judged(*(np.empty(len(y), kind) for kind in (float, bool, float, float)))
    for part, p, log_p in probabilities(z):
        of_label = np.arange(len(p)), y[part]
        judged.confidence[part] = p.max(axis=1)
        judged.right[part] = z[part].argmax(axis=1) == y[part]
        judged.nll[part] = -log_p[of_label]
        p[of_label] -= 1
        judged.brier[part] = (p * p).sum(axis=1)
    return judged


def _binned(judged: Judged, edges: Floats) -> Bins:
    place = np.searchsorted(edges[1:-1], judged.confidence, side="right")
    count = max(1, len(edges) - 1)
    images = np.bincount(place, minlength=count)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(place, x, count) / images for x in (judged.confidence, judged.right)]
    return Bins(edges, images, *means)


def _checked(bins: int) -> int:
    if bins < 1:
        raise NerpError(f"{bins} bins of confidence; it takes at least 1")
    return bins


def measures(judged: Judged, bins: int = BINS) -> dict[str, float]:
    """The metrics of judged predictions' confidence, as fractions; nll in nats."""
    return {name: metric.of(judged, bins) for name, metric in METRICS.items() if metric.of}
