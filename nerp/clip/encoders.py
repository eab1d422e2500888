"""The interface that a `Clip` needs of its text encoder and its image encoder."""

from typing import Any, Protocol

import torch
from torch import Tensor

from nerp.clip.tokenizer import Prompts
from nerp.clip.towers import FROZEN, Edit

# The input of a layer. Each encoder has its own type for it, which no other code reads.
Opaque = Any


class Encoder(Protocol):
    """A frozen encoder whose layers, counted from 1, a method may edit.

    Attributes:
        kind: its architecture, in words. width: W of its layers, 0 if none can be edited.
        depth: how many layers a method may edit, 0 for none.
    """

    kind: str
    width: int
    depth: int

    def advance(self, state: Opaque, layer: int) -> Opaque:
        """The input of `layer`, the frozen layers before it applied."""

    def features(self, state: Opaque, edit: Edit = FROZEN) -> Tensor:
        """Features, not normalised: text [G, C, D], images [B, D]."""


class TextEncoder(Encoder, Protocol):
    """An encoder from prompts to text features in D dimensions."""

    def token_embedding(self, ids: Tensor) -> Tensor:
        """Token embeddings [..., W] of ids [...], without positions."""

    def embed(self, prompts: Prompts, dtype: torch.dtype, ctx: Tensor | None = None) -> Opaque:
        """The input of layer 1, with context vectors in their slots."""


class ImageEncoder(Encoder, Protocol):
    """An encoder from images [B, 3, H, W] to image features [B, D]."""

    def embed(self, images: Tensor) -> Opaque:
        """The input of layer 1 of images [B, 3, H, W], normalised."""
