"""The steps of a training, the points where it may be interrupted, and each step's learning
rate."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.engine.optim import learning_rate

LONGEST_STRETCH = 200  # steps between two states, where training is counted in steps
BY_STEP = "cosine_iterations"  # the OPTIM.LR_SCHEDULER whose rate changes at every step


class Stretch(NamedTuple):
    """The steps `first` .. `last` - 1 of an epoch, counted from 0. After a stretch the state is
    saved, from which an interrupted run continues."""

    epoch: int
    first: int
    last: int
    ends_epoch: bool


@dataclass(frozen=True)
class Schedule:
    """Attributes:
    optim: the config node OPTIM.
    epochs: number of epochs, including an incomplete last one.
    epoch_steps: the steps of a whole epoch. steps: of the training.
    longest: the largest number of steps of a stretch.
    """

    optim: CfgNode
    epochs: int
    epoch_steps: int
    steps: int
    longest: int

    def stretches(self) -> Iterator[Stretch]:
        """All steps, in order."""
        for epoch in range(self.epochs):
            end = min(self.epoch_steps, self.steps - epoch * self.epoch_steps)
            for first in range(0, end, self.longest):
                last = min(first + self.longest, end)
                yield Stretch(epoch, first, last, last == end)

    def rate(self, epoch: int, step: int, factor: float = 1.0) -> float:
        """The rate of a step of an epoch, both counted from 0, for tensors with this `factor`.

        OPTIM.LR_SCHEDULER cosine_iterations: a half cosine over all steps, down to OPTIM.LR_MIN.
        """
        if self.optim.LR_SCHEDULER != BY_STEP:
            return learning_rate(self.optim, epoch, factor)
        return rate_by_step(self.optim, epoch * self.epoch_steps + step, self.steps, factor)


def rate_by_step(optim: CfgNode, step: int, steps: int, factor: float = 1.0) -> float:
    """A half cosine over `steps` steps, from OPTIM.LR at step 0 down to OPTIM.LR_MIN; after them it
    rises again."""
    low = float(optim.LR_MIN)
    return low + 0.5 * (factor * float(optim.LR) - low) * (1 + math.cos(math.pi * step / steps))


def make_schedule(optim: CfgNode, epoch_steps: int, steps: int | None) -> Schedule:
    """A schedule of OPTIM.MAX_EPOCH epochs of `epoch_steps`; if `steps` is given, of so many steps.

    Raises NerpError for a learning-rate schedule of the other kind (by epochs or by steps).
    """
    name = optim.LR_SCHEDULER
    if name == BY_STEP and optim.WARMUP_EPOCH > 0:
        raise NerpError(f"OPTIM.WARMUP_EPOCH is {optim.WARMUP_EPOCH}; OPTIM.LR_SCHEDULER {name} "
                        "has no warm-up: set it to 0")
    if steps is None:
        epochs = optim.MAX_EPOCH
        return Schedule(optim, epochs, epoch_steps, epochs * epoch_steps, epoch_steps)
    if name != BY_STEP:
        raise NerpError(f"OPTIM.LR_SCHEDULER is {name}; this method counts its training in steps, "
                        f"so its rate is {BY_STEP}")
    return Schedule(optim, -(-steps // epoch_steps), epoch_steps, steps, LONGEST_STRETCH)
