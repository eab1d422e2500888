"""Unlabelled images that vote: which of them stand for a class, and how much each vote counts.

(Long et al. 2024, sections 3.2 and 3.3; where the paper and the published code differ, the code.)
"""

import torch
from torch import Tensor

from nerp.base.errors import NerpError
from nerp.clip.model import normalise
from nerp.trainers.votes import class_votes
from nerp.trainers.voting import SCALE

_TEMPERATURE = 10.0  # what cosines are multiplied by for the probabilities that are compared
LEAST_SHOTS, MOST_SHOTS = 9, 16
_TINY = 1e-6


def shots(images: int, classes: int, share: float, most: int | None = None) -> int:
    """K, the images that stand for a class: `share` of all divided by the classes, at least 9 and
    `most` at most."""
    k = max(LEAST_SHOTS, int(share * images / classes))
    return k if most is None else min(most, k)


def probabilities(features: Tensor, text: Tensor) -> Tensor:
    """P [N, C] of normalised features [N, D] and class features [C, D]."""
    return (_TEMPERATURE * features @ text.t()).softmax(1)


def select(features: Tensor, text: Tensor, k: int) -> Tensor:
    """The indices [C, k] of the images that stand for each class.

    Of the 2k most probable images of the class those k whose probabilities are the most like those
    of all 2k, the most alike first. An image may stand for several classes.

    Args: features: [N, D], text: [C, D]; both are normalised.

    Raises NerpError where there are fewer images than k.
    """
    images, classes = len(features), len(text)
    if images < k:
        raise NerpError(f"{images} images cannot give each of {classes} classes {k}: too few "
                        "unlabelled images")
    p = probabilities(normalise(features), normalise(text))
    candidates = p.sort(dim=0, descending=True, stable=True).indices[: 2 * k].t()
    kept = []
    for own in candidates:
        # Σ_m KL(P_j, P_m) = M Σ_c P_j log P_j - P_j · Σ_m log P_m
        probability = p[own]
        logs = probability.log()
        apart = (probability * (len(own) * logs - logs.sum(0))).sum(1)
        kept.append(own[apart.sort(stable=True).indices[:k]])
    return torch.stack(kept)


def similarity(features: Tensor, keys: Tensor, text: Tensor) -> Tensor:
    """How alike the class probabilities of images and keys are, [B, N], from 0 to 2 per image.

    By the divergence KL(P(f), P(k)), turned round and stretched over the keys; 1 where all keys
    are equally far. Args: features [B, D], keys [N, D], text [C, D], all normalised.
    """
    # KL(p, q) = Σ p log p - Σ p log q, the first of which is the same for all keys and cancels.
    scores = _TEMPERATURE * keys @ text.t()
    scores = scores - scores.mean(1, keepdim=True)  # small numbers, so that little is rounded off
    apart = scores.logsumexp(1) - probabilities(features, text) @ scores.t()
    least, most = apart.amin(1, keepdim=True), apart.amax(1, keepdim=True)
    spread = most - least
    flat = spread == 0
    close = 2 * (most - apart) / spread.masked_fill(flat, 1.0)
    return close.masked_fill(flat, 1.0)


def votes(
    features: Tensor, keys: Tensor, labels: Tensor, text: Tensor, beta: float
) -> Tensor:
    """[B, C]: of each class the sum over its keys of exp(-β (1 - similarity · cosine)).

    Args: features [B, D], keys [N, D] and text [C, D], normalised. labels: [N]; a key of
    label -1 is left out.
    """
    def closeness(part: Tensor, voting: Tensor) -> Tensor:
        return similarity(part, voting, text).t() * (voting @ part.t())

    return class_votes(features, keys, labels, len(text), beta, closeness)


def logits(
    features: Tensor, keys: Tensor, labels: Tensor, text: Tensor, beta: float, alpha: float
) -> Tensor:
    """[B, C]: 100 f tᵀ + α times the votes; features, keys and text are normalised. Args: as in
    `votes`."""
    features, keys, text = normalise(features), normalise(keys), normalise(text)
    return SCALE * features @ text.t() + alpha * votes(features, keys, labels, text, beta)


def marginal(logits: Tensor) -> Tensor:
    """Σ_c q_c log(q_c + 1e-6), a scalar, of q, the mean over a batch [B, C] of its softmax."""
    q = logits.softmax(1).mean(0)
    return (q * (q + _TINY).log()).sum()


def adapted_text(text: Tensor, res: Tensor, ratio: float) -> Tensor:
    """t [C, D] of class texts u° and residuals, both [C, D]: (1 - ratio) u° + ratio res,
    normalised. u° is as the text encoder gives it."""
    return normalise((1 - ratio) * text + ratio * res)
