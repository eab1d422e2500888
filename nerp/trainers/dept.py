"""DePT: a linear head on unnormalised features, trained together with another method.

`CoOp_DePT` is CoOp with DePT. Registry names end in `_DePT`, before `_NeRP`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip
from nerp.data.benchmark import comparable
from nerp.settings.protocols import DEPT_SUFFIX
from nerp.trainers.base import Trainer
from nerp.trainers.prefixed import Prefixed
from nerp.trainers.tensors import linear
from nerp.trainers.texts import Classes

_WEIGHT, _BIAS = "linear_probe_proj.weight", "linear_probe_proj.bias"
_ADJUSTMENT = {"image": "film_lp_img", "text": "film_lp_text"}
_ADJUSTED = tuple(f"{name}.{leaf}" for name in _ADJUSTMENT.values() for leaf in ("scale", "bias"))
# The methods that DePT is published with, in the paper's order; others have no published files.
_PUBLISHED = ("CoOp", "CoCoOp", "KgCoOp", "MaPLe")
_NO_NAME = "(?!)"  # a pattern that no name matches


class Decoupled(Prefixed):
    """A method with DePT. Loss: (1 - w) CE(s f t^T) + w CE_2B + R, R the method's other terms.

    CE_2B is the mean of 2 B cross entropies of the head's logits: of a_img(v) of the B images and
    of a_txt(u) of their classes. u and v are t and f before normalisation; a(x) = scale x + bias.
    On trained classes the logits are (1 - w) z_s + w z_h, z_s the method's own and z_h the head's
    of a_img(v). On others they are z_s. (docs/methods/dept.md)

    `with_head` lists it before the method among a class's bases. Learned: the method's tensors,
    film_lp_{img,text}.{scale,bias} [D], and linear_probe_proj.weight [C, D] and .bias [C] for the C
    trained classes.
    """

    by_data = (_WEIGHT, _BIAS)
    optional = _ADJUSTED
    two_heads = True
    loss_by_features = True  # the method's own loss decides besides
    settled = MappingProxyType({
        "OPTIM.STAGED_LR": ("True",), "OPTIM.BASE_LR_MULT": ("1", "1.0"),
        "OPTIM.NEW_LAYERS": ("film linear_probe",),
        "TRAINER.NAMES_TO_UPDATE": ("film linear_probe prompt_learner",),
        "TRAINER.LINEAR_PROBE.TYPE": ("linear",),
        "TRAINER.FILM.LINEAR_PROBE": ("True",),
    })

    names_of_rows: Sequence[str] = ()  # the head's classes, if the checkpoint names them
    in_loss = False  # whether the method's own loss, which uses z_s alone, is being computed
    taken_text: Tensor | None = None  # the latest u
    taken_image: tuple[Tensor, Tensor] | None = None  # the latest f and its v

    def __init__(
        self, cfg: CfgNode, clip: Clip, classes: Classes,
        tensors: Mapping[str, Tensor] | None = None,
        start: Mapping[str, Tensor] = MappingProxyType({}),
    ):
        self.dept = cfg.TRAINER.DEPT
        super().__init__(cfg, clip, classes, tensors, start)

    def initial(self) -> dict[str, Tensor]:
        width, classes = self.clip.embed_dim, len(self.classes.names)
        tensors = super().initial() | linear(classes, width, _WEIGHT.removesuffix(".weight"))
        for name in _ADJUSTMENT.values():
            tensors |= {f"{name}.scale": torch.ones(width), f"{name}.bias": torch.zeros(width)}
        return tensors

    def rate_factor(self, name: str) -> float:
        if name in (_WEIGHT, _BIAS, *_ADJUSTED):
            return float(self.dept.LR_FACTOR)
        return super().rate_factor(name)

    def text_of(self, u: Tensor) -> Tensor:
        self.taken_text = u
        return super().text_of(u)

    def image_of(self, v: Tensor) -> Tensor:
        f = super().image_of(v)
        self.taken_image = f, v
        return f

    def head(self, kind: str, x: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """The head's logits [B, C], in float32. kind: "image" or "text", the encoder whose outputs
        x [B, D] are. rows: the classes whose logits are needed."""
        scale, bias = (self.learned.get_parameter(f"{_ADJUSTMENT[kind]}.{leaf}")
                       for leaf in ("scale", "bias"))
        weight, offset = map(self.learned.get_parameter, (_WEIGHT, _BIAS))
        return F.linear(x * scale + bias, weight[rows], offset[rows]).float()

    def mixed(self, similarity: Tensor, head: Tensor) -> Tensor:
        """The logits [B, C] of trained classes, from z_s and z_h, [B, C] each."""
        weight = self.dept.WEIGHT
        return (1 - weight) * similarity + weight * head if self.dept.FUSION else head

    def loss(self, images: Tensor, labels: Tensor, *views: Tensor) -> Tensor:
        self.in_loss = True
        try:
            return super().loss(images, labels, *views)
        finally:
            self.in_loss, self.taken_text, self.taken_image = False, None, None

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(1 - w) CE + w CE_2B, a scalar, of the method's own logits [B, C]."""
        assert self.taken_text is not None and self.taken_image is not None
        text = self.taken_text.expand(len(labels), -1, -1)  # [C, D], or [1 or B, C, D]
        place = labels[:, None, None].expand(-1, 1, text.shape[-1])
        of_text = self.head("text", text.gather(1, place)[:, 0])
        of_image = self.head("image", self.taken_image[1])
        self.count_right(self.mixed(logits, of_image), labels)
        head = (F.cross_entropy(of_text, labels) + F.cross_entropy(of_image, labels)) / 2
        weight = float(self.dept.WEIGHT)
        return (1 - weight) * F.cross_entropy(logits, labels) + weight * head

    def rows(self) -> Sequence[int] | None:
        """The head's row of each tested class; None if the head is not used.

        Raises NerpError, with both numbers of classes, if the head lacks a tested class.
        """
        asked, count = self.classes, len(self.learned.get_parameter(_WEIGHT))
        if self.dept.FUSION and not self.dept.WEIGHT:
            return None
        if asked.within and asked.within.total == count:
            return asked.within.places
        if not (asked.seen or asked.within):
            return None
        if len(asked.names) == count and not asked.within:
            return range(count)
        places = {comparable(name): i for i, name in enumerate(self.names_of_rows)}
        found = [places.get(comparable(name)) for name in asked.names]
        rows = [place for place in found if place is not None]
        if asked.within or len(rows) < len(found):
            among = f" of {asked.within.total}" if asked.within else ""
            raise NerpError(f"the linear head ({_WEIGHT}) has {count} classes, the test has "
                            f"{len(asked.names)}{among}: it serves the classes that it was "
                            "trained on; TRAINER.DEPT.WEIGHT 0 leaves it out")
        return rows

    def recall(self, trained: Sequence[str], plain: Mapping[str, object]) -> None:
        super().recall(trained, plain)
        weight, bias = map(self.learned.get_parameter, (_WEIGHT, _BIAS))
        if len(weight) != len(bias) or trained and len(trained) != len(weight):
            raise ValueError(f"{_WEIGHT}, {_BIAS} and classnames are of different numbers")
        self.names_of_rows = trained
        self.rows()

    def feature_classifier(self) -> Callable[[Tensor], Tensor]:
        similarity = super().feature_classifier()
        rows = None if self.in_loss else self.rows()
        if rows is None:
            return similarity
        kept = torch.tensor(list(rows), device=self.clip.device)

        def logits(features: Tensor) -> Tensor:
            assert self.taken_image is not None
            f, v = self.taken_image
            assert f is features, "features without what they were before they were normalised"
            return self.mixed(similarity(features), self.head("image", v, kept))

        return logits


