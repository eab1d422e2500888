"""Shared code of MMRL, MMRL++ and ANPrompt: tokens of one space, mapped into both encoders."""

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from nerp.base.errors import NerpError
from nerp.clip.model import Clip, normalise
from nerp.clip.state import State
from nerp.clip.tokenizer import build_prompts
from nerp.clip.towers import PromptTokens
from nerp.trainers.base import Trainer
from nerp.trainers.tensors import linear

SCALE = 100.0  # the logit scale, whatever the backbone's is


class InsertedTokens(Trainer):
    """K tokens enter both encoders after the first position, at the input of chosen layers.

    At the first of those layers they add K positions. At later layers new tokens replace them. A
    second image feature is computed from the vision tokens.

    Class attributes:
        layers_key: the setting that lists the layers.
    """

    layers_key: str
    edits = ("text", "image")

    @property
    def keep_share(self) -> float:
        """The share of the former values that a later layer keeps at the tokens' positions
        (`PromptTokens`)."""
        return 0.0

    # Defined by each method.

    @abstractmethod
    def mapped(self, kind: str) -> list[Tensor]:
        """The tokens [K, W] of each layer, in the image ("v") or text encoder ("t")."""

    @abstractmethod
    def project_mean(self, mean: Tensor) -> Tensor:
        """The second image feature [B, D], not normalised, of the mean vision token [B, W_v]."""

    # Shared by all methods.

    @property
    def layers(self) -> list[int]:
        return list(self.settings[self.layers_key])

    @property
    def scale(self) -> float:
        return SCALE

    def check(self) -> None:
        layers = self.layers
        depth = min(self.clip.image.depth, self.clip.text.depth)
        if not layers or layers != sorted(set(layers)) or not 1 <= layers[0] <= layers[-1] <= depth:
            raise NerpError(f"TRAINER.{self.node}.{self.layers_key} is {layers}; it takes "
                            f"ascending layers within this backbone's {depth}")

    def prepare(self) -> None:
        self.text_state = self.constant_text(self.classes.prompts)

    def constant_text(self, texts: list[str]) -> State:
        """The input of the first edited layer, which no learned tensor changes."""
        state: State = self.clip.text_state(build_prompts(texts), layer=self.layers[0])
        return state

    def edit(self, kind: str) -> PromptTokens:
        tokens = self.mapped(kind)
        count = len(tokens[0])
        return PromptTokens(
            dict(zip(self.layers, tokens, strict=True)),
            keep=1 + count,
            shift=count,
            keep_share=self.keep_share,
        )

    def class_features(self, images: Tensor | None = None) -> Tensor:
        return normalise(self.clip.text.features(self.text_state, self.edit("t")))[0]

    def image_state(self, images: Tensor) -> State:
        state: State = self.clip.image_state(images, self.layers[0])
        return state

    def both_features(self, state: State) -> tuple[Tensor, Tensor]:
        """Image feature f [B, D] from the class token, and the second feature [B, D] from the mean
        vision token; both normalised."""
        tokens = self.clip.vision.tokens(state, self.edit("v"))
        image = normalise(tokens[:, 0] @ self.clip.vision.visual.proj)
        return image, normalise(self.project_mean(tokens[:, 1:].mean(1)))

    def image_features(self, images: Tensor) -> Tensor:
        return self.both_features(self.image_state(images))[0]

    def drift(self, state: State, image: Tensor, text: Tensor) -> Tensor:
        """(1 - mean cos(f, f*)) + (1 - mean cos(t, t*)), a scalar: the distance of f [B, D] and
        t [C, D] from frozen CLIP's features of the same images and of the dataset's template."""
        with torch.no_grad():
            frozen_image = normalise(self.clip.image.features(state))
        frozen_text = self.frozen_class_features()
        return 2 - (image * frozen_image).sum(1).mean() - (text * frozen_text).sum(1).mean()

    def tuned_neutral(self) -> Tensor:
        state = self.constant_text([self.classes.neutral])
        return normalise(self.clip.text.features(state, self.edit("t")))[0, 0]


def equal_maps(
    clip: Clip, dim: int, count: int, name: Callable[[str, int], str]
) -> dict[str, Tensor]:
    """Weights and biases, by name, of `count` linear maps d -> W per encoder. Within an encoder all
    maps start equal.

    Args: name: returns a map's name from the encoder ("v" or "t") and the map's number.
    """
    tensors: dict[str, Tensor] = {}
    for kind, tower in (("v", clip.image), ("t", clip.text)):
        first = linear(tower.width, dim, "")
        for i in range(count):
            tensors |= {name(kind, i) + leaf: tensor for leaf, tensor in first.items()}
    return tensors


def last_layers(
    configured: Sequence[int], names: Iterable[str], pattern: str, clip: Clip
) -> list[int]:
    """The layers of a checkpoint. Its number of layers is the number of names that match `pattern`.
    They are the configured layers if these are equally many and the backbone is deep enough; else
    the last layers, as in the published code."""
    count = sum(re.fullmatch(pattern, name) is not None for name in names)
    depth = min(clip.image.depth, clip.text.depth)
    if len(configured) == count and configured[-1] <= depth:
        return list(configured)
    return list(range(depth - count + 1, depth + 1))
