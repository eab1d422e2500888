"""Applies many settings to one run's saved logits. What settings share is computed once."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from nerp.base.errors import NerpError
from nerp.base.registry import RULES
from nerp.correction.correction import (
    Correction,
    CorrectionRule,
    Extra,
    carry_out,
    check_logits,
    top_classes,
)
from nerp.correction.flipping import Evidence, Partners, Rule

Grid = Mapping[str, Sequence[str]]  # a key, and its values as texts


def parse_grid(terms: Sequence[str]) -> dict[str, list[str]]:
    """`TAU=-1,0,1` and `THRES=0:2:9` (from 0 to 2 in 9 steps) -> key and values.

    Raises NerpError for a term that is neither.
    """
    grid = {}
    for term in terms:
        key, _, text = term.partition("=")
        if not key or not text:
            raise NerpError(f"--grid {term!r}: expected KEY=VALUE,VALUE,... or KEY=FROM:TO:COUNT")
        grid[key] = text.split(",")
        if text.count(":") == 2:
            try:
                start, stop, count = text.split(":")
                steps = np.linspace(float(start), float(stop), int(count))
            except ValueError:
                raise NerpError(f"--grid {term!r}: {text!r} are no values of {key}") from None
            grid[key] = [f"{value:g}" for value in steps]
    return grid


def rule_of_grid(grid: Grid, base: CorrectionRule) -> CorrectionRule:
    """The rule whose keys a grid has: `base` if it has all of them, else the first rule that does.

    Raises NerpError, naming the keys of every rule, if no rule has all of them; also for a value
    that a key does not take.
    """
    rules: list[CorrectionRule] = [base, *(RULES[name]() for name in RULES.names())]
    for rule in rules:
        if set(grid) <= set(rule.keys()):
            for key, values in grid.items():
                for value in values:
                    _change(rule, key, value)
            return rule
    keys = "; ".join(f"{name}: {', '.join(RULES[name].keys())}" for name in RULES.names())
    raise NerpError(f"--grid {' '.join(grid)}: the keys of one rule at a time, and they are {keys}")


def _change(rule: CorrectionRule, key: str, value: str) -> CorrectionRule:
    try:
        return rule.changed(key, value)
    except ValueError:
        raise NerpError(f"--grid {key}: {value!r} are no values of {key}") from None


@dataclass(frozen=True)
class Saved:
    """The arrays of a run's predictions.npz that a sweep needs: logits [N, C], labels [N], the
    priors [C] by reference, pairs [n, 2], and the fields of `Extra` that it has, by name."""

    logits: np.ndarray
    labels: np.ndarray
    priors: Mapping[str, np.ndarray]
    pairs: np.ndarray
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """A rule's result: accuracy in percent, and the numbers of its flips by their effect.

    Attributes: settings: the values of the grid that the rule has, in the grid's order.
    """

    rule: CorrectionRule
    accuracy: float
    flips: int
    helped: int
    hurt: int
    settings: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of flips, in the form of a run's record."""
        return {"flips": self.flips, "helped": self.helped, "hurt": self.hurt,
                "neutral": self.flips - self.helped - self.hurt}


class Sweep:
    """Applies rules to a run's saved logits, without a model.

    Raises NerpError for shapes that do not agree, or NaN.
    """

    def __init__(self, saved: Saved):
        self.logits, self.labels, self.pairs = (
            torch.from_numpy(x) for x in (saved.logits, saved.labels, saved.pairs)
        )
        self.priors = {name: torch.from_numpy(prior) for name, prior in saved.priors.items()}
        check_logits(self.logits, **self.priors)
        self.extra = Extra(**{name: torch.from_numpy(x) for name, x in saved.extra.items()})
        self.right = top_classes(self.logits)[1] == self.labels
        self.plain_accuracy = self._percent(0)

    @cached_property
    def evidence(self) -> Evidence:
        """What every flip needs to know of the images."""
        partners = Partners(self.pairs, *(self.priors[name] for name in Rule.references))
        return Evidence(self.logits, partners).keep()

    def correct(self, rule: CorrectionRule) -> Correction:
        """The correction by one rule. Raises NerpError if a prior that it needs was not saved."""
        missing = [name for name in rule.references if name not in self.priors]
        if missing:
            raise NerpError(f"the run kept no prior of the reference {missing[0]}; it has: "
                            f"{', '.join(self.priors)}. nerp test with NERP.REFERENCES makes it")
        if isinstance(rule, Rule):
            return self.evidence.correct(rule)
        return carry_out(rule, self.logits, self.priors, self.pairs, self.extra)

    def outcome(self, rule: CorrectionRule, settings: tuple[str, ...] = ()) -> Outcome:
        """The outcome of one rule. Raises NerpError as `correct` does."""
        return self.count(rule, self.correct(rule), settings)

    def count(
        self, rule: CorrectionRule, found: Correction, settings: tuple[str, ...] = ()
    ) -> Outcome:
        """The outcome of a correction of these logits."""
        labels = self.labels[found.images]
        helped = int((found.target == labels).sum())
        hurt = int(self.right[found.images].sum())
        accuracy = self._percent(helped - hurt)
        return Outcome(rule, accuracy, len(found.images), helped, hurt, settings)

    def _percent(self, gained: int) -> float:
        """Accuracy in percent if `gained` more images are right than without a correction."""
        return 100 * (int(self.right.sum()) + gained) / len(self.labels)

    def run(self, base: CorrectionRule, grid: Grid) -> Iterator[Outcome]:
        """The outcome of every combination of the grid's values; the rest is as in `base`. TAU
        changes slowest."""
        keys = sorted(grid, key=lambda key: key != "TAU")
        for values in itertools.product(*(grid[key] for key in keys)):
            chosen = dict(zip(keys, values, strict=True))
            rule = base
            for key, value in chosen.items():
                rule = _change(rule, key, value)
            yield self.outcome(rule, tuple(chosen[key] for key in grid))
