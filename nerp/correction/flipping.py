"""The flip: where the prior preference is strong and the evidence weak, take the partner class.

(NeRP, the correction step.) For an image with logits z and top class i, a partner j of i is a
candidate where `(text_prior[i] - text_prior[j]) + (image_prior[i] - image_prior[j]) >= TAU` and the
evidence for i is weak. Among the candidates the one with the largest logit (of equal ones the
lowest class) becomes the prediction.

Weakness is measured by the margin m = z_i - z_j, the entropy H of the five largest probabilities
renormalised, and the top probability p:

- rule "OR": m <= THRES, or one of the tests FLIP_BY_ENTROPY (H >= ENTROPY_THRES) and FLIP_BY_PROB
  (p < 0.6) is on and every one that is on holds;
- rule "AND": m <= THRES, and the entropy test if it is on, otherwise the probability test if it is.

Only m depends on the partner, so the best candidate is the admissible partner with the largest
logit, or there is none: one gather and one maximum an image decide.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.errors import NerpError

PROB_THRES = 0.6
ENTROPY_CLASSES = 5
LIFT = 0.1  # what the new class is put above the old one

# Why an image was flipped: which signs of weak evidence held. Bits of `Correction.reason`.
MARGIN, ENTROPY, PROB = 1, 2, 4

# Logits gathered at once: bounds the memory beyond the inputs.
_GATHERED = 2**23


@dataclass(frozen=True)
class Rule:
    """When evidence is weak and a preference strong; the keys of the config node NERP."""

    tau: float = 0.0
    thres: float = 2.0
    flip_rule: str = "OR"
    by_entropy: bool = False
    by_prob: bool = False
    entropy_thres: float = 1.0

    def __post_init__(self):
        if self.flip_rule not in ("OR", "AND"):
            raise NerpError(f"FLIP_RULE is {self.flip_rule!r}; it is OR or AND")

    @classmethod
    def from_config(cls, node: CfgNode) -> "Rule":
        """The rule in a config's NERP node."""
        return cls(
            node.TAU,
            node.THRES,
            node.FLIP_RULE,
            node.FLIP_BY_ENTROPY,
            node.FLIP_BY_PROB,
            node.ENTROPY_THRES,
        )


@dataclass(frozen=True)
class Correction:
    """What the rule did to B images, F of which it flipped.

    Attributes:
        predictions: [B] classes after the correction.
        images: [F] which images. source, target: [F] classes before and after.
        reason: [F] bits MARGIN, ENTROPY, PROB.
        margin, gap: [F] z_source - z_target, and the prior preference of source over target.
    """

    predictions: Tensor
    images: Tensor
    source: Tensor
    target: Tensor
    reason: Tensor
    margin: Tensor
    gap: Tensor

    @classmethod
    def none(cls, logits: Tensor) -> "Correction":
        """The correction that flips nothing."""
        top, empty = logits.argmax(dim=1), logits.new_zeros(0)
        return cls(top, *(empty.long() for _ in range(4)), empty, empty)

    def apply(self, logits: Tensor) -> Tensor:
        """A copy of the logits [B, C] in which each new class stands 0.1 above the old one."""
        corrected = logits.clone()
        top = logits[self.images, self.source]
        corrected[self.images, self.target] = top + LIFT
        return corrected


class Partners:
    """A pair list with priors, as a table: for each class its partners in ascending order.

    Attributes:
        index: [C, D] partner classes, D the largest number of partners; short rows hold 0.
        gap: [C, D] prior preference of the row's class over the partner; -inf in short rows.
    """

    def __init__(self, pairs: Tensor, text_prior: Tensor, image_prior: Tensor):
        """Args:
        pairs: [n, 2] class indices, used in both directions; repeats and (i, i) do not matter.
        text_prior, image_prior: [C].
        """
        classes, device = len(text_prior), text_prior.device
        pairs = torch.as_tensor(pairs, dtype=torch.long, device=device).reshape(-1, 2)
        if len(pairs) and not (pairs.min() >= 0 and pairs.max() < classes):
            raise NerpError(f"a pair names class {int(pairs.max())}, there are {classes}")
        both = torch.cat([pairs, pairs.flip(1)])
        keys = torch.unique(both[both[:, 0] != both[:, 1]] @ both.new_tensor([classes, 1]))
        source, target = keys // classes, keys % classes
        count = torch.bincount(source, minlength=classes)
        width = int(count.max()) if len(keys) else 0
        column = torch.arange(len(keys), device=device) - (count.cumsum(0) - count)[source]
        self.index = torch.zeros(classes, width, dtype=torch.long, device=device)
        self.gap = torch.full((classes, width), float("-inf"), device=device)
        self.index[source, column] = target
        self.gap[source, column] = (text_prior[source] - text_prior[target]) + (
            image_prior[source] - image_prior[target]
        )


