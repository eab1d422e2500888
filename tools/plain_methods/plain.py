"""Shared code of the plain methods: CLIP's two encoders at full length, and zero-shot CLIP."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nerp.clip.tokenizer import CONTEXT_LENGTH, tokenize


def padded(texts: Sequence[str]) -> Tensor:
    """Token ids [C, 77], zero after end-of-text."""
    rows = [tokenize(text) for text in texts]
    return torch.tensor([row + [0] * (CONTEXT_LENGTH - len(row)) for row in rows])


def unit(x: Tensor) -> Tensor:
    """x / |x| over the last axis."""
    norms: Tensor = x.norm(dim=-1, keepdim=True)
    return x / norms


def causal_mask(length: int, like: Tensor) -> Tensor:
    """[L, L]: -inf above the diagonal."""
    mask = torch.full((length, length), float("-inf"), device=like.device, dtype=like.dtype)
    return mask.triu(1)


# A layer's changed input, and the addition to its output; layers count from 1.
Enter = Callable[[int, Tensor], Tensor]
Branch = Callable[[int, Tensor], Tensor | float]
Settings = Mapping[str, Any]  # the configuration's values; each has the type of its key


class Block(Protocol):
    """The used part of a block of open_clip."""

    attn: nn.MultiheadAttention
    ln_1: nn.LayerNorm
    ln_2: nn.LayerNorm
    mlp: nn.Sequential

    def __call__(self, x: Tensor, *, attn_mask: Tensor | None) -> Tensor: ...


class Transformer(Protocol):
    resblocks: Sequence[Block]


class Visual(Protocol):
    conv1: nn.Conv2d
    class_embedding: Tensor
    positional_embedding: Tensor
    ln_pre: nn.LayerNorm
    transformer: Transformer
    ln_post: nn.LayerNorm
    proj: Tensor


class OpenCLIP(Protocol):
    """The used part of a model of open_clip."""

    token_embedding: nn.Embedding
    positional_embedding: Tensor
    transformer: Transformer
    ln_final: nn.LayerNorm
    text_projection: Tensor
    visual: Visual
    logit_scale: Tensor

    def encode_text(self, text: Tensor) -> Tensor: ...
    def encode_image(self, image: Tensor) -> Tensor: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...


class PlainMethod:
    """Zero-shot CLIP; the methods below override what they change."""

    def __init__(
        self,
        model: OpenCLIP,
        names: Sequence[str],
        template: str,
        tensors: Mapping[str, Tensor],
        settings: Settings,
        seen: bool = True,
        frozen: OpenCLIP | None = None,
    ):
        """frozen: the frozen CLIP beside the tuned one, if it is a separate copy."""
        self.model = model
        self.frozen = model if frozen is None else frozen
        self.names = list(names)
        self.template = template
        self.prompts = [template.format(name) for name in names]
        self.tensors = dict(tensors)
        self.settings = settings
        self.seen = seen
        self.device = next(model.parameters()).device
        self.scale: Tensor | float = model.logit_scale.exp()
        self.prepare()

    def prepare(self) -> None:
        """Set the method's further attributes."""

    # The two towers at full length.

    def run_block(
        self, kind: str, layer: int, block: Block, x: Tensor, mask: Tensor | None
    ) -> Tensor:
        """A block of the "text" or the "vision" tower, layers from 1."""
        return block(x, attn_mask=mask)

    def text_tower(
        self, x: Tensor, eot: Tensor, enter: Enter | None = None, branch: Branch | None = None
    ) -> Tensor:
        """Features [C, D] of embeddings [C, L, W] that already hold their positions."""
        for layer, block in enumerate(self.model.transformer.resblocks, 1):
            x = enter(layer, x) if enter else x
            y = self.run_block("text", layer, block, x, causal_mask(x.shape[1], x))
            x = y + branch(layer, block.ln_1(x)) if branch else y
        last: Tensor = self.model.ln_final(x)[torch.arange(len(x), device=x.device), eot]
        return last @ self.model.text_projection

    def image_tower(
        self, images: Tensor, enter: Enter | None = None, branch: Branch | None = None,
        extra: Tensor | None = None,
    ) -> Tensor:
        """All tokens [B, N, W] after the last block; `extra` [K, W] goes to the end first."""
        visual = self.model.visual
        x: Tensor = visual.conv1(images).flatten(2).transpose(1, 2)
        token = visual.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([token, x], 1) + visual.positional_embedding.to(x.dtype)
        if extra is not None:
            x = torch.cat([x, extra.to(x.dtype).expand(len(x), -1, -1)], 1)
        x = visual.ln_pre(x)
        for layer, block in enumerate(visual.transformer.resblocks, 1):
            x = enter(layer, x) if enter else x
            y = self.run_block("vision", layer, block, x, None)
            x = y + branch(layer, block.ln_1(x)) if branch else y
        return x

    def image_head(self, x: Tensor) -> Tensor:
        """Features [B, D] of the class token, not normalised."""
        normed: Tensor = self.model.visual.ln_post(x[:, 0])
        return normed @ self.model.visual.proj

    def embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.model.token_embedding(ids.to(self.device))
        return embedded

    @property
    def positions(self) -> Tensor:
        return self.model.positional_embedding

    # Frozen CLIP through open_clip's own forward.

    @torch.no_grad()
    def frozen_text(self) -> Tensor:
        ids = padded(self.prompts).to(self.device)
        return unit(self.frozen.encode_text(ids))

    @torch.no_grad()
    def frozen_image(self, images: Tensor) -> Tensor:
        return unit(self.frozen.encode_image(images))

    # The method.

    def text(self) -> Tensor:
        return self.frozen_text()

    def image(self, images: Tensor) -> Tensor:
        return self.frozen_image(images)

    def logits(self, images: Tensor) -> Tensor:
        return self.scale * self.image(images) @ self.text().t()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(images), labels)
