"""CLIP's parameters as modules, under OpenAI's names. `nerp.clip.towers` runs them, so they have no
forward.

open_clip's own CLIP has the same names; importing it takes longer than a test of a small model.
Where its modules are run, they are typed as those here.
"""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

HEAD_WIDTH = 64
# Width of a vision transformer -> width of its heads, if that is not 64 (ViT-H, -g, -bigG, -e). The
# tensors do not show it, but none of these widths has been published with heads of 64.
HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}
# A model's configuration and one encoder's sizes, with open_clip's keys; readers check the values.
Config = Mapping[str, Any]
Sizes = dict[str, Any]


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), which OpenAI's weights were trained with (`layers.hidden_layer`)."""


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """x * sigmoid(1.702 x), for methods whose own layers have it."""
    return x * torch.sigmoid(1.702 * x)


class Hidden(nn.Sequential):
    """A block's two linear layers, and the activation between them."""

    c_fc: nn.Linear
    gelu: nn.Module
    c_proj: nn.Linear


class Block(nn.Module):
    """A residual block of width W: attention and two linear layers, each after a LayerNorm."""

    def __init__(self, width: int, quick_gelu: bool):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, width // HEAD_WIDTH)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = Hidden(OrderedDict(
            c_fc=nn.Linear(width, 4 * width),
            gelu=QuickGELU() if quick_gelu else nn.GELU(),
            c_proj=nn.Linear(4 * width, width),
        ))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, quick_gelu: bool):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, quick_gelu) for _ in range(layers))


class VisionTransformer(nn.Module):
    """Images of `image_size` pixels a side, in patches of `patch_size`."""

    def __init__(
        self, width: int, layers: int, patch_size: int, image_size: int, embed: int,
        quick_gelu: bool,
    ):
        super().__init__()
        self.image_size: int | tuple[int, int] = image_size  # open_clip has both sides
        self.conv1 = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        tokens = (image_size // patch_size) ** 2 + 1
        self.positional_embedding = nn.Parameter(torch.empty(tokens, width))
        self.ln_pre: nn.LayerNorm | nn.Identity = nn.LayerNorm(width)  # open_clip may leave it out
        self.transformer = Transformer(width, layers, quick_gelu)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, embed))


class CLIP(nn.Module):
    """A CLIP with a vision transformer.

    Args:
        embed: the joint width D. vision, text: sizes, as `loading` reads them from tensors.
    Attributes: stated_in: a second file that its settings were read from; None for none.
    """

    stated_in: Path | None = None

    def __init__(self, embed: int, vision: Sizes, text: Sizes, quick_gelu: bool):
        super().__init__()
        width = text["width"]
        self.visual = VisionTransformer(**vision, embed=embed, quick_gelu=quick_gelu)
        self.transformer = Transformer(width, text["layers"], quick_gelu)
        # Not drawn at random, because on the meta device that imports torch's compiler.
        self.token_embedding = nn.Embedding.from_pretrained(torch.empty(text["vocab_size"], width))
        self.positional_embedding = nn.Parameter(torch.empty(text["context_length"], width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed))
        self.logit_scale = nn.Parameter(torch.empty(()))
