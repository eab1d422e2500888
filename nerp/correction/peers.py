"""Published methods that remove a classifier's preference for classes at test time.

All of them use logits z [N, C], p = softmax(z) by rows, and a class bias b [C] that is subtracted
from the logits (only its differences matter). Matching and its anchored form are in `matching`,
transport in `transport`.
"""

import torch
from torch import Tensor

from nerp.base.errors import NerpError
from nerp.correction.matching import check_bias, check_many, check_shares, chunks, uniform_bias

FORMS = ("diagonal", "identity")
_LEAST = 1e-12  # added to a stationary prior before its logarithm, as published
_POWER_ROUNDS, _POWER_TOLERANCE = 100, 1e-3


def contextual_bias(content_free: Tensor) -> Tensor:
    """log of the mean probabilities [C] of inputs without content, [M, C] logits.

    Contextual calibration (Zhao et al., ICML 2021); with inputs of the domain, domain-context
    calibration (Fei et al., ACL 2023). With one input it is the shift by that input's prior at
    strength 1.
    """
    check_many(content_free)
    return content_free.softmax(dim=1).mean(dim=0).log()


def contextual_scores(logits: Tensor, content_free: Tensor, form: str = "diagonal") -> Tensor:
    """Scores [N, C]: p divided by the mean probabilities of content-free inputs ("diagonal"), or p
    minus them ("identity"). They are not probabilities: the release does not normalise them.

    Args: logits: [N, C]. content_free: [M, C].
    """
    if form not in FORMS:
        raise NerpError(f"form is {form!r}; it is {' or '.join(FORMS)}")
    p, bias = logits.softmax(dim=1), contextual_bias(content_free)
    check_bias(bias, logits.shape[1], "contextual bias")
    return p / bias.exp() if form == "diagonal" else p - bias.exp()


def batch_bias(logits: Tensor, strength: float = 1.0) -> Tensor:
    """strength * log of the mean prediction of N images, [C]. (Zhou et al., ICLR 2024.)

    It is one step towards `uniform_bias`; repeated steps would end there.
    """
    check_many(logits)
    return (strength * mean_prediction(logits).log()).to(logits.dtype)


def sinkhorn(
    logits: Tensor, shares: Tensor | None = None, rounds: int = 20, power: float = 0.0
) -> Tensor:
    """Probabilities [N, C] whose sums over the images approach given shares, by Sinkhorn's scaling
    of columns and rows. (InMaP, Qian et al., NeurIPS 2023; Frolic, NeurIPS 2024.)

    Args:
        logits: [N, C]. shares: [C] of the classes; None: the initial mean prediction to the power
            `power`, normalised. Power 0 gives equal shares. Power 1, as Frolic uses it, gives
            shares that are met from the start, so nothing is corrected.
    """
    return (logits - sinkhorn_bias(logits, shares, rounds, power)).softmax(dim=1)


def sinkhorn_bias(
    logits: Tensor, shares: Tensor | None = None, rounds: int = 20, power: float = 0.0
) -> Tensor:
    """The column scaling of `sinkhorn` as a class bias [C]; softmax does the row scaling."""
    check_many(logits)
    mean = mean_prediction(logits)
    if shares is None:
        wanted = mean**power / (mean**power).sum()
    else:
        check_shares(shares, logits.shape[1])
        wanted = shares.double()
    bias = torch.zeros_like(mean)
    for _ in range(rounds):
        bias += (mean / wanted).log()
        mean = mean_prediction(logits, bias.to(logits.dtype))
    return bias.to(logits.dtype)


def stationary_bias(logits: Tensor, rounds: int = 11) -> Tensor:
    """The bias [C] of Frolic (Zhu et al., NeurIPS 2024). In each round it subtracts the log of the
    prior that is stationary under the predictions' confusions (`stationary_prior`).

    It uses only images whose two largest logits differ by more than 1/C.
    """
    check_many(logits)
    bias = torch.zeros_like(logits[0])
    for _ in range(rounds):
        prior = stationary_prior(logits, bias, margin=1 / logits.shape[1])
        bias = bias + (prior + _LEAST).log().to(logits.dtype)
    return bias


