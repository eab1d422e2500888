"""MaPLe: deep prompts in the text encoder, and linear maps of them in the image encoder."""

import re
from collections.abc import Mapping

from torch import Tensor
from yacs.config import CfgNode

from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip
from nerp.settings.keys import whole
from nerp.trainers.base import context_settings
from nerp.trainers.deep import DeepPrompts
from nerp.trainers.tensors import Tensors, linear, random_tokens

_CTX, _PROJ = "prompt_learner.ctx", "prompt_learner.proj"
_TEXT = "prompt_learner.compound_prompts_text.{}"
_MAP = "prompt_learner.compound_prompt_projections.{}"


@TRAINERS.register("MaPLe")
class MaPLe(DeepPrompts):
    """Loss: CE(s f t^T, y). The vision prompts of layer 1 are proj(ctx). Those of layer l = 2..J
    are compound_prompt_projections.(l - 2) applied to compound_prompts_text.(l - 2).

    Learned, below prompt_learner: ctx [K, W_t], proj, compound_prompts_text.i [K, W_t] and
    compound_prompt_projections.i, Linears W_t -> W_v. See docs/methods/maple.md.
    """

    node = "MAPLE"
    folder = "MultiModalPromptLearner"
    paper = "Khattak et al., MaPLe: Multi-modal Prompt Learning, CVPR 2023"
    group = "deep"
    defaults = {
        **context_settings(2, "a photo of a"),
        "PROMPT_DEPTH": whole(9, 1, 512),
    }
    signature: tuple[str, ...] = (re.escape(_CTX), re.escape(_PROJ) + r"\.weight")
    shape_settings = ("N_CTX", "CTX_INIT", "PROMPT_DEPTH")
    one_entropy = True

    @classmethod
    def infer(cls, tensors: Tensors, settings: CfgNode, clip: Clip) -> dict[str, object]:
        deep = re.compile(re.escape(_TEXT.format("")) + r"\d+")
        return {
            "N_CTX": len(tensors[_CTX]),
            "PROMPT_DEPTH": 1 + sum(deep.fullmatch(name) is not None for name in tensors),
        }

    @property
    def deep_layers(self) -> range:
        """Layers 2..J; an encoder ignores the layers that it does not have."""
        return range(2, self.settings.PROMPT_DEPTH + 1)

    def initial(self) -> dict[str, Tensor]:
        text, image = self.clip.text.width, self.clip.image.width
        tensors = {_CTX: self.first_context(), **linear(image, text, _PROJ)}
        for layer in self.deep_layers:
            tensors[_TEXT.format(layer - 2)] = random_tokens(self.n_ctx, text)
        first = linear(image, text, "")  # every deep map starts as a copy of this one
        for layer in self.deep_layers:
            tensors |= {_MAP.format(layer - 2) + name: t for name, t in first.items()}
        return tensors

    def prepare(self) -> None:
        super().prepare()
        # A tensor that no encoder uses gets no gradient; several processes would wait for it.
        text, image = self.clip.text.depth, self.clip.image.depth
        for layer in self.deep_layers:
            self.parameter(_TEXT.format(layer - 2)).requires_grad_(layer <= max(text, image))
            self.learned.get_submodule(_MAP.format(layer - 2)).requires_grad_(layer <= image)

    def text_tokens(self) -> Mapping[int, Tensor]:
        return {layer: self.parameter(_TEXT.format(layer - 2)) for layer in self.deep_layers}

    def vision_tokens(self) -> Mapping[int, Tensor]:
        deep = {
            layer: self.apply_linear(_MAP.format(layer - 2), tokens)
            for layer, tokens in self.text_tokens().items()
        }
        return {1: self.apply_linear(_PROJ, self.parameter(_CTX)), **deep}
