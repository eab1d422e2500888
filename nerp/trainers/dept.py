"""DePT: a linear head on features that are not normalised, trained beside another method.

`CoOp_DePT` is CoOp with it. Registry names end in `_DePT`, before `_NeRP`.
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
# The methods that it is published on, in the order of the paper; of others there are no files.
_PUBLISHED = ("CoOp", "CoCoOp", "KgCoOp", "MaPLe")
_NO_NAME = "(?!)"  # a pattern that no name matches


class Decoupled(Prefixed):
    """A method with DePT: (1 - w) CE(s f t^T) + w CE_2B + R, R what its loss has besides.

    CE_2B is the mean over 2 B rows: the head's logits of the images' own classes, of a_txt(u), and
    of the images, of a_img(v); u and v are t and f before they are normalised, and a(x) = scale x +
    bias. Where the tested classes are the trained ones the logits are (1 - w) z_s + w z_h, z_h the
    head's of a_img(v); elsewhere they are the method's own, z_s. (docs/methods/dept.md)

    It stands before the method among the bases of a class made by `with_head`. Learned: the
    method's tensors, film_lp_{img,text}.{scale,bias} [D], and linear_probe_proj.weight [C, D] and
    .bias [C] for the C classes that are trained on.
    """

    by_data = (_WEIGHT, _BIAS)
    optional = _ADJUSTED
    two_heads = True
    loss_by_features = True  # but for what the method's own does
    settled = MappingProxyType({
        "OPTIM.STAGED_LR": ("True",), "OPTIM.BASE_LR_MULT": ("1", "1.0"),
        "OPTIM.NEW_LAYERS": ("film linear_probe",),
        "TRAINER.NAMES_TO_UPDATE": ("film linear_probe prompt_learner",),
        "TRAINER.LINEAR_PROBE.TYPE": ("linear",),
        "TRAINER.FILM.LINEAR_PROBE": ("True",),
    })

    names_of_rows: Sequence[str] = ()  # the head's classes, where a checkpoint says them
    in_loss = False  # whether the method's own loss is computed, which is of z_s
    taken_text: Tensor | None = None  # the latest u
    taken_image: tuple[Tensor, Tensor] | None = None  # the latest f, and its v

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
        """The head's logits [B, C], in float32, of "image" or "text" outputs x [B, D]; `rows`:
        those of some classes."""
        scale, bias = (self.learned.get_parameter(f"{_ADJUSTMENT[kind]}.{leaf}")
                       for leaf in ("scale", "bias"))
        weight, offset = map(self.learned.get_parameter, (_WEIGHT, _BIAS))
        return F.linear(x * scale + bias, weight[rows], offset[rows]).float()

    def mixed(self, similarity: Tensor, head: Tensor) -> Tensor:
        """What a class that was trained on is predicted from, of z_s and z_h [B, C]."""
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
        """The head's row of each class that is asked about; None where the head has no part.

        Raises NerpError, with both numbers, where its classes are others than those.
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
            raise NerpError(f"the linear head ({_WEIGHT}) is of {count} classes, the test of "
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
    """The method with DePT. Raises NerpError for one whose loss is not one cross entropy, of logits
    s f t^T, and terms beside it."""
    registered = next((n for n in TRAINERS.names() if TRAINERS[n] is method), method.__name__)
    name = registered + DEPT_SUFFIX
    if not method.has_one_entropy():
        raise NerpError(f"there is no {name}: DePT needs a loss with one cross entropy, of the "
                        f"cosines of an image and class features, and {registered}'s is not that")
    in_learner = method.folder == "prompt_learner"  # of which the files hold that module alone
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
        # A file that does not say whose it is is a published one.
        "unpack": classmethod(lambda cls, content: None),
        "published_file": classmethod(lambda cls, cfg: ""),
        "marks": tuple(marks) if registered in _PUBLISHED else (_NO_NAME,),
    })
