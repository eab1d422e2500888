"""TFUP's cache of unlabelled images: how images are selected per class, and the votes they give.

(Long et al. 2024, sections 3.2 and 3.3. If paper and published code differ, this is the code.)
"""

import torch
from torch import Tensor

from nerp.base.errors import NerpError
from nerp.clip.model import normalise
from nerp.trainers.votes import class_votes
from nerp.trainers.voting import SCALE

_TEMPERATURE = 10.0  # factor of the cosines in the softmax of the compared probabilities
LEAST_SHOTS, MOST_SHOTS = 9, 16
_TINY = 1e-6


def shots(images: int, classes: int, share: float, most: int | None = None) -> int:
    """K, the number of selected images per class: `share` times images / classes, at least 9 and at
    most `most`."""
    k = max(LEAST_SHOTS, int(share * images / classes))
    return k if most is None else min(most, k)


def probabilities(features: Tensor, text: Tensor) -> Tensor:
    """Class probabilities P [N, C], from normalised image features [N, D] and class features
    [C, D]."""
    return (_TEMPERATURE * features @ text.t()).softmax(1)


def select(features: Tensor, text: Tensor, k: int) -> Tensor:
    """The indices [C, k] of the images that are selected for each class.

    The candidates are the 2k images with the highest probability of the class. The k selected ones
    have probabilities that are most similar to those of all candidates; the most similar comes
    first. An image may be selected for several classes.

    Args: features: [N, D], text: [C, D]; both are normalised.

    Raises NerpError if there are fewer images than k.
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
    """Similarities [B, N] of the class probabilities of images and keys. For each image they are
    rescaled to 0..2.

    They decrease linearly with the divergence KL(P(f), P(k)). All are 1 if all keys have the same
    divergence. Args: features [B, D], keys [N, D], text [C, D], all normalised.
    """
    # KL(p, q) = Σ p log p - Σ p log q. The first sum is the same for all keys and cancels.
    scores = _TEMPERATURE * keys @ text.t()
    scores = scores - scores.mean(1, keepdim=True)  # small numbers reduce rounding errors
    apart = scores.logsumexp(1) - probabilities(features, text) @ scores.t()
    least, most = apart.amin(1, keepdim=True), apart.amax(1, keepdim=True)
    spread = most - least
    flat = spread == 0
    close = 2 * (most - apart) / spread.masked_fill(flat, 1.0)
    return close.masked_fill(flat, 1.0)


def votes(
    features: Tensor, keys: Tensor, labels: Tensor, text: Tensor, beta: float
) -> Tensor:
    """Votes [B, C]: for each class, the sum over its keys of exp(-β (1 - similarity · cosine)).

    Args: features [B, D], keys [N, D] and text [C, D], normalised. labels: [N]; a key with the
    label -1 has no vote.
    """
    def closeness(part: Tensor, voting: Tensor) -> Tensor:
        return similarity(part, voting, text).t() * (voting @ part.t())

    return class_votes(features, keys, labels, len(text), beta, closeness)


def logits(
    features: Tensor, keys: Tensor, labels: Tensor, text: Tensor, beta: float, alpha: float
) -> Tensor:
    """Logits [B, C]: 100 f tᵀ + α times the votes. Features, keys and text are normalised here.
    Args: as in `votes`."""
    features, keys, text = normalise(features), normalise(keys), normalise(text)
    return SCALE * features @ text.t() + alpha * votes(features, keys, labels, text, beta)


def marginal(logits: Tensor) -> Tensor:
    """Σ_c q_c log(q_c + 1e-6), a scalar. q is the mean softmax of a batch of logits [B, C]."""
    q = logits.softmax(1).mean(0)
    return (q * (q + _TINY).log()).sum()


def adapted_text(text: Tensor, res: Tensor, ratio: float) -> Tensor:
    """t [C, D]: (1 - ratio) u° + ratio res, normalised. text: the text encoder's outputs u° [C, D],
    not normalised. res: residuals [C, D]."""
    return normalise((1 - ratio) * text + ratio * res)
