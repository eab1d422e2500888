"""PromptSRC: deep prompts in both encoders, regularised towards frozen CLIP."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip, normalise
from nerp.clip.tokenizer import CONTEXT_LENGTH
from nerp.settings.keys import number, whole
from nerp.trainers.base import precision
from nerp.trainers.deep import DeepPrompts
from nerp.trainers.tensors import Tensors, random_tokens

_DEEP = "{}_encoder.transformer.resblocks.{}.VPT_shallow"


@TRAINERS.register("PromptSRC")
class PromptSRC(DeepPrompts):
    """Text: ctx at positions 1..K, replaced at the input of layers 2..J. Vision: K_v tokens at the
    end, replaced in the same way. The final tensors are a Gaussian-weighted mean over the epochs.

    Loss: CE(s f tᵀ) + λ_t mean|t - t*| + λ_i mean|f - f*| + KL / (B C), KL being the divergence of
    the logits from frozen CLIP's. See docs/methods/promptsrc.md.

    Learned: prompt_learner.ctx [K, W_t], image_encoder.VPT [K_v, W_v], and for layer l >= 2
    {text,image}_encoder.transformer.resblocks.{l - 1}.VPT_shallow.
    """

    node = "PROMPTSRC"
    folder = "VLPromptLearner"
    paper = "Khattak et al., Self-regulating Prompts, ICCV 2023"
    group = "deep"
    defaults = {
        "N_CTX_VISION": whole(4, 1, 512),
        "N_CTX_TEXT": whole(4, 1, CONTEXT_LENGTH),
        "CTX_INIT": "a photo of a",
        "PROMPT_DEPTH_VISION": whole(9, 1),
        "PROMPT_DEPTH_TEXT": whole(9, 1),
        "TEXT_LOSS_WEIGHT": number(25.0, least=0),
        "IMAGE_LOSS_WEIGHT": number(10.0, least=0),
        "GPA_MEAN": number(15.0),
        "GPA_STD": number(1.0, above=0),
        "PREC": precision("fp16"),
    }
    signature: tuple[str, ...] = (r"prompt_learner\.ctx", r"image_encoder\.VPT")
    shape_settings = (
        "N_CTX_VISION",
        "N_CTX_TEXT",
        "CTX_INIT",
        "PROMPT_DEPTH_VISION",
        "PROMPT_DEPTH_TEXT",
    )
    one_entropy = True

    @classmethod
    def infer(cls, tensors: Tensors, settings: CfgNode, clip: Clip) -> dict[str, object]:
        def depth(tower: str) -> int:
            start, end = _DEEP.format(tower, "*").split("*")
            return 1 + sum(name.startswith(start) and name.endswith(end) for name in tensors)

        return {
            "N_CTX_VISION": tensors["image_encoder.VPT"].shape[0],
            "N_CTX_TEXT": tensors["prompt_learner.ctx"].shape[0],
            "PROMPT_DEPTH_VISION": depth("image"),
            "PROMPT_DEPTH_TEXT": depth("text"),
        }

    def check(self) -> None:
        for kind, tower in (("VISION", self.clip.image), ("TEXT", self.clip.text)):
            depth = self.settings[f"PROMPT_DEPTH_{kind}"]
            if not 1 <= depth <= tower.depth:
                raise NerpError(f"TRAINER.PROMPTSRC.PROMPT_DEPTH_{kind} is {depth}; this "
                                f"backbone's encoder has {tower.depth} layers")

    def initial(self) -> dict[str, Tensor]:
        settings, text, image = self.settings, self.clip.text.width, self.clip.image.width
        tensors = {
            "prompt_learner.ctx": self.first_context(),
            "image_encoder.VPT": random_tokens(settings.N_CTX_VISION, image),
        }
        for layer in self.deep_layers("text"):
            tensors[_DEEP.format("text", layer - 1)] = random_tokens(self.n_ctx, text)
        for layer in self.deep_layers("image"):
            tensors[_DEEP.format("image", layer - 1)] = random_tokens(settings.N_CTX_VISION, image)
        return tensors

    @property
    def n_ctx(self) -> int:
        return int(self.settings.N_CTX_TEXT)

    def deep_layers(self, encoder: str) -> range:
        """Layers 2..J of the "text" or the "image" encoder, at most to its last layer."""
        text = encoder == "text"
        depth = self.settings["PROMPT_DEPTH_TEXT" if text else "PROMPT_DEPTH_VISION"]
        return range(2, min(depth, (self.clip.text if text else self.clip.image).depth) + 1)

    def deep(self, encoder: str) -> dict[int, Tensor]:
        return {
            layer: self.parameter(_DEEP.format(encoder, layer - 1))
            for layer in self.deep_layers(encoder)
        }

    def text_tokens(self) -> Mapping[int, Tensor]:
        return self.deep("text")

    def vision_tokens(self) -> Mapping[int, Tensor]:
        return {1: self.parameter("image_encoder.VPT"), **self.deep("image")}

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        text, frozen_text = self.class_features(), self.frozen_class_features()
        state = self.clip.image_state(images)
        image = self.tuned_image(state)
        with torch.no_grad():
            frozen_image = normalise(self.clip.image.features(state))
        logits = self.similarity(image, text)
        frozen_logits = self.similarity(frozen_image, frozen_text)
        divergence = F.kl_div(
            logits.log_softmax(1), frozen_logits.log_softmax(1), reduction="sum", log_target=True
        )
        return (
            self.cross_entropy(logits, labels)
            + float(self.settings.TEXT_LOSS_WEIGHT) * F.l1_loss(text, frozen_text)
            + float(self.settings.IMAGE_LOSS_WEIGHT) * F.l1_loss(image, frozen_image)
            + divergence / logits.numel()
        )

    def epoch_weights(self, epochs: int) -> Tensor:
        """Weights [E]: a Gaussian over epochs 1..E with sum 1. (PromptSRC, section 3.2.)"""
        epoch = torch.arange(1, epochs + 1, dtype=torch.float64)
        # Relative to the largest, so that a narrow Gaussian far from every epoch stays finite.
        mean, std = float(self.settings.GPA_MEAN), float(self.settings.GPA_STD)
        exponent = -((epoch - mean) ** 2) / (2 * std**2)
        return exponent.softmax(0)
