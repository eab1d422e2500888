"""PLOT: optimal transport matches several prompts per class with an image's local features."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.registry import TRAINERS
from nerp.clip.device import in_float32
from nerp.clip.model import Clip, normalise
from nerp.clip.templates import ENSEMBLE_60
from nerp.clip.tokenizer import CONTEXT_LENGTH, Prompts, build_prompts
from nerp.settings.keys import whole
from nerp.trainers.base import Trainer, precision
from nerp.trainers.tensors import EMBEDDING_STD
from nerp.trainers.texts import context_prompts, mean_templates

_COST_SCALE = 0.1  # the entropy's weight
_MOST_ROUNDS = 100
_CLOSE = 0.01  # the iteration ends once the mean change of r is below this
_SUMMED = "ImageNet"  # on this dataset the pooled features' cosine is added to the logits


class Local(NamedTuple):
    """Features of images or of classes, not normalised. locals: the features that are matched,
    v [M, B, D] or u [N, C, D]. pooled: one feature per image [B, D] or per class [C, D]."""

    locals: Tensor
    pooled: Tensor


@torch.no_grad()
def transport_plan(cosines: Tensor, together: bool) -> Tensor:
    """The transport plan T [B, C, M, N] in float32 for cosines S [B, C, M, N].

    Q = exp((S - 1) / 0.1), r = c = 1; r <- (1 / M) / (Q c), then c <- (1 / N) / (Q^T r), at most
    100 times. The last round is the first with a mean |change of r| below 0.01; T = r Q c. With
    `together` this mean is over all images and classes, else over each image's classes. (PLOT,
    section 3.2, with Sinkhorn's algorithm.)
    """
    count, _, places, contexts = cosines.shape
    q = ((cosines - 1) / _COST_SCALE).exp()
    r, c = torch.ones_like(q[..., 0]), torch.ones_like(q[:, :, 0])
    going = torch.ones(1 if together else count, 1, 1, dtype=torch.bool, device=q.device)
    over = (0, 1, 2) if together else (1, 2)
    for _ in range(_MOST_ROUNDS):
        next_r = 1 / (places * (q @ c[..., None])[..., 0])
        next_c = 1 / (contexts * (next_r[..., None, :] @ q)[..., 0, :])
        change = (next_r - r).abs().mean(over, keepdim=True)
        r, c = torch.where(going, next_r, r), torch.where(going, next_c, c)
        going = going & (change >= _CLOSE)
        # On a GPU the host would have to wait for this test. There the other rounds change nothing.
        if q.device.type == "cpu" and not going.any():
            break
    return r[..., None] * q * c[..., None, :]


def transported(locals: Tensor, prompts: Tensor, together: bool) -> Tensor:
    """sum_mn T_mn S_mn [B, C] for v [M, B, D] and u [N, C, D]; T has no gradient. together: as in
    `transport_plan`."""
    with in_float32(locals.device):
        cosines = torch.einsum("mbd,ncd->bcmn", normalise(locals), normalise(prompts))
        plan = transport_plan(cosines.detach(), together)
        return (plan * cosines).sum((2, 3))


class Transport(Trainer):
    """Logits s sum_mn T_mn cos(v_m, u_n). T is the transport plan of an image's M local features v
    and a class's N prompts u. If `summed`, s cos of the pooled features is added. Loss: CE.
    """

    independent = False  # the number of rounds depends on all tested classes

    @property
    @abstractmethod
    def summed(self) -> bool:
        """Whether the pooled features' cosines are added."""

    @abstractmethod
    def local_images(self, images: Tensor) -> Local:
        """Local and pooled features of images [B, 3, H, W]."""

    @abstractmethod
    def local_texts(self) -> Local:
        """Local and pooled features of the classes."""

    @abstractmethod
    def neutral_outputs(self) -> Tensor:
        """The text encoder's outputs [N, D] for the neutral prompt; each context replaces its first
        tokens."""

    def matched(self, image: Local, text: Local, together: bool) -> Tensor:
        """Logits [B, C]. together: as in `transport_plan`."""
        cosines = transported(image.locals, text.locals, together)
        if self.summed:
            with in_float32(cosines.device):
                cosines = cosines + normalise(image.pooled) @ normalise(text.pooled).t()
        return self.scale * cosines

    def classifier(self) -> Callable[[Tensor], Tensor]:
        """A function from images to logits [B, C]. Each image's plan ends by itself, so that its
        prediction does not depend on the other images."""
        text = self.local_texts()
        return lambda images: self.matched(self.local_images(images), text, together=False)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        logits = self.matched(self.local_images(images), self.local_texts(), together=True)
        return self.cross_entropy(logits, labels)

    def class_features(self, images: Tensor | None = None) -> Tensor:
        return normalise(self.local_texts().pooled)

    def image_features(self, images: Tensor) -> Tensor:
        return normalise(self.local_images(images).pooled)

    def frozen_prompts(self) -> list[list[str]]:
        return mean_templates(self.classes, ENSEMBLE_60)

    def tuned_neutral(self) -> Tensor:
        return normalise(self.neutral_outputs().mean(0))


