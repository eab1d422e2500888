"""Corrections of a stream: each image is corrected by the images before it.

Transductive corrections need all test images at once. These corrections need the images one after
the other and use no later image. Their results depend on the order.
"""

import torch
from torch import Tensor

from nerp.base.errors import NerpError
from nerp.correction.correction import Rescored, top_classes
from nerp.correction.matching import (
    LIMIT,
    WIDTH,
    anchored_bias,
    centred,
    check_bias,
    guard,
    uniform_bias,
)

KINDS = ("batch", "anchored", "guarded")
# An anchored bias is solved anew for each of the first images, and then whenever the number of
# images has grown by the share _MORE: a few more images change little.
_EXACTLY = 64
_MORE = 1 / 8
# The share of the mean prediction that may then be wrong; it is small beside the bias's change.
_MET = 1e-3


class Running:
    """The class bias [C] of a stream of images, updated with each image.

    - "batch": log of the mean prediction so far, the present image included (batch calibration's
      running form);
    - "anchored": `anchored_bias` of the images before the present one; the anchor for the first;
    - "guarded": the same if the images before look equally frequent by class (`guarded_bias`).

    Matching without an anchor has no running form: for one image it makes the prediction uniform.
    """

    def __init__(
        self, kind: str, classes: int, anchor: Tensor | None = None, width: float = WIDTH,
        limit: float = LIMIT,
    ):
        """Args:
        classes: C. anchor: [C], where an anchored bias starts; None: 0.
        width, limit: as in `guarded_bias`.

        Raises NerpError for another kind, one class, or an anchor that is not [C].
        """
        if kind not in KINDS:
            raise NerpError(f"a running correction is {', '.join(KINDS)}, not {kind!r}")
        if classes < 2:
            raise NerpError("there is one class, and a bias between classes needs two")
        if not width > 0:
            raise NerpError(f"the width is {width:g}; it is a number of logits above 0")
        if anchor is not None:
            check_bias(anchor, classes, "anchor")
        self.kind, self.classes, self.width, self.limit = kind, classes, width, limit
        self._anchor = torch.zeros(classes) if anchor is None else anchor
        self.count = 0
        self._seen = torch.zeros(0, classes)
        self._solved = 0
        self._sum = torch.zeros(classes, dtype=torch.float64)
        self._bias = centred(self._anchor)
        self._matched = torch.zeros(classes)  # `uniform_bias` of the images so far

    def update(self, logits: Tensor) -> Tensor:
        """The bias [C] for an image with these logits [C]; the image is added to the stream.

        Raises NerpError for logits that are not [C] and finite.
        """
        if logits.shape != (self.classes,):
            raise NerpError(f"an image's logits are {tuple(logits.shape)}; expected "
                            f"({self.classes},)")
        if not logits.isfinite().all():
            raise NerpError(f"the logits of image {self.count} of the stream are not finite")
        if self.kind == "batch":
            self.count += 1
            self._sum = self._sum.to(logits.device) + logits.double().softmax(dim=0)
            return (self._sum / self.count).log().to(logits.dtype)
        bias = self._before().to(logits)
        self._keep(logits)
        return bias

    def _before(self) -> Tensor:
        """The anchored bias from the images so far."""
        due = self.count <= _EXACTLY or self.count >= self._solved * (1 + _MORE)
        if due and self.count > self._solved:
            seen = self._seen[: self.count]
            anchor = self._anchor.to(seen)
            start, met = self._bias.to(seen), _MET if self.count > _EXACTLY else 0.0
            if self.kind == "guarded":
                self._matched = uniform_bias(seen, start=self._matched.to(seen), met=met)
                found = guard(seen, anchor, self.width, self.limit, matched=self._matched,
                              start=start, met=met)
                self._bias = found.bias
            else:
                self._bias = anchored_bias(seen, anchor, self.width, start=start, met=met)
            self._solved = self.count
        return self._bias

    def _keep(self, logits: Tensor) -> None:
        if self.count == len(self._seen):
            more = logits.new_empty(max(64, 2 * self.count), self.classes)
            more[: self.count] = self._seen
            self._seen = more
        self._seen[self.count] = logits
        self.count += 1


def run(stream: Running, logits: Tensor) -> Tensor:
    """The biases [N, C] of images in the order of their logits [N, C]."""
    return torch.stack([stream.update(row) for row in logits])


def in_order(stream: Running, logits: Tensor, order: int) -> Rescored:
    """The correction of images [N, C] one after the other, in the random order number `order`.

    Raises NerpError for fewer than two images, or logits that are not finite.
    """
    if len(logits) < 2:
        raise NerpError(f"a stream of {len(logits)} image: there is nothing that came before it")
    top_classes(logits)
    corrected = torch.empty_like(logits)
    for place in ordered(len(logits), order).tolist():
        corrected[place] = logits[place] - stream.update(logits[place])
    return Rescored.of(logits, corrected)


def ordered(count: int, order: int) -> Tensor:
    """A random permutation of `count` images; `order` is its number."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(order))
