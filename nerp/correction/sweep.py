"""Many rules over one set of saved logits; what does not depend on the rule is computed once."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nerp.correction.flipping import Evidence, Partners, Rule, check_logits
from nerp.errors import NerpError

# Configuration key -> field of Rule, and how a grid's text becomes a value.
_TRUTH = {"true": True, "false": False}
GRID_KEYS = {
    "TAU": ("tau", float),
    "THRES": ("thres", float),
    "ENTROPY_THRES": ("entropy_thres", float),
    "FLIP_RULE": ("flip_rule", str),
    "FLIP_BY_ENTROPY": ("by_entropy", lambda text: _TRUTH[text.lower()]),
    "FLIP_BY_PROB": ("by_prob", lambda text: _TRUTH[text.lower()]),
}


def parse_grid(terms: Sequence[str]) -> dict[str, list]:
    """`TAU=-1,0,1` and `THRES=0:2:9` (from 0 to 2 in 9 steps) -> key and values.

    Raises NerpError, saying which keys exist, for a term that is neither.
    """
    grid = {}
    for term in terms:
        key, equals, text = term.partition("=")
        if not equals or key not in GRID_KEYS:
            raise NerpError(f"--grid {term!r}: expected KEY=VALUE,VALUE,... or KEY=FROM:TO:COUNT; "
                            f"the keys are {', '.join(GRID_KEYS)}")
        convert = GRID_KEYS[key][1]
        try:
            if text.count(":") == 2:
                start, stop, count = text.split(":")
                grid[key] = np.linspace(float(start), float(stop), int(count)).tolist()
            else:
                grid[key] = [convert(value) for value in text.split(",")]
        except (ValueError, KeyError):
            raise NerpError(f"--grid {term!r}: {text!r} are no values of {key}") from None
    return grid


@dataclass(frozen=True)
class Saved:
    """What a sweep needs of a run's predictions.npz, as arrays: logits [N, C], labels [N],
    text_prior and image_prior [C], pairs [n, 2]."""

    logits: np.ndarray
    labels: np.ndarray
    text_prior: np.ndarray
    image_prior: np.ndarray
    pairs: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What a rule did: accuracy in percent, and its flips by what they did."""

    rule: Rule
    accuracy: float
    flips: int
    helped: int
    hurt: int


class Sweep:
    """Applies rules to a run's saved logits, without a model.

    Raises NerpError for shapes that do not agree, or NaN.
    """

    def __init__(self, saved: Saved):
        logits, text, image = (
            torch.from_numpy(x) for x in (saved.logits, saved.text_prior, saved.image_prior)
        )
        check_logits(logits, text, image)
        partners = Partners(torch.from_numpy(saved.pairs), text, image)
        self.evidence = Evidence(logits, partners).keep()
        self.labels = torch.from_numpy(saved.labels)
        self.right = self.evidence.top == self.labels
        self.plain_accuracy = 100 * float(self.right.float().mean())

    def outcome(self, rule: Rule) -> Outcome:
        """What one rule does."""
        found = self.evidence.correct(rule)
        labels = self.labels[found.images]
        helped = int((found.target == labels).sum())
        hurt = int(self.right[found.images].sum())
        accuracy = self.plain_accuracy + 100 * (helped - hurt) / len(self.labels)
        return Outcome(rule, accuracy, len(found.images), helped, hurt)

    def run(self, base: Rule, grid: Mapping[str, Sequence]) -> Iterator[Outcome]:
        """Every combination of the grid's values, the rest as in `base`; TAU changes slowest."""
        keys = sorted(grid, key=lambda key: key != "TAU")
        for values in itertools.product(*(grid[key] for key in keys)):
            changes = {GRID_KEYS[k][0]: v for k, v in zip(keys, values, strict=True)}
            yield self.outcome(Rule(**{**vars(base), **changes}))
