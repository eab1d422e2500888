"""Image encoders whose layers no method can edit: CLIP's ResNets, timm's models."""

from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nerp.clip.device import float32_convolutions
from nerp.clip.towers import FROZEN, Edit


class WholeEncoder:
    """An image encoder that runs as a whole, without layers to edit: CLIP's ResNets, timm's models.

    Args: kind: what it is, in words.
    """

    width = 0
    depth = 0

    def __init__(self, visual: nn.Module, kind: str):
        self.visual = visual
        self.kind = kind

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        with float32_convolutions():
            features: Tensor = self.visual(images)
            return features

    def advance(self, state: Tensor, layer: int) -> Tensor:
        return state

    def features(self, state: Tensor, edit: Edit = FROZEN) -> Tensor:
        return state


class _Pool(Protocol):
    """The attention pool of open_clip's ResNets."""

    positional_embedding: Tensor
    num_heads: int
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    c_proj: nn.Linear


class _ResNet(Protocol):
    """The interface of open_clip's ResNets, which have no type annotations."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential
    attnpool: _Pool

    def stem(self, x: Tensor) -> Tensor: ...


class ResNetEncoder(WholeEncoder):
    """CLIP's ResNet, whose attention pool can use every place of its feature map as a query."""

    def __init__(self, visual: nn.Module):
        super().__init__(visual, "a ResNet")

    @torch.no_grad()
    def all_features(self, images: Tensor) -> Tensor:
        """Features [B, 1 + M, D], not normalised: the attention pool's outputs for the feature
        map's mean and for each of its M places as a query."""
        visual = cast(_ResNet, self.visual)
        pool = visual.attnpool
        with float32_convolutions():
            x = visual.stem(images)
            for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
                x = layer(x)
            x = x.flatten(2).transpose(1, 2)  # [B, M, W]
            x = torch.cat([x.mean(1, keepdim=True), x], 1)
            x = x + pool.positional_embedding.to(x.dtype)
            q, k, v = (layer(x).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
                       for layer in (pool.q_proj, pool.k_proj, pool.v_proj))
            attended = F.scaled_dot_product_attention(q, k, v)
            features: Tensor = pool.c_proj(attended.transpose(1, 2).flatten(2))
            return features
