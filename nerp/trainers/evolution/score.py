"""How good class features are on labelled images."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_MEASURES = ("top1", "top5", "redundancy", "entropy")
Score = Mapping[str, float]


def measure(
    logits: Tensor, labels: Tensor, text: Tensor, weights: Sequence[float]
) -> dict[str, float]:
    """top1 and top5 (percent, of 4 decimals), redundancy, entropy, and the fitness made of them.

    Redundancy is the Frobenius norm of the upper triangle of t tᵀ - I, entropy the cross entropy.
    (Qu et al. 2025, section 3.2, and the published code.)

    Args:
        logits: [N, C]. labels: [N]. text: t [C, D], normalised.
        weights: of the four, in that order; the entropy counts against the fitness.
    """
    classes = len(text)
    ranked = logits.softmax(1).topk(min(5, classes), dim=1).indices == labels[:, None]
    near = torch.triu(text @ text.t() - torch.eye(classes, device=text.device))
    return weigh({
        "top1": _percent(ranked[:, 0]),
        "top5": _percent(ranked.any(1)),
        "redundancy": float(near.norm()),
        "entropy": float(F.cross_entropy(logits, labels)),
    }, weights)


def _percent(right: Tensor) -> float:
    return round(100 * int(right.sum()) / len(right), 4)


def weigh(score: Score, weights: Sequence[float]) -> dict[str, float]:
    """The four measures, with the fitness that follows from them."""
    parts = [weight * score[name] for name, weight in zip(_MEASURES, weights, strict=True)]
    return {**{name: score[name] for name in _MEASURES},
            "fitness": parts[0] + parts[1] + parts[2] - parts[3]}


def coarse(score: Score, weights: Sequence[float]) -> dict[str, float]:
    """The measures with top1 and top5 of 2 decimals, as a baseline has them in the published
    code."""
    rounded = {name: round(score[name], 2) for name in ("top1", "top5")}
    return weigh({**score, **rounded}, weights)


def worst_drop(classes: int) -> float:
    """The points of top1 that a prompt of the library loses against the baseline when it is left
    out."""
    return 200 / classes + 0.1
