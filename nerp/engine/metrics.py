"""Metrics of predictions: accuracy, macro F1, confusion matrix, effects of flips, open world,
confidence."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import numpy.typing as npt

from nerp.base.errors import NerpError
from nerp.engine.confidence import BINS, Floats, arrays, as_numpy, judge, measures, probabilities

if TYPE_CHECKING:
    from torch import Tensor

# Labels, predictions or counts, of any of numpy's integer types.
Integers = npt.NDArray[np.integer]


class Accuracy(TypedDict):
    """Numbers of images, and percentages of them; a class without images has no accuracy."""

    total: int
    correct: int
    accuracy: float
    macro_f1: float
    per_class_accuracy: list[float | None]


def confusion_matrix(labels: Integers, predictions: Integers, classes: int) -> Integers:
    """[C, C] counts; row: true class, column: predicted class."""
    cells = labels * classes + predictions
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def accuracy_record(confusion: Integers) -> Accuracy:
    """Total, correct, accuracy and macro F1 in percent, per-class accuracy in percent.

    Macro F1 averages over the classes that occur as a label or a prediction (as scikit-learn
    does); a class without images has no accuracy (None).
    """
    correct, support = confusion.diagonal(), confusion.sum(1)
    occurs = support + confusion.sum(0)
    f1 = 2 * correct[occurs > 0] / occurs[occurs > 0]
    total = int(support.sum())
    return {
        "total": total,
        "correct": int(correct.sum()),
        "accuracy": 100 * float(correct.sum()) / total,
        "macro_f1": 100 * float(f1.mean()),
        "per_class_accuracy": [
            100 * float(c) / int(n) if n else None for c, n in zip(correct, support, strict=True)
        ],
    }


@dataclass(frozen=True)
class Asymmetry:
    """How one-sided the confusions are.

    If n_ij images of class i are predicted as j, and n_ji images of j as i, the two classes have
    the asymmetry |n_ij - n_ji| / (n_ij + n_ji): 0 if both directions are equally frequent, 1 if
    only one occurs. The total weighs pairs by their confusions: sum |n_ij - n_ji| / sum (n_ij +
    n_ji). With few confusions, chance alone puts the total well above 0: see `chance`.

    Attributes:
        pairs: [n, 2] classes i < j with any confusions. counts: [n, 2] n_ij, n_ji.
        total: None without confusions.
    """

    pairs: Integers
    counts: Integers
    total: float | None

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """[n] asymmetry of each pair."""
        values: npt.NDArray[np.float64] = (
            np.abs(self.counts[:, 0] - self.counts[:, 1]) / self.counts.sum(1)
        )
        return values

    @property
    def chance(self) -> float | None:
        """The expected total by chance, if each confusion of a pair fell in either direction with
        probability 1/2 and the numbers of confusions stayed the same."""
        if self.total is None:
            return None
        sums = self.counts.sum(1)
        return float(sum(map(_mean_difference, sums.tolist())) / sums.sum())


def _mean_difference(n: int) -> float:
    """E |2X - n| of X ~ Binomial(n, 1/2): n C(n - 1, floor(n / 2)) / 2^(n - 1), by logarithms."""
    half = n // 2
    log = math.lgamma(n) - math.lgamma(half + 1) - math.lgamma(n - half)
    return n * math.exp(log - (n - 1) * math.log(2))


def asymmetry(confusion: Integers) -> Asymmetry:
    """The asymmetry of a confusion matrix [C, C] (rows: true classes)."""
    first, second = np.triu_indices(len(confusion), 1)
    counts = np.stack([confusion[first, second], confusion[second, first]], axis=1)
    confused = counts.sum(1) > 0
    pairs, counts = np.stack([first, second], axis=1)[confused], counts[confused]
    sums = counts.sum()
    total = float(np.abs(counts[:, 0] - counts[:, 1]).sum() / sums) if sums else None
    return Asymmetry(pairs, counts, total)


def flip_effect(labels: Integers, before: Integers, after: Integers) -> dict[str, int]:
    """How many predictions changed, and how many changes helped, hurt, or were neutral."""
    changed = before != after
    helped = int((changed & (after == labels)).sum())
    hurt = int((changed & (before == labels)).sum())
    count = int(changed.sum())
    return {"flips": count, "helped": helped, "hurt": hurt, "neutral": count - helped - hurt}


def harmonic_mean(base: float, novel: float) -> float:
    """H = 2bn / (b + n); 0 if both are 0."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def spearman(a: npt.ArrayLike, b: npt.ArrayLike) -> float | None:
    """Spearman's rank correlation of two arrays [n]; ties get their mean rank. None if one of the
    arrays is constant."""
    first, second = (_ranks(np.asarray(x)) for x in (a, b))
    if first.std() == 0 or second.std() == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    ranks: npt.NDArray[np.float64] = (counts.cumsum() - (counts - 1) / 2)[place]
    return ranks