@TRAINERS.suffix(DEPT_SUFFIX, **{f"ExtrasLinearProbe{name}": name + DEPT_SUFFIX
                                 for name in _PUBLISHED})
@cache
def with_head(method: type[Trainer]) -> type[Trainer]:
    """The method with DePT. Raises NerpError if the method's loss is not one cross entropy of
    logits s f t^T plus other terms."""
    registered = next((n for n in TRAINERS.names() if TRAINERS[n] is method), method.__name__)
    name = registered + DEPT_SUFFIX
    if not method.has_one_entropy():
        raise NerpError(f"there is no {name}: DePT needs a loss with one cross entropy, of the "
                        f"cosines of an image and class features, and {registered}'s is not that")
    in_learner = method.folder == "prompt_learner"  # then a file holds that module alone
    named = any(pattern.startswith("prompt_learner") for pattern in method.signature)
    prefix = "prompt_learner." if in_learner and not named else ""
    told, marks = ([re.escape(prefix) + pattern for pattern in patterns]
                   for patterns in (method.signature, method.marks))
    return type(name, (Decoupled, method), {
        "__doc__": Decoupled.__doc__,
        "__module__": __name__,
        "own_prefix": prefix or getattr(method, "own_prefix", ""),
        "folder": "PromptLearner" if in_learner else method.folder,
        "paper": "Zhang et al., DePT: Decoupled Prompt Tuning, CVPR 2024",
        "signature": (re.escape(_WEIGHT), *told),
        # A file that does not name its method is a published one.
        "unpack": classmethod(lambda cls, content: None),
        "published_file": classmethod(lambda cls, cfg: ""),
        "marks": tuple(marks) if registered in _PUBLISHED else (_NO_NAME,),
    })
