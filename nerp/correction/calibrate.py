"""Thresholds chosen without the test set: on validation images of the classes trained on."""

from dataclasses import dataclass

from nerp.correction.flipping import Rule
from nerp.correction.sweep import Outcome, Saved, Sweep

GRID = {
    "TAU": (-4.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0),
    "THRES": (0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0),
}

NEVER = 1e9  # a TAU, in logits, that no preference reaches


@dataclass(frozen=True)
class Calibration:
    """The chosen rule, and what was measured on the validation images that chose it."""

    rule: Rule
    images: int
    plain_accuracy: float
    outcome: Outcome | None

    @property
    def note(self) -> str:
        """A line for the log."""
        where = f"{self.images} validation images of the classes trained on"
        if self.outcome is None:
            return f"calibrated on {where}: no setting gains, so nothing is flipped"
        return (f"calibrated on {where}: TAU {self.rule.tau:g}, THRES {self.rule.thres:g} "
                f"({self.plain_accuracy:.2f}% -> {self.outcome.accuracy:.2f}% there)")


def calibrate(saved: Saved, rule: Rule) -> Calibration:
    """`rule` with the TAU and THRES that classify labelled images best; of equals, fewest flips.

    Args:
        saved: logits, labels, priors and pairs of the classes that were trained on.

    Where no setting is better than flipping nothing, the rule flips nothing (TAU is NEVER).
    """
    sweep = Sweep(saved)
    best = max(sweep.run(rule, GRID), key=lambda o: (o.helped - o.hurt, -o.flips))
    if best.helped <= best.hurt:
        never = Rule(**{**vars(rule), "tau": NEVER})
        return Calibration(never, len(saved.labels), sweep.plain_accuracy, None)
    return Calibration(best.rule, len(saved.labels), sweep.plain_accuracy, best)