def confidence(
    logits: "npt.NDArray[Any] | Tensor", labels: "npt.NDArray[Any] | Tensor", bins: int = BINS
) -> dict[str, float]:
    """How well the probabilities p = softmax(z) of logits [N, C] agree with the accuracy, given
    labels [N] (Guo et al., ICML 2017).

    Returns fractions. `ece`: the mean |confidence - accuracy| over `bins` bins of equal width,
    weighted by their numbers of images. `adaptive_ece`: the same over bins with equally many
    images. `mce`: the largest difference of a bin of equal width. `nll`: the mean -log p of the
    label, in nats. `brier`: the mean squared distance of p from the label's indicator.

    Raises NerpError for no images, shapes that do not agree, labels outside 0..C-1, logits that
    are not finite, or no bins.
    """
    return measures(judge(logits, labels), bins)


def open_world(
    logits: "npt.NDArray[Any] | Tensor", labels: "npt.NDArray[Any] | Tensor",
    base: "npt.NDArray[Any] | Tensor",
) -> dict[str, float]:
    """Metrics of a model trained on some classes that predicts among all classes (DeCoOp, Zhou et
    al., ICML 2024; OpenworldAUC, Hua et al., ICML 2025).

    Returns fractions, by `measures.OPEN_WORLD`. `accuracy`: over all images; also on images of
    `base` classes and of the others (`novel`). `h`: the harmonic mean of these two. `base_alone`
    and `novel_alone`: on each kind of images, with only the classes of this kind as answers.
    `auroc`: of the largest probability of a base class, with base images as positives.
    `openworld_auc`: the share of pairs of a base and a novel image in which both are right among
    their kind and the base image has the larger such probability; ties count one half.

    Args:
        logits: [N, C]. labels: [N]. base: [C], whether a class was trained on.

    Raises NerpError as `confidence`, and if base or novel classes, or their images, are missing.
    """
    z, y = arrays(logits, labels)
    trained = as_numpy(base)
    if trained.dtype != bool or trained.shape != z.shape[1:]:
        raise NerpError(f"base is {trained.dtype} {trained.shape}; it takes a truth value for each "
                        f"of {z.shape[1]} classes")
    shown = trained[y]  # [N] whether an image shows a base class
    for kind, classes, images in (("base", trained, shown), ("novel", ~trained, ~shown)):
        if not classes.any() or not images.any():
            raise NerpError(f"the open world needs {kind} classes with test images; there are "
                            f"{int(classes.sum())} classes with {int(images.sum())} images")
    score, right, alone = np.empty(len(y)), np.empty(len(y), bool), np.empty(len(y), bool)
    for part, p, _ in probabilities(z):
        score[part] = p[:, trained].max(axis=1)
        right[part] = z[part].argmax(axis=1) == y[part]
    for of, classes in ((shown, trained), (~shown, ~trained)):
        columns = np.flatnonzero(classes)
        alone[of] = columns[z[of][:, columns].argmax(axis=1)] == y[of]
    of_base, of_novel = float(right[shown].mean()), float(right[~shown].mean())
    pairs = int(shown.sum()) * int((~shown).sum())
    return {
        "accuracy": float(right.mean()),
        "base": of_base,
        "novel": of_novel,
        "h": harmonic_mean(of_base, of_novel),
        "base_alone": float(alone[shown].mean()),
        "novel_alone": float(alone[~shown].mean()),
        "auroc": auroc(score, shown),
        "openworld_auc": _wins(score[shown & alone], score[~shown & alone]) / pairs,
    }


def auroc(score: Floats, positive: "npt.NDArray[np.bool_]") -> float:
    """The share of pairs of a positive and a negative in which the positive has the larger score;
    ties count one half. Args: score: [N]. positive: [N]; some are positive and some are not."""
    own, others = score[positive], score[~positive]
    return _wins(own, others) / (len(own) * len(others))


def _wins(a: Floats, b: Floats) -> float:
    """The number of pairs (x of `a`, y of `b`) with x > y; ties count one half. It is computed from
    ranks (Mann and Whitney), since there may be 10^9 pairs."""
    if not len(a) or not len(b):
        return 0.0
    ranks = _ranks(np.concatenate([a, b]))[: len(a)]
    return float(ranks.sum() - len(a) * (len(a) + 1) / 2)
