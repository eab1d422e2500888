"""Predictions by optimal transport: each class gets as many images as its share says.

(OTTER, Shin et al., NeurIPS 2024.) N images, each of mass 1/N, are assigned to classes with given
shares so that the sum of logits is largest. Adding a number to all of an image's logits changes
nothing. The dual is a class bias: an image goes to argmax z - b, except for at most C - 1 images
that two classes share or that are tied.

The search starts from a sharpened match. Then the surplus of some classes moves to classes that
lack mass, along cheapest paths in the graph of classes. The cost of the edge c -> d is the loss
from moving the one image of c that is nearest to d (successive shortest paths). The result is
exact, and no [N, C] matrix is needed besides the logits.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nerp.correction.matching import chunks, sharpened_bias

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_NONE = 1e-9  # masses below this share of an image are rounding errors
_FEW = 100  # at most one image in this many is left to the paths


@dataclass(frozen=True)
class Plan:
    """Attributes: predictions: [N], the class with the largest part of each image. bias: [C], the
    dual, of mean 0, in double precision. split: number of images that several classes share."""

    predictions: Tensor
    bias: Tensor
    split: int


def transport(logits: Tensor, shares: Tensor | None = None) -> Tensor:
    """Predictions [N] from logits [N, C]. Raises NerpError as `uniform_bias`.

    Args: shares: [C] of the classes; None: equal ones.
    """
    return transport_plan(logits, shares).predictions


def transport_plan(logits: Tensor, shares: Tensor | None = None) -> Plan:
    """`transport` and its dual. Raises NerpError as `uniform_bias`."""
    count, classes = logits.shape

    def left_over(bias: Tensor) -> bool:
        taken = sum(_taken(chunk, bias).bincount(minlength=classes) for chunk in chunks(logits))
        surplus = (taken - count * wanted).clamp(min=0).sum()
        return float(surplus) <= max(classes, count / _FEW)

    wanted = torch.full((classes,), 1 / classes, dtype=torch.float64, device=logits.device)
    if shares is not None:
        wanted = shares.double() / shares.double().sum()
    bias = sharpened_bias(logits, shares, left_over)
    taken = torch.cat([_taken(chunk, bias) for chunk in chunks(logits)])
    flow = _Flow(
        logits.detach().cpu().numpy(), taken.cpu().numpy(), bias.cpu().numpy(),
        count * wanted.cpu().numpy(),
    )
    flow.settle()
    found = torch.from_numpy(flow.bias).to(logits.device)
    predictions = torch.from_numpy(flow.predictions()).to(logits.device)
    return Plan(predictions, found - found.mean(), flow.split())


def _taken(chunk: Tensor, bias: Tensor) -> Tensor:
    return (chunk.double() - bias).argmax(dim=1)


class _Flow:
    """Masses of images in classes, and the bias under which every image is in its best class.

    Attributes: bias: [C]. held: for each class its images, and the mass of each that it has.
    """

    def __init__(
        self, logits: npt.NDArray[np.floating], taken: Indices, bias: Floats, capacity: Floats
    ):
        self.logits, self.bias = logits, bias.copy()
        classes = len(bias)
        self.held: list[dict[int, float]] = [{} for _ in range(classes)]
        for image, c in enumerate(taken.tolist()):
            self.held[c][image] = 1.0
        self.excess = np.bincount(taken, minlength=classes) - capacity
        self.cost = np.full((classes, classes), np.inf)
        self.nearest = np.zeros((classes, classes), np.int64)
        for c in range(classes):
            self._look(c)

    def settle(self) -> None:
        """Move masses until no class has more or less than its capacity."""
        least = _NONE * len(self.excess)
        while self.excess.max() > least and self.excess.min() < -least:
            path = self._cheapest_path()
            moved = min(
                self.excess[path[0]], -self.excess[path[-1]],
                *(self.held[c][self.nearest[c, d]]
                  for c, d in zip(path, path[1:], strict=False)),
            )
            edges = [(c, d, int(self.nearest[c, d])) for c, d in zip(path, path[1:], strict=False)]
            for c, d, image in edges:
                self.held[d][image] = self.held[d].get(image, 0.0) + moved
                self.held[c][image] -= moved
                if self.held[c][image] <= _NONE:
                    del self.held[c][image]
            self.excess[path[0]] -= moved
            self.excess[path[-1]] += moved
            for c in path:
                self._look(c)

    def _look(self, c: int) -> None:
        """Compute the costs of moving an image of class c to each other class, and which image."""
        self.cost[c] = np.inf
        if self.held[c]:
            images = np.fromiter(self.held[c], np.int64)
            rows = self.logits[images].astype(np.float64)
            loss = rows[:, c : c + 1] - rows
            which = loss.argmin(axis=0)
            self.nearest[c] = images[which]
            self.cost[c] = loss[which, np.arange(len(which))]
        self.cost[c, c] = np.inf

    def _cheapest_path(self) -> list[int]:
        """A path of classes from one with a surplus to one that lacks mass, by Dijkstra's
        algorithm. The bias is moved so that the path's images prefer both ends of their edges
        equally."""
        far = np.where(self.excess > _NONE, 0.0, np.inf)
        lacking = self.excess < -_NONE
        before = np.full(len(far), -1)
        waiting = far.copy()  # infinite for classes that are done
        while True:
            c = int(waiting.argmin())
            if lacking[c]:
                break
            waiting[c] = np.inf
            done = far[c]
            # Costs that rounding made negative are set to 0.
            reached = done + np.maximum(self.cost[c] - self.bias[c] + self.bias, 0.0)
            nearer = reached < far
            far[nearer] = waiting[nearer] = reached[nearer]
            before[nearer] = c
        self.bias -= np.minimum(far, far[c])
        path = [c]
        while before[path[-1]] >= 0:
            path.append(int(before[path[-1]]))
        return path[::-1]

    def predictions(self) -> Indices:
        """[N] the class with the largest part of each image; of equal ones the lowest."""
        found = np.zeros(len(self.logits), np.int64)
        most = np.zeros(len(self.logits))
        for c, held in enumerate(self.held):
            for image, mass in held.items():
                if mass > most[image] + _NONE:
                    most[image], found[image] = mass, c
        return found

    def split(self) -> int:
        """The number of images that several classes share."""
        return sum(map(len, self.held)) - len({i for held in self.held for i in held})
