"""LP++: a linear probe on frozen image features, each class's text feature blended in."""

import torch
import torch.nn.functional as F
from torch import Tensor

from nerp.clip.model import normalise

_INIT = 250.0  # the blend's first value, in means of an image's cosine with its own class
_MOMENTUM = 0.9
_ALPHA_EVERY = 10


def start(
    features: Tensor, labels: Tensor, text: Tensor, init: float = _INIT
) -> tuple[Tensor, float]:
    """The classifier's first weight [C, D], the sum of each class's features, and the first α.

    Args:
        features: of the training images [N, D]; they are normalised. labels: [N].
        text: t [C, D], normalised. init: what the mean cosine is multiplied by.

    A class without an image has zeros, and counts for nothing in α.
    (Huang et al. 2024, section 3.3, and the published code.)
    """
    features = normalise(features)
    weight = torch.zeros_like(text).index_add(0, labels, features)
    counts = torch.bincount(labels, minlength=len(text))
    own = (features * text[labels]).sum(1, dtype=torch.float64)
    sums = own.new_zeros(len(text)).index_add(0, labels, own)
    there = counts > 0
    return weight, init * float((sums[there] / counts[there]).mean())


def step_sizes(features: Tensor, text: Tensor) -> tuple[float, float]:
    """The rates of weight and bias, 4 N / λ_max(FᵀF), and of α, N / (4 max_c Σ_i (f_i · t_c)²).

    Args: as in `start`. (Section 3.2.)
    """
    features, text = normalise(features).double(), text.double()
    count = len(features)
    largest = torch.linalg.eigvalsh(features.t() @ features)[-1]
    squares = (features @ text.t()).square().sum(0)
    return 4 * count / float(largest), count / (4 * float(squares.max()))


def logits(features: Tensor, text: Tensor, weight: Tensor, bias: Tensor, alpha: Tensor) -> Tensor:
    """[B, C]: f weightᵀ + bias + α ⊙ (f tᵀ), of normalised f [B, D] and t [C, D]."""
    return F.linear(features, weight, bias) + alpha * (features @ text.t())


def fit(
    features: Tensor, labels: Tensor, text: Tensor, bias: Tensor, epochs: int,
    val_features: Tensor | None = None, val_labels: Tensor | None = None,
    init: float = _INIT, alpha_every: int = _ALPHA_EVERY,
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Weight [C, D], bias [C] and α [C] after full-batch steps on the cross entropy, and the epoch
    that they are of, from 0: the one that has most validation images right, of equals the last;
    without validation images the last of all.

    Args:
        features, labels, text, init: as in `start`. bias: [C], the first one.
        val_features: [V, D], normalised. val_labels: [V].
        alpha_every: the epochs between two steps of α, which takes the sum of the gradients of all
            epochs so far: the published code never clears it.
    """
    # In double precision: momentum adds the rounding of hundreds of steps up.
    features, kind = normalise(features), bias.dtype
    first_weight, first = start(features, labels, text, init)
    rate, alpha_rate = step_sizes(features, text)
    features, text = features.double(), text.double()
    weight, bias = first_weight.double(), bias.double()
    alpha = torch.full_like(bias, first)
    blend, truth = features @ text.t(), F.one_hot(labels, len(text))
    held = val_features is not None and val_labels is not None and len(val_labels) > 0
    weight_speed, bias_speed = torch.zeros_like(weight), torch.zeros_like(bias)
    alpha_gradient = torch.zeros_like(alpha)
    best, most = (weight, bias, alpha, -1), -1
    for epoch in range(epochs):
        predicted = (F.linear(features, weight, bias) + alpha * blend).softmax(1)
        error = (predicted - truth) / len(features)  # the mean cross entropy's, by the logits
        alpha_gradient += (error * blend).sum(0)
        weight_speed = _MOMENTUM * weight_speed + error.t() @ features
        bias_speed = _MOMENTUM * bias_speed + error.sum(0)
        weight, bias = weight - rate * weight_speed, bias - rate * bias_speed
        if (epoch + 1) % alpha_every == 0:
            alpha = alpha - alpha_rate * alpha_gradient
        right = 0
        if held:
            found = logits(val_features.double(), text, weight, bias, alpha)
            right = int((found.argmax(1) == val_labels).sum())
        if right >= most:
            best, most = (weight, bias, alpha, epoch), right
    return best[0].to(kind), best[1].to(kind), best[2].to(kind), best[3]
