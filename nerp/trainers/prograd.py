"""ProGrad: CoOp without the part of its gradient that opposes distillation from zero-shot CLIP."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.distributed import mean_over_processes
from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip
from nerp.settings.keys import number
from nerp.trainers.base import context_settings
from nerp.trainers.kgcoop import NearTemplate
from nerp.trainers.texts import context_start, context_words

FROM_TEMPLATE = "template"  # the CTX_INIT that stands for the words of the dataset's template


def project(gradient: Tensor, other: Tensor, share: float) -> Tensor:
    """`gradient` minus `share` times its component against `other`; both have the same shape.

    Each is treated as one vector. If they do not conflict, or `other` is 0, the result is
    `gradient`. If one has non-finite numbers, so has the result. (Zhu et al. 2023, section 3.2.)
    """
    direction = F.normalize(other.flatten(), dim=0)
    against = (gradient.flatten() @ direction).clamp(max=0)
    return gradient - share * against * direction.view_as(gradient)


@TRAINERS.register("ProGrad")
class ProGrad(NearTemplate):
    """Loss: CE(s f tᵀ, y). Its gradient a loses λ times its component against b. b is the gradient
    of T² CE(softmax(z / T), softmax(z° / T)), z° being zero-shot CLIP's logits.

    Learned: ctx [K, W_t], from zeros and the words of the dataset's template; with CSC and a random
    start [C, K, W_t]. See docs/methods/prograd.md.
    """

    node = "PROGRAD"
    published = ("COOP", "LOSS")
    paper = "Zhu et al., Prompt-aligned Gradient for Prompt Tuning, ICCV 2023"
    defaults = {
        **context_settings(16, FROM_TEMPLATE),
        "CSC": False,
        "LAMBDA": number(1.0, least=0),
        "T": number(1.0, above=0),
    }
    templates = {
        "OxfordPets": "a type of pet, a photo of a {}.",
        "OxfordFlowers": "a type of flower, a photo of a {}.",
        "FGVCAircraft": "a type of aircraft, a photo of a {}.",
        "DescribableTextures": "a texture of {}.",
        "Food101": "a type of food, a photo of {}.",
    }

    loss_by_features = True

    conflicting: Tensor | None = None  # b of the latest loss in this process, not normalised

    @classmethod
    def published_values(cls, key: str, value: object) -> dict[str, object]:
        """CTX_INIT True means the template's words. GM, ALPHA and NAME prograd have no effect in
        the published code."""
        if key == "CTX_INIT" and str(value) in ("True", "False"):
            return {key: FROM_TEMPLATE if str(value) == "True" else ""}
        if key in ("GM", "ALPHA") or (key, value) == ("NAME", "prograd"):
            return {"": None}
        return super().published_values(key, value)

    @classmethod
    def infer(
        cls, tensors: Mapping[str, Tensor], settings: CfgNode, clip: Clip
    ) -> dict[str, object]:
        inferred = super().infer(tensors, settings, clip)
        if settings.CTX_INIT == FROM_TEMPLATE and not inferred["CSC"]:
            inferred["CTX_INIT"] = FROM_TEMPLATE
        return inferred

    def check(self) -> None:
        words = len(self.words.split())
        if self.from_template and words > self.n_ctx:
            raise NerpError(f"TRAINER.PROGRAD.N_CTX is {self.n_ctx}; the template of "
                            f"{self.classes.dataset}, {self.template!r}, has {words} words before "
                            "the name: N_CTX takes at least as many")

    @property
    def from_template(self) -> bool:
        return bool(self.settings.CTX_INIT == FROM_TEMPLATE)

    @property
    def class_specific(self) -> bool:
        return super().class_specific and not self.from_template

    @property
    def words(self) -> str:
        if self.from_template:
            return context_words(self.template.partition("{}")[0])
        return super().words

    @property
    def n_ctx(self) -> int:
        return int(self.settings.N_CTX) if self.from_template else super().n_ctx

    @property
    def prefix(self) -> str:
        """Placeholders and then the template's words, as many as N_CTX in all. A comma is a token
        but not a word; with a comma the last word therefore follows the context."""
        if not self.from_template:
            return super().prefix
        return " ".join(["X"] * (self.n_ctx - len(self.words.split())) + [self.words])

    def initial(self) -> dict[str, Tensor]:
        if not self.from_template:
            return super().initial()
        count = len(self.words.split())
        words = context_start(self.clip, self.words, count)
        return {"ctx": F.pad(words, (0, 0, self.n_ctx - count, 0))}

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        image = self.image_features(images)
        logits = self.similarity(image, self.class_features())
        if logits.requires_grad:
            frozen = self.similarity(image, self.frozen_class_features())
            ctx = [self.parameter("ctx")]
            (self.conflicting,) = torch.autograd.grad(
                self.alignment(logits, frozen), ctx, retain_graph=True)
        return self.cross_entropy(logits, labels)

    def alignment(self, logits: Tensor, frozen: Tensor) -> Tensor:
        """The distillation loss A of logits z and z° [B, C], a scalar. It is a sum over images, so
        that those of several processes add up; the norm of its gradient is not used."""
        temperature = float(self.settings.T)
        target = (frozen / temperature).softmax(1)
        return temperature**2 * F.cross_entropy(logits / temperature, target, reduction="sum")

    def change_gradients(self) -> None:
        ctx = self.parameter("ctx")
        assert self.conflicting is not None and ctx.grad is not None  # both of this step
        other = mean_over_processes(self.conflicting)
        ctx.grad = project(ctx.grad, other, self.settings.LAMBDA)
