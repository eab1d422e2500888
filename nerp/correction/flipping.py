"""The flip: where the prior preference is strong and the evidence weak, the partner class is
predicted.

(NeRP, the correction step.) For an image with logits z and top class i, a partner j of i is a
candidate if `(text_prior[i] - text_prior[j]) + (image_prior[i] - image_prior[j]) >= TAU` and the
evidence for i is weak. The candidate with the largest logit (of equal ones the lowest class)
becomes the prediction.

Weakness is measured by the margin m = z_i - z_j, the entropy H of the five largest probabilities,
renormalised, and the top probability p. The tests FLIP_BY_ENTROPY (H >= ENTROPY_THRES) and
FLIP_BY_PROB (p < 0.6) can be enabled:

- rule "OR": the evidence is weak if m <= THRES, or if every enabled test passes (at least one is
  enabled);
- rule "AND": it is weak if m <= THRES and the entropy test passes if it is enabled, otherwise the
  probability test if that is.

Only m depends on the partner. So the best candidate is the admissible partner with the largest
logit, or there is none: one gather and one maximum per image decide.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.registry import RULES
from nerp.correction.correction import (
    ENTROPY,
    MARGIN,
    PROB,
    Correction,
    CorrectionRule,
    check_logits,
    correct_in_chunks,
    top_classes,
)

PROB_THRES = 0.6
ENTROPY_CLASSES = 5


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


# Configuration key -> field, and the function that reads a value of a grid.
_SETTINGS: dict[str, tuple[str, Callable[[str], object]]] = {
    "TAU": ("tau", float),
    "THRES": ("thres", float),
    "FLIP_RULE": ("flip_rule", str),
    "FLIP_BY_ENTROPY": ("by_entropy", _truth),
    "FLIP_BY_PROB": ("by_prob", _truth),
    "ENTROPY_THRES": ("entropy_thres", float),
}


@RULES.register("flip")
@dataclass(frozen=True)
class Rule(CorrectionRule):
    """The flip's thresholds and tests, from the keys of the config node NERP."""

    name: ClassVar[str] = "flip"
    references: ClassVar[tuple[str, ...]] = ("text", "image")
    uses_pairs: ClassVar[bool] = True
    effect: ClassVar[str] = ("where the priors prefer the predicted class over a partner and the "
                             "evidence is weak, the partner is predicted")

    tau: float = 0.0
    thres: float = 2.0
    flip_rule: str = "OR"
    by_entropy: bool = False
    by_prob: bool = False
    entropy_thres: float = 1.0

    def __post_init__(self) -> None:
        if self.flip_rule not in ("OR", "AND"):
            raise NerpError(f"FLIP_RULE is {self.flip_rule!r}; it is OR or AND")

    @classmethod
    def from_config(cls, node: CfgNode, strengths: Mapping[str, float] | None = None) -> "Rule":
        """The rule in a config's NERP node."""
        return cls(**{field: node[key] for key, (field, _) in _SETTINGS.items()})

    def correct(self, logits: Tensor, priors: Mapping[str, Tensor], pairs: Tensor) -> Correction:
        return flip(logits, priors["text"], priors["image"], pairs, self)

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        return tuple(_SETTINGS)

    def changed(self, key: str, text: str) -> "Rule":
        field, convert = _SETTINGS[key]
        setting: dict[str, Any] = {field: convert(text)}
        return replace(self, **setting)

    @property
    def note(self) -> str:
        tests = [name for name, on in (("entropy", self.by_entropy), ("probability", self.by_prob))
                 if on]
        more = f", {self.flip_rule} by {' and '.join(tests)}" if tests else ""
        return f"flip, TAU {self.tau:g}, THRES {self.thres:g}{more}"


class Partners:
    """The partners of each class, in ascending order, with the differences of the priors.

    Attributes:
        index: [C, D] partner classes, where D is the largest number of partners; short rows hold 0.
        gap: [C, D] the summed difference of the priors between the row's class and the partner;
            -inf in short rows.
    """

    def __init__(self, pairs: Tensor, *priors: Tensor):
        """Args:
        pairs: [n, 2] class indices, used in both directions; repeats and (i, i) do not matter.
        priors: [C] each.
        """
        classes, device = len(priors[0]), priors[0].device
        pairs = torch.as_tensor(pairs, dtype=torch.long, device=device).reshape(-1, 2)
        if len(pairs) and not (pairs.min() >= 0 and pairs.max() < classes):
            raise NerpError(f"a pair names class {int(pairs.max())}, there are {classes}")
        both = torch.cat([pairs, pairs.flip(1)])
        source, target = both[both[:, 0] != both[:, 1]].unbind(1)
        keys = torch.unique(source * classes + target)
        source, target = keys // classes, keys % classes
        count = torch.bincount(source, minlength=classes)
        width = int(count.max()) if len(keys) else 0
        column = torch.arange(len(keys), device=device) - (count.cumsum(0) - count)[source]
        self.index = torch.zeros(classes, width, dtype=torch.long, device=device)
        self.gap = torch.full((classes, width), float("-inf"), device=device)
        self.index[source, column] = target
        self.gap[source, column] = sum(prior[source] - prior[target] for prior in priors)