def stationary_prior(logits: Tensor, bias: Tensor, margin: float | None = None) -> Tensor:
    """The prior [C] with prior = P' prior, of sum 1, in double precision.

    Row k of P [C, C] is the mean softmax(z - bias) of the images that are predicted as class k; 0
    if there are none.

    Args: margin: use only images whose two largest logits differ by more; None: all.
    """
    classes = logits.shape[1]
    rows = torch.zeros(classes, classes, dtype=torch.float64, device=logits.device)
    count = torch.zeros(classes, dtype=torch.float64, device=logits.device)
    for chunk in chunks(logits):
        z = chunk - bias
        if margin is not None:
            first, second = z.topk(2, dim=1).values.unbind(dim=1)
            z = z[first - second > margin]
        predicted = z.argmax(dim=1)
        rows.index_add_(0, predicted, z.softmax(dim=1).double())
        count += predicted.bincount(minlength=classes)
    if not count.any():
        raise NerpError(f"no image's two largest logits differ by more than 1/{classes}, so there "
                        "is no stationary prior")
    rows /= count.clamp(min=1)[:, None]
    prior = torch.full_like(count, 1 / classes)
    for _ in range(_POWER_ROUNDS):
        after = rows.t() @ prior
        after /= after.sum()
        if float((after - prior).abs().sum()) < _POWER_TOLERANCE:
            break  # as published, with the prior before this round
        prior = after
    return prior


def labelled_bias(logits: Tensor, labels: Tensor) -> Tensor:
    """The log prior [C], of mean 0, that fits labelled images of the same classes best: argmin over
    log q of the cross entropy of z - log q. (GLA, Zhu et al., NeurIPS 2023.)

    Args: logits: [N, C] of zero-shot CLIP. labels: [N]; each class has an image.
    """
    classes = logits.shape[1]
    if labels.shape != logits.shape[:1]:
        raise NerpError(f"{len(labels)} labels for {len(logits)} images")
    if not ((labels >= 0) & (labels < classes)).all():
        raise NerpError(f"a label is {int(labels.max())}; there are {classes} classes")
    counts = labels.bincount(minlength=classes)
    if not counts.all():
        raise NerpError(f"class {int((counts == 0).nonzero()[0])} has no labelled image, so its "
                        "log prior cannot be fitted")
    return uniform_bias(logits, counts.double() / len(labels))


def adjusted(tuned: Tensor, zero_shot: Tensor, bias: Tensor) -> Tensor:
    """GLA's logits [N, C]: the sum of the tuned and the zero-shot model's, minus the zero-shot
    model's log prior."""
    if tuned.shape != zero_shot.shape:
        raise NerpError(f"tuned logits {tuple(tuned.shape)}, zero-shot {tuple(zero_shot.shape)}")
    check_bias(bias, tuned.shape[1], "log prior")
    return tuned + zero_shot - bias


def normalise_distribution(
    image: Tensor, text: Tensor, image_mean: Tensor, text_mean: Tensor, weight: float = 0.25
) -> Tensor:
    """Cosines [N, C] of features less a part of their means. (DN, Zhou et al., NeurIPS 2023.)

    Args:
        image: [N, D]. text: [C, D]. image_mean, text_mean: [D]. As in the release, all of them are
            the encoders' outputs, not normalised.
    """
    moved = (
        torch.nn.functional.normalize(features - weight * mean, dim=-1)
        for features, mean in ((image, image_mean), (text, text_mean))
    )
    images, texts = moved
    return images @ texts.t()


def mean_prediction(logits: Tensor, bias: Tensor | None = None) -> Tensor:
    """The mean [C] of softmax(z - bias) over N images, in double precision and above 0."""
    total = torch.zeros(logits.shape[1], dtype=torch.float64, device=logits.device)
    for chunk in chunks(logits):
        p = (chunk if bias is None else chunk - bias).softmax(dim=1)
        total += p.sum(dim=0, dtype=torch.float64)
    return (total / len(logits)).clamp(min=torch.finfo(logits.dtype).tiny)
