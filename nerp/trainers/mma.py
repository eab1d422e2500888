"""MMA: adapters beside the upper layers of both encoders, coupled by a shared projection."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip, normalise
from nerp.clip.state import State
from nerp.clip.tokenizer import Prompts, build_prompts
from nerp.clip.towers import Edit
from nerp.settings.keys import number, whole
from nerp.trainers.base import Trainer, precision
from nerp.trainers.tensors import Tensors
from nerp.trainers.texts import context_prompts, context_words


class _Scale(torch.autograd.Function):
    """Multiplies x by one factor forwards and the gradient by another backwards. Args: ctx:
    torch's context object, which keeps the attributes that are set on it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forwards: float, backwards: float) -> Tensor:
        ctx.backwards = backwards
        return x * forwards

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        backwards: float = ctx.backwards
        return gradient * backwards, None, None


def _scaled(x: Tensor, forwards: float, backwards: float) -> Tensor:
    scaled: Tensor = _Scale.apply(x, forwards, backwards)
    return scaled


class AdapterEdit(Edit):
    """Adds a * up(shared(down(ln_1(x)))) to the output of layers first..last.

    The adapter's parameters get the gradient without the factor a. The gradient that passes on to x
    keeps it. The published learning rates need this at a = 0.001.
    """

    def __init__(self, trainer: "MMA", tower: str):
        self.linear = trainer.apply_linear
        self.tower = tower
        self.first_layer = trainer.settings.ADAPTER_START
        self.last_layer = trainer.settings.ADAPTER_END
        self.scale = trainer.settings.ADAPTER_SCALE

    def branch(self, layer: int, h: Tensor) -> Tensor | None:
        if not self.first_layer <= layer <= self.last_layer:
            return None
        h = _scaled(h, 1.0, self.scale)
        h = F.relu(self.linear(f"{self.tower}_adapter.{layer}.down.0", h))
        h = F.relu(self.linear(f"shared_adapter.{layer}.0", h))
        return _scaled(self.linear(f"{self.tower}_adapter.{layer}.up", h), self.scale, 1.0)


@TRAINERS.register("MMA", "MultiModalAdapter")
class MMA(Trainer):
    """Multi-modal adapter: each encoder and layer has its own `down` and `up`; both encoders use
    the same `shared` in a layer.

    Loss: CE(s f tᵀ). See docs/methods/mma.md.

    Learned, for each layer l: {text,visual}_adapter.l.{down.0,up} and shared_adapter.l.0.
    """

    node = "MMADAPTER"
    folder = "adapter_learner"
    paper = "Yang et al., MMA: Multi-Modal Adapter for Vision-Language Models, CVPR 2024"
    group = "adapters"
    edits = ("text", "image")
    defaults = {
        "TEXT_CTX_INIT": "a photo of a",
        "ADAPTER_START": whole(5, 1),
        "ADAPTER_END": whole(12, 1),
        "ADAPTER_DIM": whole(32, 1, 8192),
        "ADAPTER_SCALE": number(0.001),
        "PREC": precision("amp"),
    }
    signature = (r"shared_adapter\.\d+\.0\.weight",)
    shape_settings = tuple(key for key in defaults if key != "PREC")
    one_entropy = True

    @classmethod
    def infer(cls, tensors: Tensors, settings: CfgNode, clip: Clip) -> dict[str, object]:
        layers = {int(n.split(".")[1]) for n in tensors if n.startswith("shared_adapter.")}
        width = tensors[f"shared_adapter.{min(layers)}.0.weight"].shape[0]
        return {
            "ADAPTER_START": min(layers), "ADAPTER_END": max(layers), "ADAPTER_DIM": width
        }

    def check(self) -> None:
        first, last = self.settings.ADAPTER_START, self.settings.ADAPTER_END
        depth = min(self.clip.image.depth, self.clip.text.depth)
        if not 1 <= first <= last <= depth:
            raise NerpError(f"TRAINER.MMADAPTER: ADAPTER_START {first} to ADAPTER_END {last} do "
                            f"not lie within this backbone's {depth} layers")

    def initial(self) -> dict[str, Tensor]:
        dim = self.settings.ADAPTER_DIM
        towers = {"text": self.clip.text.width, "visual": self.clip.image.width}
        shapes = {}
        for layer in range(self.settings.ADAPTER_START, self.settings.ADAPTER_END + 1):
            for tower, width in towers.items():
                shapes[f"{tower}_adapter.{layer}.down.0"] = (dim, width)
                shapes[f"{tower}_adapter.{layer}.up"] = (width, dim)
            shapes[f"shared_adapter.{layer}.0"] = (dim, dim)
        tensors = {}
        for name, shape in shapes.items():
            tensors[f"{name}.weight"] = nn.init.kaiming_normal_(
                torch.empty(shape), mode="fan_out", nonlinearity="relu"
            )
            tensors[f"{name}.bias"] = torch.zeros(shape[0])
        return tensors

    def prepare(self) -> None:
        prefix = context_words(self.settings.TEXT_CTX_INIT)
        self.text_state = self.constant_text(context_prompts(self.classes, prefix))

    def constant_text(self, prompts: Prompts) -> State:
        """The input of the first adapted layer, which no learned tensor changes."""
        state: State = self.clip.text_state(prompts, layer=self.settings.ADAPTER_START)
        return state

    def class_features(self, images: Tensor | None = None) -> Tensor:
        edit = AdapterEdit(self, "text")
        return self.text_of(self.clip.text.features(self.text_state, edit))[0]

    def image_features(self, images: Tensor) -> Tensor:
        edit = AdapterEdit(self, "visual")
        state = self.clip.image_state(images, edit.first_layer)
        return self.image_of(self.clip.image.features(state, edit))

    def frozen_prompts(self) -> list[list[str]]:
        prefix = context_words(self.settings.TEXT_CTX_INIT)
        return [[f"{prefix} {name}."] for name in self.classes.names]

    def tuned_neutral(self) -> Tensor:
        state = self.constant_text(build_prompts([self.classes.neutral]))
        return normalise(self.clip.text.features(state, AdapterEdit(self, "text")))[0, 0]
