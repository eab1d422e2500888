"""Chooses thresholds or strengths without the test set, if validation images show an improvement
beyond chance.

The images are validation images of the trained classes. There are at most four per class, so the
best of many settings on them is mostly noise. A setting is accepted only if a sign test on the
predictions it changes shows that it helps. Otherwise a shift stays as it was. A flip has no
automatic setting to fall back to, so it flips nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

from nerp.base.errors import NerpError
from nerp.correction.correction import CorrectionRule
from nerp.correction.flipping import Rule
from nerp.correction.shifting import Shift
from nerp.correction.significance import sign_test
from nerp.correction.sweep import Saved, Sweep

TAUS = (-4.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0)
MARGINS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0)
FACTORS = (0.0, 0.5, 1.5, 2.0, 3.0)  # of a shift's strengths
NEVER = 1e9  # a TAU, in logits, that no preference reaches
# The sign test's level. Of a hundred settings tried on noise, the best passes now and then.
BEYOND_CHANCE = 0.01


@dataclass(frozen=True)
class Calibration:
    """The chosen rule, and its accuracy on the validation images.

    Attributes:
        images: number of validation images. before, after: accuracy on them in percent, with the
            rule as given (a flip: without correction) and with the chosen rule.
        changed: whether the chosen rule differs from the given one.
    """

    rule: CorrectionRule
    images: int
    before: float
    after: float
    changed: bool

    @property
    def note(self) -> str:
        """A line for the log."""
        where = f"{self.images} validation images of the classes trained on"
        if self.changed:
            return (f"calibrated on {where}: {self.rule.note} ({self.before:.2f}% -> "
                    f"{self.after:.2f}% there)")
        kept = "nothing is flipped" if isinstance(self.rule, Rule) else "the strengths stay"
        return f"calibrated on {where}: no setting gains beyond chance, so {kept}"


def calibrate(saved: Saved, rule: CorrectionRule) -> Calibration:
    """`rule`, with other thresholds or strengths if labelled images show that they are better.

    Args:
        saved: logits, labels, priors and pairs of the trained classes.

    Of settings that help equally beyond chance, it takes the one that changes fewest predictions.
    Raises NerpError for a rule that has neither thresholds nor strengths.
    """
    sweep = Sweep(saved)
    start, settings = adjustable(rule)
    before = sweep.correct(start).predictions
    best = (0, 0)
    found: CorrectionRule | None = None
    for setting in settings:
        after = sweep.correct(setting).predictions
        changed = after != before
        helped = int((changed & (after == sweep.labels)).sum())
        hurt = int((changed & (before == sweep.labels)).sum())
        score = (helped - hurt, -int(changed.sum()))
        if helped > hurt and sign_test(helped, hurt) < BEYOND_CHANCE and score > best:
            best, found = score, setting
    chosen = found or start
    plain, reached = (sweep.outcome(each).accuracy for each in (start, chosen))
    return Calibration(chosen, len(saved.labels), plain, reached, changed=found is not None)


def adjustable(rule: CorrectionRule) -> tuple[CorrectionRule, Iterable[CorrectionRule]]:
    """The rule to fall back to, and the rules to try instead.

    Raises NerpError for a rule that has nothing to choose on validation images.
    """
    if isinstance(rule, Rule):
        tried = (replace(rule, tau=tau, thres=thres) for tau, thres in product(TAUS, MARGINS))
        return replace(rule, tau=NEVER), tried
    if type(rule) is Shift:
        return rule, (
            replace(rule, strengths={name: f * s for name, s in rule.strengths.items()})
            for f in FACTORS
        )
    raise NerpError(f"NERP.THRESHOLDS calibrated: the rule {rule.name} has no thresholds or "
                    "strengths to choose; leave it out, or NERP.RULE shift or flip")
