"""Every rule on one run's saved logits, side by side; no model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from nerp.base.errors import NerpError
from nerp.base.registry import RULES
from nerp.correction.correction import CorrectionRule
from nerp.correction.looked_at import MARKS, UNKNOWN, most
from nerp.correction.matched import LIMIT_OF_SPREAD, WIDTH_OF_SPREAD, Anchored, Streaming
from nerp.correction.published import Contextual
from nerp.correction.shifting import Shift
from nerp.correction.significance import sign_test
from nerp.correction.sweep import Saved, Sweep

STREAM = ", in a stream"
_SAME_REFERENCES = (Shift, Anchored)  # each can take its strengths from a run with the other


@dataclass(frozen=True)
class Compared:
    """What a rule did to a run's predictions.

    Attributes:
        name: the rule, and its form if it has several. looked_at: which data the rule and its
            references have looked at. missing: why it cannot be applied, "" if it can.
        accuracy: in percent. gain: in points. predictions: [N]. remark: the correction's.
    """

    name: str
    looked_at: str
    missing: str = ""
    accuracy: float = 0.0
    gain: float = 0.0
    changed: int = 0
    helped: int = 0
    hurt: int = 0
    remark: str = ""
    predictions: torch.Tensor | None = None

    @property
    def mark(self) -> str:
        """The mark beside its numbers (`looked_at.MARKS`)."""
        return MARKS.get(self.looked_at, "")

    @property
    def chance(self) -> float:
        """The `sign_test` of its helped and hurt flips."""
        return sign_test(self.helped, self.hurt)


def compare(
    saved: Saved, own: CorrectionRule, names: Sequence[str], looked_at: Mapping[str, str]
) -> Iterator[Compared]:
    """What each named rule does to a run.

    Args:
        own: the run's rule; shift and anchored take its strengths. names: of rules in `RULES`.
        looked_at: what each reference, and "pairs", have looked at.

    Raises NerpError for a name that is no rule's.
    """
    sweep = Sweep(saved)
    for name in names:
        for label, rule, missing in _forms(name, own, saved):
            seen = _looked_at(rule, looked_at)
            if missing:
                yield Compared(label, seen, missing)
                continue
            try:
                found = sweep.correct(rule)
            except NerpError as error:
                yield Compared(label, seen, str(error))
                continue
            done = sweep.count(rule, found)
            yield Compared(label, seen, "", done.accuracy, done.accuracy - sweep.plain_accuracy,
                           done.flips, done.helped, done.hurt, found.remark, found.predictions)


def _looked_at(rule: CorrectionRule, looked_at: Mapping[str, str]) -> str:
    """The most serious data that a rule, its references or its pairs have looked at."""
    parts = [*rule.references, *(["pairs"] if rule.uses_pairs else [])]
    return most([rule.has_looked_at, *(looked_at.get(part, UNKNOWN) for part in parts)])


def _forms(
    name: str, own: CorrectionRule, saved: Saved
) -> Iterator[tuple[str, CorrectionRule, str]]:
    """For each form of a rule: a label, the rule, and why it cannot be applied ("" if it can)."""
    kind = RULES[name]
    if name != own.name and issubclass(kind, Contextual):
        for reference in sorted({*saved.priors} - {"gap", "matched"}):
            yield f"{name}, {reference}", Contextual(strengths={reference: 1.0}), ""
        return
    rule, missing = own, ""
    if name != own.name:
        rule = kind()
        if kind.weighs:
            missing = f"the run kept no references for it: NERP.RULE {name} does"
            if isinstance(rule, Shift) and isinstance(own, Shift) and (
                    {kind, type(own)} <= {*_SAME_REFERENCES}):
                rule, missing = replace(rule, strengths=own.strengths), ""
        if isinstance(rule, Anchored):
            spread = float(torch.from_numpy(saved.logits).std(dim=1, correction=0).mean())
            rule = replace(rule, width=WIDTH_OF_SPREAD * spread, limit=LIMIT_OF_SPREAD * spread)
    yield name, rule, missing
    if isinstance(rule, Streaming) and not rule.stream:
        yield name + STREAM, replace(rule, stream=True), missing