class Evidence:
    """What the flip needs of B images, whatever the rule.

    Attributes: top [B] predicted classes; top_logit [B]; partner_logits [B, D].
    """

    def __init__(self, logits: Tensor, partners: Partners):
        """Raises NerpError where a logit is NaN or +inf."""
        self.logits = logits
        self.partners = partners
        self.top_logit, self.top = logits.max(dim=1)
        wrong = ~self.top_logit.isfinite()  # a maximum passes NaN on
        if wrong.any():
            raise NerpError(f"the logits of {int(wrong.sum())} of {len(logits)} images are not "
                            f"finite (first: image {int(wrong.nonzero()[0])})")
        self.partner_logits = logits.gather(1, partners.index[self.top])
        self._kept: dict[int, Tensor] = {}
        self._best: dict[float, tuple[Tensor, Tensor]] = {}

    def keep(self) -> "Evidence":
        """Compute what the tests need for every image now, for many rules over the same logits."""
        rows = torch.arange(len(self.logits), device=self.logits.device)
        self._kept = {ENTROPY: self._entropy(rows), PROB: self._probability(rows)}
        return self

    def entropy(self, rows: Tensor) -> Tensor:
        """[R] entropy of the five largest probabilities, renormalised (all where C < 5)."""
        return self._kept[ENTROPY][rows] if self._kept else self._entropy(rows)

    def probability(self, rows: Tensor) -> Tensor:
        """[R] softmax probability of the top class."""
        return self._kept[PROB][rows] if self._kept else self._probability(rows)

    def _entropy(self, rows: Tensor) -> Tensor:
        top = self.logits[rows].topk(min(ENTROPY_CLASSES, self.logits.shape[1]), dim=1).values
        log_p = top.log_softmax(dim=1)
        return -(log_p.exp() * log_p).sum(dim=1)

    def _probability(self, rows: Tensor) -> Tensor:
        below = self.logits[rows] - self.top_logit[rows, None]
        return below.exp_().sum(dim=1).reciprocal()

    def best_partner(self, tau: float) -> tuple[Tensor, Tensor]:
        """The admissible partner with the largest logit: its column [B] and the margin [B].

        The margin is infinite where no partner is admissible. The last TAU's answer is kept.
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
        """The images that the rule flips [F], and the bits of weak evidence that hold [F]."""
        _, margin = self.best_partner(rule.tau)
        near = (margin <= rule.thres) & margin.isfinite()
        tested = rule.by_entropy or rule.by_prob
        undecided = margin.isfinite() if tested and rule.flip_rule == "OR" else near
        (rows,) = undecided.nonzero(as_tuple=True)
        near, tests = near[rows], {}
        if rule.by_entropy:
            tests[ENTROPY] = self.entropy(rows) >= rule.entropy_thres
        if rule.by_prob:
            tests[PROB] = self.probability(rows) < PROB_THRES
        flips = near
        if tests and rule.flip_rule == "AND":
            flips = near & tests.get(ENTROPY, tests.get(PROB))
        elif tests:
            flips = near | torch.stack(list(tests.values())).all(dim=0)
        bits = near * MARGIN + sum(held * bit for bit, held in tests.items())
        return rows[flips], bits[flips]

    def correct(self, rule: Rule) -> Correction:
        """What the rule does to these images."""
        images, bits = self.weak(rule)
        column, margin = self.best_partner(rule.tau)
        source, column = self.top[images], column[images]
        target = self.partners.index[source, column]
        predictions = self.top.index_copy(0, images, target)
        gap = self.partners.gap[source, column]
        return Correction(predictions, images, source, target, bits, margin[images], gap)


def check_logits(logits: Tensor, text_prior: Tensor, image_prior: Tensor) -> None:
    """Raise NerpError for shapes that do not agree or numbers that are not."""
    if logits.dim() != 2 or text_prior.shape != image_prior.shape:
        raise NerpError(f"logits {tuple(logits.shape)} and priors {tuple(text_prior.shape)}, "
                        f"{tuple(image_prior.shape)}: expected [B, C], [C] and [C]")
    if logits.shape[1:] != text_prior.shape:
        raise NerpError(f"logits for {logits.shape[1]} classes, priors for {len(text_prior)}")
    for name, tensor in (("text prior", text_prior), ("image prior", image_prior)):
        if not tensor.isfinite().all():
            raise NerpError(f"the {name} holds numbers that are not finite")


def flip(
    logits: Tensor, text_prior: Tensor, image_prior: Tensor, pairs: Tensor, rule: Rule
) -> Correction:
    """Correct predictions where a prior preference is strong and the evidence weak.

    Args:
        logits: [B, C] float. text_prior, image_prior: [C], on the logits' device, in logits.
        pairs: [n, 2] confusable classes by index, used in both directions.

    Raises NerpError for shapes that do not agree, classes that do not exist, or NaN.
    """
    check_logits(logits, text_prior, image_prior)
    partners = Partners(pairs, text_prior, image_prior)
    rows = max(1, _GATHERED // max(logits.shape[1], 2 * partners.index.shape[1]))
    # An empty tensor splits into itself.
    parts = [Evidence(chunk, partners).correct(rule) for chunk in logits.split(rows)]
    for i, part in enumerate(parts):
        part.images.add_(i * rows)
    columns = ([getattr(part, name) for part in parts] for name in Correction.__dataclass_fields__)
    return Correction(*map(torch.cat, columns))
