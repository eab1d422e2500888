"""LP++: a linear probe on frozen image features, blended with each class's text feature."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.base.registry import TRAINERS
from nerp.clip.device import in_float64
from nerp.clip.model import normalise
from nerp.settings.keys import choice, number, whole
from nerp.trainers.base import precision
from nerp.trainers.linear import LinearClassifier
from nerp.trainers.on_features import Images
from nerp.trainers.votes import columns_by_name
from nerp.trainers.voting import FrozenText, validation_images

_INIT = 250.0  # the initial α, as a multiple of the mean cosine of an image and its class
_MOMENTUM = 0.9
_ALPHA_EVERY = 10


def start(
    features: Tensor, labels: Tensor, text: Tensor, init: float = _INIT
) -> tuple[Tensor, float]:
    """The initial weight [C, D], the sum of each class's image features, and the initial α.

    Args:
        features: of the training images [N, D]; they are normalised here. labels: [N].
        text: t [C, D], normalised. init: α is this times the mean cosine.

    A class without images has weight 0 and does not contribute to α.
    (Huang et al. 2024, section 3.3, and the published code.)
    """
    features = normalise(features)
    weight = torch.zeros_like(text).index_add(0, labels, features)
    counts = torch.bincount(labels, minlength=len(text))
    own = in_float64(features * text[labels]).sum(1)
    counts, labels = counts.to(own.device), labels.to(own.device)
    sums = own.new_zeros(len(text)).index_add(0, labels, own)
    there = counts > 0
    return weight, init * float((sums[there] / counts[there]).mean())


def step_sizes(features: Tensor, text: Tensor) -> tuple[float, float]:
    """The step size of weight and bias, 4 N / λ_max(FᵀF), and α's, N / (4 max_c Σ_i (f_i · t_c)²).

    Args: as in `start`. (Section 3.2.)
    """
    features, text = in_float64(normalise(features)), in_float64(text)
    count = len(features)
    largest = torch.linalg.eigvalsh(features.t() @ features)[-1]
    squares = (features @ text.t()).square().sum(0)
    return 4 * count / float(largest), count / (4 * float(squares.max()))


def logits(features: Tensor, text: Tensor, weight: Tensor, bias: Tensor, alpha: Tensor) -> Tensor:
    """Logits [B, C]: f weightᵀ + bias + α ⊙ (f tᵀ), with normalised f [B, D] and t [C, D]."""
    return F.linear(features, weight, bias) + alpha * (features @ text.t())


def fit(
    features: Tensor, labels: Tensor, text: Tensor, bias: Tensor, epochs: int,
    val_features: Tensor | None = None, val_labels: Tensor | None = None,
    init: float = _INIT, alpha_every: int = _ALPHA_EVERY,
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Weight [C, D], bias [C], α [C] and their epoch, from 0, after full-batch steps on the cross
    entropy. It is the last of the epochs with the best validation accuracy; without validation
    images it is the last epoch.

    Args:
        features, labels, text, init: as in `start`. bias: the initial bias [C].
        val_features: [V, D], normalised. val_labels: [V].
        alpha_every: the epochs between two steps of α. A step uses the sum of the gradients of all
            epochs so far, because the published code never resets them.
    """
    # In double precision, because momentum accumulates the rounding errors of hundreds of steps.
    features, kind = normalise(features), bias.dtype
    first_weight, first = start(features, labels, text, init)
    rate, alpha_rate = step_sizes(features, text)
    features, text = in_float64(features), in_float64(text)
    weight, bias, labels = in_float64(first_weight), in_float64(bias), labels.to(features.device)
    alpha = torch.full_like(bias, first)
    blend, truth = features @ text.t(), F.one_hot(labels, len(text))
    held = None
    if val_features is not None and val_labels is not None and len(val_labels):
        held = in_float64(val_features), val_labels.to(features.device)
    weight_speed, bias_speed = torch.zeros_like(weight), torch.zeros_like(bias)
    alpha_gradient = torch.zeros_like(alpha)
    best, most = (weight, bias, alpha, -1), -1
    for epoch in range(epochs):
        predicted = (F.linear(features, weight, bias) + alpha * blend).softmax(1)
        error = (predicted - truth) / len(features)  # the loss's gradient in the logits
        alpha_gradient += (error * blend).sum(0)
        weight_speed = _MOMENTUM * weight_speed + error.t() @ features
        bias_speed = _MOMENTUM * bias_speed + error.sum(0)
        weight, bias = weight - rate * weight_speed, bias - rate * bias_speed
        if (epoch + 1) % alpha_every == 0:
            alpha = alpha - alpha_rate * alpha_gradient
        right = 0
        if held:
            found = logits(held[0], text, weight, bias, alpha)
            right = int((found.argmax(1) == held[1]).sum())
        if right >= most:
            best, most = (weight, bias, alpha, epoch), right
    return best[0].to(kind), best[1].to(kind), best[2].to(kind), best[3]