def top_entropy(logits: Tensor) -> Tensor:
    """[B] entropy of the five largest probabilities, renormalised (all where C < 5)."""
    top = logits.topk(min(ENTROPY_CLASSES, logits.shape[1]), dim=1).values
    log_p = top.log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


class Evidence:
    """What the flip needs to know of B images, for any thresholds.

    Attributes: top [B] predicted classes; top_logit [B]; partner_logits [B, D].
    """

    def __init__(self, logits: Tensor, partners: Partners):
        """Raises NerpError if a logit is NaN or +inf."""
        self.logits = logits
        self.partners = partners
        self.top_logit, self.top = top_classes(logits)
        self.partner_logits = logits.gather(1, partners.index[self.top])
        self._kept: dict[int, Tensor] = {}
        self._best: dict[float, tuple[Tensor, Tensor]] = {}

    def keep(self) -> "Evidence":
        """Compute the tests' inputs for all images now, for many rules over the same logits."""
        rows = torch.arange(len(self.logits), device=self.logits.device)
        self._kept = {ENTROPY: top_entropy(self.logits), PROB: self._probability(rows)}
        return self

    def entropy(self, rows: Tensor) -> Tensor:
        """[R] `top_entropy` of these rows."""
        return self._kept[ENTROPY][rows] if self._kept else top_entropy(self.logits[rows])

    def probability(self, rows: Tensor) -> Tensor:
        """[R] softmax probability of the top class, for these rows."""
        return self._kept[PROB][rows] if self._kept else self._probability(rows)

    def _probability(self, rows: Tensor) -> Tensor:
        below = self.logits[rows] - self.top_logit[rows, None]
        return below.exp_().sum(dim=1).reciprocal()

    def best_partner(self, tau: float) -> tuple[Tensor, Tensor]:
        """The admissible partner with the largest logit: its column [B] and the margin [B].

        The margin is infinite if no partner is admissible. The last TAU's result is kept.
        """
        if tau not in self._best:
            self._best = {tau: self._find_best(tau)}
        return self._best[tau]

    def _find_best(self, tau: float) -> tuple[Tensor, Tensor]:
        if not self.partners.index.shape[1]:
            return torch.zeros_like(self.top), torch.full_like(self.top_logit, float("inf"))
        admissible = (self.partners.gap >= tau)[self.top]
        logit, column = self.partner_logits.masked_fill(~admissible, float("-inf")).max(dim=1)
        return column, self.top_logit - logit

    def weak(self, rule: Rule) -> tuple[Tensor, Tensor]:
        """The images that the rule flips [F], and which signs of weak evidence they show [F]."""
        _, margin = self.best_partner(rule.tau)
        near = (margin <= rule.thres) & margin.isfinite()
        tested = rule.by_entropy or rule.by_prob
        undecided = margin.isfinite() if tested and rule.flip_rule == "OR" else near
        (rows,) = undecided.nonzero(as_tuple=True)
        near = near[rows]
        tests: dict[int, Tensor] = {}
        if rule.by_entropy:
            tests[ENTROPY] = self.entropy(rows) >= rule.entropy_thres
        if rule.by_prob:
            tests[PROB] = self.probability(rows) < PROB_THRES
        flips = near
        if tests and rule.flip_rule == "AND":
            flips = near & (tests[ENTROPY] if rule.by_entropy else tests[PROB])
        elif tests:
            flips = near | torch.stack(list(tests.values())).all(dim=0)
        bits = near * MARGIN + sum(held * bit for bit, held in tests.items())
        return rows[flips], bits[flips]

    def correct(self, rule: Rule) -> Correction:
        """The correction of these images by the rule."""
        images, bits = self.weak(rule)
        column, margin = self.best_partner(rule.tau)
        source, column = self.top[images], column[images]
        target = self.partners.index[source, column]
        predictions = self.top.index_copy(0, images, target)
        gap = self.partners.gap[source, column]
        return Correction(predictions, images, source, target, bits, margin[images], gap)


def flip(
    logits: Tensor, text_prior: Tensor, image_prior: Tensor, pairs: Tensor, rule: Rule
) -> Correction:
    """Correct predictions where a prior preference is strong and the evidence weak.

    Args:
        logits: [B, C] float. text_prior, image_prior: [C], on the logits' device, in logits.
        pairs: [n, 2] confusable classes by index, used in both directions.

    Raises NerpError for shapes that do not agree, classes that do not exist, or NaN.
    """
    check_logits(logits, **{"text prior": text_prior, "image prior": image_prior})
    partners = Partners(pairs, text_prior, image_prior)
    return correct_in_chunks(
        lambda chunk: Evidence(chunk, partners).correct(rule), logits, 2 * partners.index.shape[1]
    )
