"""The modality gap: the common offset of image features, from labelled images of any classes.

An image's feature is modelled as κ times its class's text feature plus a remainder. The mean
remainder is the modality gap (Liang et al., Mind the Gap, NeurIPS 2022), minus the part that κ text
features explain. It shows no class. A class whose text feature points along it scores higher on
every image.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from nerp.clip.device import in_float32
from nerp.correction.matching import uniform_bias

_SPLITS = 20
_FEWEST_CLASSES = 4  # two in each half


def gap_direction(features: Tensor, labels: Tensor, text: Tensor) -> Tensor:
    """[D], the mean feature minus κ times the mean text feature.

    κ is the slope of the least-squares line through the class means, with one offset for all.

    Args:
        features: [N, D] of images, normalised. labels: [N], each class at least once.
        text: [K, D] the classes' text features, normalised.
    """
    count = labels.bincount(minlength=len(text)).clamp(min=1)
    means = torch.zeros_like(text).index_add_(0, labels, features) / count[:, None]
    centred_means, centred_text = means - means.mean(0), text - text.mean(0)
    share = (centred_means * centred_text).sum() / centred_text.square().sum().clamp(min=1e-12)
    return means.mean(0) - share * text.mean(0)


def gap_prior(
    features: Tensor, labels: Tensor, text: Tensor, tested: Tensor, scale: float
) -> Tensor:
    """The logits [C] of the gap against the tested classes' text features [C, D].

    Args: as `gap_direction`; scale: what cosines are multiplied by.
    """
    with in_float32(text.device):
        return scale * tested @ gap_direction(features, labels, text)


def slope_between_halves(
    features: Tensor, labels: Tensor, text: Tensor, scale: float
) -> float | None:
    """The slope of a model's class biases on its gap priors; None for fewer than 4 classes.

    The classes are halved at random. One half's images give the gap prior of the other half's
    classes. The bias of those classes makes the mean prediction of their images equal the shares
    of their labels. The result is the slope of these biases on the priors, over both directions of
    20 splits. No test image is needed.
    """
    classes = len(text)
    if classes < _FEWEST_CLASSES:
        return None
    with in_float32(text.device):
        return _slope(features, labels, text, scale)


def _slope(features: Tensor, labels: Tensor, text: Tensor, scale: float) -> float:
    product = square = 0.0
    for prior, bias in between_halves(features, labels, text, scale):
        product += float(bias @ prior)
        square += float(prior @ prior)
    return product / max(square, 1e-12)


def between_halves(
    features: Tensor, labels: Tensor, text: Tensor, scale: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each direction of 20 random halvings: two vectors [K'] over the K' classes of one half,
    in logits and of mean 0. The first is the gap prior from the other half's images. The second is
    the bias with which the mean prediction of their own images equals the shares of their labels.

    Args: as `gap_direction`; scale: what cosines are multiplied by.
    """
    classes = len(text)
    generator = torch.Generator().manual_seed(0)
    for _ in range(_SPLITS):
        order = torch.randperm(classes, generator=generator).to(text.device)
        halves = order[: classes // 2], order[classes // 2 :]
        for known, asked in (halves, halves[::-1]):
            prior = gap_prior(*_only(known, features, labels, text), text[asked], scale)
            images, theirs, names = _only(asked, features, labels, text)
            shares = theirs.bincount(minlength=len(names)) / len(theirs)
            yield prior - prior.mean(), uniform_bias(scale * images @ names.t(), shares)


def _only(
    classes: Tensor, features: Tensor, labels: Tensor, text: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The images of some classes, with new labels in the order of `classes`, and the text features
    of the classes."""
    place = torch.full((len(text),), -1, device=text.device)
    place[classes] = torch.arange(len(classes), device=text.device)
    theirs = place[labels]
    return features[theirs >= 0], theirs[theirs >= 0], text[classes]