@TRAINERS.register("PLOT")
class PLOT(Transport):
    """N contexts shared by all classes. An image's local features are frozen CLIP's, one per place:
    the attention pool's outputs of a ResNet, or the projected patch tokens of a transformer.

    Learned: ctx [N, K, W_t]. See docs/methods/plot.md.
    """

    node = "PLOT"
    folder = "prompt_learner"
    paper = "Chen et al., PLOT: Prompt Learning with Optimal Transport, ICLR 2023"
    group = "context"
    defaults = {
        "N": whole(4, 1, 1024),
        "N_CTX": whole(16, 1, CONTEXT_LENGTH),
        "PREC": precision("fp16"),
    }
    signature = ("ctx",)
    shape_settings = ("N", "N_CTX")

    @classmethod
    def published_values(cls, key: str, value: object) -> dict[str, object]:
        """Three of CoOp's keys need no action at the only values that the published code supports.
        """
        settled = {"CTX_INIT": ("", "False"), "CSC": ("False",), "CLASS_TOKEN_POSITION": ("end",)}
        return {"": None} if str(value) in settled.get(key, ()) else {}

    @classmethod
    def fits(cls, tensors: Mapping[str, Tensor]) -> bool:
        """Whether ctx has N contexts and, if the file keeps the prompts' first tokens, there are N
        prompts per class."""
        ctx, first = tensors["ctx"], tensors.get("token_prefix")
        if ctx.dim() != 3:
            return False
        return first is None or len(first) > len(ctx) > 1 and len(first) % len(ctx) == 0

    @classmethod
    def infer(
        cls, tensors: Mapping[str, Tensor], settings: CfgNode, clip: Clip
    ) -> dict[str, object]:
        return {"N": len(tensors["ctx"]), "N_CTX": tensors["ctx"].shape[1]}

    def check(self) -> None:
        self.clip.require_tokens(f"TRAINER.NAME {self.node}")

    def initial(self) -> dict[str, Tensor]:
        shape = self.settings.N, self.settings.N_CTX, self.clip.text.width
        return {"ctx": EMBEDDING_STD * torch.randn(shape)}

    def prepare(self) -> None:
        prefix = " ".join(["X"] * self.settings.N_CTX)
        prompts = context_prompts(self.classes, prefix, n_ctx=self.settings.N_CTX)
        self.prompts = prompts.to(self.clip.device)

    @property
    def summed(self) -> bool:
        return self.classes.dataset == _SUMMED

    def encode(self, prompts: Prompts) -> Tensor:
        """Outputs u [N, C, D] of the text encoder for C prompts with N contexts."""
        return self.clip.text.features(self.clip.text_state(prompts, self.parameter("ctx")))

    def local_texts(self) -> Local:
        u = self.encode(self.prompts)
        return Local(u, u.float().mean(0))

    def local_images(self, images: Tensor) -> Local:
        tokens = self.clip.image_tokens(images).transpose(0, 1)
        return Local(tokens[1:], tokens[0])

    def neutral_outputs(self) -> Tensor:
        prompts = build_prompts([self.classes.neutral], n_ctx=self.settings.N_CTX)
        return self.encode(prompts)[:, 0].float()
