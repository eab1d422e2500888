"""Tip-Adapter: a cache of the training images' features votes beside zero-shot CLIP."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nerp.clip.model import normalise
from nerp.trainers.votes import add_up, class_votes, cosines, sorted_keys, weights

SCALE = 100.0  # CLIP's logit scale, as the published code has it typed in


def cache_keys(views: Tensor) -> Tensor:
    """Keys [N, D] of the images' views [A, N, D], not normalised: their mean, normalised.

    (Zhang et al. 2022, section 3.1; the views as in the published code.)
    """
    return normalise(views.mean(0))


def logits(
    features: Tensor, text: Tensor, keys: Tensor, labels: Tensor, beta: float | Tensor,
    alpha: float | Tensor,
) -> Tensor:
    """[B, C]: 100 f tᵀ + α times the votes, differentiable in `keys`.

    Args:
        features: f [B, D], normalised. text: t [C, D], normalised. keys: [N, D].
        labels: [N], in 0..C-1, or -1 for a key that votes for nothing.
    """
    votes = class_votes(features, keys, labels, len(text), beta)
    return SCALE * features @ text.t() + alpha * votes


def grid(scale: float, steps: int) -> list[float]:
    """The values that are tried: from 0.1 on, `steps` of them, `scale` not reached."""
    return [0.1 + i * (scale - 0.1) / steps for i in range(steps)]


def search(
    features: Tensor, truth: Tensor, text: Tensor, keys: Tensor, labels: Tensor,
    betas: Sequence[float], alphas: Sequence[float],
) -> tuple[float, float]:
    """The β and α that predict most of the images features [V, D], whose labels are `truth` [V],
    right: of equals the smallest β and then α in order; 0 and 0 where none gets one right."""
    keys, labels = sorted_keys(keys, labels)
    counts = torch.bincount(labels, minlength=len(text))
    close, zero_shot = cosines(features, keys), SCALE * features @ text.t()
    best, most = (0.0, 0.0), 0
    for beta in betas:
        votes = add_up(weights(close, beta), counts)
        for alpha in alphas:
            right = int(((zero_shot + alpha * votes).argmax(1) == truth).sum())
            if right > most:
                best, most = (beta, alpha), right
    return best
