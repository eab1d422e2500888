"""What a `Clip` asks of its two encoders, whichever they are."""

from typing import Any, Protocol

import torch
from torch import Tensor

from nerp.clip.tokenizer import Prompts
from nerp.clip.towers import FROZEN, Edit

# What enters a layer: each encoder has a type of its own for it, and it alone looks inside.
Opaque = Any


class Encoder(Protocol):
    """Attributes: kind: what it is, in words. width: W of its layers. depth: how many layers a
    method may reach into, 0 for none."""

    kind: str
    width: int
    depth: int

    def advance(self, state: Opaque, layer: int) -> Opaque:
        """The input of `layer`, the frozen layers before it applied."""

    def features(self, state: Opaque, edit: Edit = FROZEN) -> Tensor:
        """Features, not normalised: text [G, C, D], images [B, D]."""


class TextEncoder(Encoder, Protocol):
    def token_embedding(self, ids: Tensor) -> Tensor:
        """Token embeddings [..., W] of ids [...], without positions."""

    def embed(self, prompts: Prompts, dtype: torch.dtype, ctx: Tensor | None = None) -> Opaque:
        """The input of layer 1, with context vectors in their slots."""


class ImageEncoder(Encoder, Protocol):
    def embed(self, images: Tensor) -> Opaque:
        """The input of layer 1 of images [B, 3, H, W], normalised."""
