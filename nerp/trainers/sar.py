"""SAR: a term that preserves the similarities among classes, added to another method's loss.

`CoOp_SAR` is CoOp with SAR. Registry names end in `_SAR`, before `_NeRP`.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.device import in_float32, send
from nerp.clip.model import Clip, normalise
from nerp.clip.templates import ENSEMBLE_7
from nerp.settings.protocols import SAR_SUFFIX
from nerp.trainers.base import Trainer
from nerp.trainers.sar_names import novel_names
from nerp.trainers.tensors import NO_TENSORS, Tensors, epoch_seed
from nerp.trainers.texts import Classes, mean_of_normalised

# Dataset -> the eighth template of T*, if it differs from the one in the dataset's card.
_TEMPLATES = {
    "FGVCAircraft": "a photo of an aircraft {}.",
    "DescribableTextures": "a photo of a {}, a type of texture.",
}


def draw(classes: int, samples: int, generator: torch.Generator) -> Tensor:
    """S [M, n], on the CPU: for each of M classes, n = min(samples, M - 1) other classes, drawn
    uniformly without replacement."""
    count = min(samples, classes - 1)
    if count == classes - 1:
        others = torch.arange(count).expand(classes, -1)
        return others + (others >= torch.arange(classes)[:, None])
    keys = torch.rand(classes, classes, generator=generator).fill_diagonal_(-1)
    return keys.topk(count).indices


def alignment(learned: Tensor, frozen: Tensor, indices: Tensor, scale: float) -> Tensor:
    """L_SAR, a scalar: the mean over the rows i of KL(P*_i || P_i). P_i is the softmax of
    scale * cos(t_i, t_j) over j in S_i; P*_i is the same of the frozen features.

    Args:
        learned, frozen: T and T* [M, D]; they are normalised here. indices: S [M, n].
    """
    with in_float32(learned.device):
        own, target = (
            (scale * x @ x.t()).gather(1, indices).log_softmax(1)
            for x in (normalise(learned), normalise(frozen))
        )
        return F.kl_div(own, target, reduction="sum", log_target=True) / len(learned)


class Aligned(Trainer):
    """A method with SAR's term. Loss: the method's own + λ L_SAR. (docs/methods/sar.md)

    `with_alignment` lists it before the method among a class's bases. Trained and novel names are
    encoded together; the method's own loss uses only the trained ones. Learned tensors and
    checkpoint are the method's.
    """

    loss_by_features = True  # the method's own loss decides besides
    shared_features: Tensor | None = None  # t [C, D] while the method's own loss is computed

    def __init__(
        self, cfg: CfgNode, clip: Clip, classes: Classes, tensors: Tensors | None = None,
        start: Tensors = NO_TENSORS,
    ):
        self.generator = torch.Generator()
        super().__init__(cfg, clip, classes, tensors, start)
        self.sar = cfg.TRAINER.SAR
        self.novel = novel_names(cfg, classes.names)
        names = (*classes.names, *self.novel.names)
        self.everyone = self.for_classes(replace(classes, names=names))
        template = _TEMPLATES.get(classes.dataset, classes.template)
        with clip.autocast():
            self.frozen = mean_of_normalised(clip, names, [*ENSEMBLE_7, template])
        self.start_epoch(0)

    def check(self) -> None:
        super().check()
        if getattr(self, "class_specific", False):
            raise NerpError(f"TRAINER.{self.node}.CSC: SAR needs a context that serves any name; "
                            "a novel class has none of its own")

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.generator = torch.Generator().manual_seed(epoch_seed(self.cfg.SEED, epoch))

    def class_features(self, images: Tensor | None = None) -> Tensor:
        if self.shared_features is not None:
            return self.shared_features
        return super().class_features(images)  # type: ignore[safe-super]  # a method's

    def loss(self, images: Tensor, labels: Tensor, *views: Tensor) -> Tensor:
        if not self.sar.WEIGHT:
            return super().loss(images, labels, *views)
        features = self.everyone.class_features()
        self.shared_features = features[: len(self.classes.names)]
        own = super().loss(images, labels, *views)
        self.shared_features = None
        indices = draw(len(features), self.sar.SAMPLES, self.generator)
        indices = send(indices, features.device)
        term = alignment(features, self.frozen, indices, self.clip.scale)
        return own + float(self.sar.WEIGHT) * term

    def account(self, untrained: Callable[[], Collection[str]]) -> dict[str, object]:
        return {"sar": {
            "weight": self.sar.WEIGHT,
            "samples": min(self.sar.SAMPLES, len(self.frozen) - 1),
            "novel_list": self.novel.source,
            "novel_names": len(self.novel.names),
            "equal_to_a_test_class": self.novel.equal_to(untrained()),
        }}


@TRAINERS.suffix(SAR_SUFFIX)
@cache
def with_alignment(method: type[Trainer]) -> type[Trainer]:
    """The method with SAR's term. Raises NerpError if the method does not learn one feature per
    class."""
    name = method.__name__ + SAR_SUFFIX
    if not method.folder:
        raise NerpError(f"there is no {name}: {method.__name__} learns nothing")
    if method.on_features:
        raise NerpError(f"there is no {name}: {method.__name__} learns from features that are "
                        "encoded once, and its class features do not change")
    if not method.learns_text:
        raise NerpError(f"there is no {name}: {method.__name__} learns nothing of a novel class")
    if method.text_by_image:
        raise NerpError(f"there is no {name}: a class of {method.__name__} has no feature of its "
                        "own, only one for each image")
    return type(name, (Aligned, method), {"__doc__": Aligned.__doc__, "__module__": __name__})