@TRAINERS.register("LPpp")
class LPpp(FrozenText):
    """Logits f weightᵀ + bias + α ⊙ (f tᵀ) on trained classes and 100 f tᵀ on others; f and t are
    frozen CLIP's.

    Learned: weight [C, D], bias [C], alpha [C], by full-batch steps whose sizes follow from the
    features. See docs/methods/lppp.md.
    """

    node = "LPPP"
    folder = "lppp"
    paper = "Huang et al., LP++: A Surprisingly Strong Linear Probe, CVPR 2024"
    defaults = {
        "SEARCH": choice("val", "none"),
        "ALPHA_EVERY": whole(_ALPHA_EVERY, 1, 10**6),
        "INIT": number(_INIT, least=0),
        "PREC": precision("fp16"),
    }
    signature = ("weight", "bias", "alpha")
    by_data = ("weight", "bias", "alpha")
    plain = ("best_epoch",)
    best_epoch = 0  # counted from 1

    @classmethod
    def fits(cls, tensors: Mapping[str, Tensor]) -> bool:
        weight, bias, alpha = (tensors[name] for name in cls.signature)
        return weight.dim() == 2 and (len(weight),) == bias.shape == alpha.shape

    def initial(self) -> dict[str, Tensor]:
        layer = torch.nn.Linear(self.clip.embed_dim, len(self.classes.names))
        return {"weight": torch.zeros(layer.weight.shape), "bias": layer.bias,
                "alpha": torch.zeros(layer.bias.shape)}

    @property
    def epochs(self) -> int:
        return int(self.cfg.OPTIM.MAX_EPOCH)

    def build(self, images: Images) -> None:
        held = validation_images(images, self.settings.SEARCH)
        val_features, val_labels = (None, None) if held is None else (normalise(held[0]), held[1])
        with torch.no_grad():
            weight, bias, alpha, epoch = fit(
                images.drawn(0), images.labels("train"), self.class_features(),
                self.tensor("bias"), self.epochs, val_features, val_labels, self.settings.INIT,
                self.settings.ALPHA_EVERY,
            )
        self.best_epoch = epoch + 1
        self.learn({"weight": weight, "bias": bias, "alpha": alpha})
        say(f"epoch {self.best_epoch} of {self.epochs} is kept"
            + (", the last" if held is None else ", the best on validation images"))

    def plain_values(self) -> dict[str, object]:
        return {"best_epoch": self.best_epoch}

    def recall(self, trained: Sequence[str], plain: Mapping[str, object]) -> None:
        epoch = plain.get("best_epoch", 0)
        self.best_epoch = epoch if type(epoch) is int else 0
        super().recall(trained, plain)

    def check_tensors(self) -> None:
        if len(self.tensor("weight")) != len(self.trained):
            raise ValueError("its rows are not those of its classes")

    def rows(self) -> Tensor | None:
        """The rows of the tested classes; None if none of them was trained on. Raises NerpError if
        only some of them were."""
        places = torch.arange(len(self.classes.names), device=self.clip.device)
        found = columns_by_name(places, self.classes.names, self.trained)
        unknown = int((found < 0).sum())
        if 0 < unknown < len(found):
            raise NerpError(f"LPpp was trained on {len(found) - unknown} of the {len(found)} "
                            "classes: its logits and zero-shot CLIP's have no common scale; test "
                            "the two kinds apart (DATASET.SUBSAMPLE_CLASSES)")
        return None if unknown else found

    @property
    def about_classes(self) -> str:
        return "" if self.rows() is not None else \
            "no tested class was trained on; the logits are zero-shot CLIP's"

    def of_features(self) -> Callable[[Tensor], Tensor]:
        return self.linear_classifier().logits

    def linear_classifier(self) -> LinearClassifier:
        text, rows = self.class_features(), self.rows()
        if rows is None:
            return LinearClassifier.cosine(text, self.scale)
        weight, bias, alpha = (self.tensor(name)[rows] for name in self.signature)
        return LinearClassifier(weight + alpha[:, None] * text, 1.0, bias)
