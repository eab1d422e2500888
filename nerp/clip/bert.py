"""BiomedCLIP's form of a backbone: timm's vision transformer beside a BERT, each run as a whole.

open_clip builds it from its `TimmModel` and `HFTextEncoder`. Here the same modules of timm and
transformers get their sizes from the tensors. No method can edit their layers. The BERT attends in
both directions to all tokens except padding. Its feature is that of the first token.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nerp.base.errors import NerpError
from nerp.clip.state import fill
from nerp.clip.tokenizer import Prompts, Tokenizer
from nerp.clip.towers import FROZEN, Edit
from nerp.clip.wordpiece import require_transformers

# These tensors, by the names that `loading` gives them, identify the form.
_WORDS = "transformer.embeddings.word_embeddings.weight"
_CLASS = "visual.trunk.cls_token"
_HEAD_WIDTH = 64
_WIDEST, _DEEPEST, _LONGEST = 16_384, 256, 2**20
# Tensors that a file may hold but no feature needs: a head of the BERT, and position indices.
_IDLE = re.compile(r"transformer\.(pooler\..*|embeddings\.position_ids)")


@dataclass(frozen=True)
class Sizes:
    """Sizes of both encoders; the defaults are BiomedCLIP's. hidden: the width between the two
    linear maps of the text projection."""

    embed: int = 512
    vision_width: int = 768
    vision_layers: int = 12
    patch: int = 16
    grid: int = 14
    width: int = 768
    layers: int = 12
    inner: int = 3072
    hidden: int = 640
    vocabulary: int = 30_522
    positions: int = 512


class Vision(nn.Module):
    """timm's vision transformer and a linear projection."""

    def __init__(self, sizes: Sizes):
        from timm.models.vision_transformer import VisionTransformer

        super().__init__()
        self.image_size = sizes.patch * sizes.grid
        self.trunk = VisionTransformer(
            img_size=self.image_size, patch_size=sizes.patch, num_classes=0,
            embed_dim=sizes.vision_width, depth=sizes.vision_layers,
            num_heads=sizes.vision_width // _HEAD_WIDTH,
        )
        self.head = nn.Sequential()
        self.head.add_module("proj", nn.Linear(sizes.vision_width, sizes.embed, bias=False))

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, D], not normalised, of images [B, 3, H, W]."""
        features: Tensor = self.head(self.trunk(images))
        return features


class BertCLIP(nn.Module):
    """Both encoders, under the names of open_clip's files without the prefix "text."."""

    tokenizer: Tokenizer | None = None
    stated_in: Path | None = None

    def __init__(self, sizes: Sizes):
        from transformers import BertConfig, BertModel

        super().__init__()
        self.sizes = sizes
        config = BertConfig(
            vocab_size=sizes.vocabulary, hidden_size=sizes.width, num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.width // _HEAD_WIDTH, intermediate_size=sizes.inner,
            max_position_embeddings=sizes.positions,
        )
        self.visual = Vision(sizes)
        self.transformer = BertModel(config, add_pooling_layer=False)
        self.proj = nn.Sequential(
            nn.Linear(sizes.width, sizes.hidden, bias=False), nn.GELU(),
            nn.Linear(sizes.hidden, sizes.embed, bias=False),
        )
        self.logit_scale = nn.Parameter(torch.empty(()))


def is_bert(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the tensors of a file have this form."""
    return _WORDS in tensors and _CLASS in tensors


def sizes_of(tensors: Mapping[str, Tensor]) -> Sizes:
    """The sizes of both encoders, from the tensors of a file. Raises LookupError or ValueError if
    these do not belong to a BERT and timm's vision transformer, or are larger than any published.
    """
    vocabulary, width = tensors[_WORDS].shape
    patch = tensors["visual.trunk.patch_embed.proj.weight"].shape[-1]
    hidden, _ = tensors["proj.0.weight"].shape
    embed, vision_width = tensors["visual.head.proj.weight"].shape
    types = len(tensors["transformer.embeddings.token_type_embeddings.weight"])
    grid = round((tensors["visual.trunk.pos_embed"].shape[1] - 1) ** 0.5)
    inner = len(tensors["transformer.encoder.layer.0.intermediate.dense.weight"])
    positions = len(tensors["transformer.embeddings.position_embeddings.weight"])
    layers, vision_layers = (
        len({name[len(start):].split(".")[0] for name in tensors if name.startswith(start)})
        for start in ("transformer.encoder.layer.", "visual.trunk.blocks.")
    )
    bounds = ((width, _WIDEST), (vision_width, _WIDEST), (embed, _WIDEST), (inner, 4 * _WIDEST),
              (hidden, _WIDEST), (layers, _DEEPEST), (vision_layers, _DEEPEST), (patch, 1024),
              (grid, 1024), (vocabulary, _LONGEST), (positions, _LONGEST))
    if types != 2 or not all(0 < size <= most for size, most in bounds):
        raise ValueError("its sizes are of no BERT beside a vision transformer")
    if width % _HEAD_WIDTH or vision_width % _HEAD_WIDTH:
        raise ValueError(f"its widths are no multiples of {_HEAD_WIDTH}, that of an attention head")
    return Sizes(embed, vision_width, vision_layers, patch, grid, width, layers, inner, hidden,
                 vocabulary, positions)


def build(tensors: Mapping[str, Tensor], file: Path) -> BertCLIP:
    """A module on the meta device with the sizes of a file's tensors; `loading` fills it. Raises
    NerpError if transformers is not installed."""
    require_transformers(f"{file}: its text encoder is a BERT, which")
    return on_meta(sizes_of(tensors))


def on_meta(sizes: Sizes) -> BertCLIP:
    """A module of these sizes with tensors on the meta device. Exceptions are the scale, and two
    tensors of position indices that no file holds."""
    with torch.device("meta"):
        model = BertCLIP(sizes)
    embeddings = model.transformer.embeddings
    for name, places in (("position_ids", torch.arange(sizes.positions)),
                         ("token_type_ids", torch.zeros(sizes.positions, dtype=torch.long))):
        embeddings.register_buffer(name, places[None], persistent=False)
    model.logit_scale = nn.Parameter(torch.zeros(()))  # a `Clip` reads it
    return model


def without_idle(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without those that no feature depends on."""
    return {name: tensor for name, tensor in tensors.items() if not _IDLE.fullmatch(name)}


@dataclass(frozen=True)
class BertState:
    """Embeddings x [G, C, L, W] of C sequences in G groups, and the mask `shown` [C, L] of tokens
    that are not padding."""

    x: Tensor
    shown: Tensor


class BertEncoder:
    """The BERT as text encoder, with the part of `towers.TextTower` that needs no edited layers."""

    depth = 0
    kind = "a BERT"

    def __init__(self, model: BertCLIP):
        self.model = model
        self.width = model.sizes.width

    def token_embedding(self, ids: Tensor) -> Tensor:
        """Token embeddings [..., W] of ids [...], before positions and types are added."""
        embeddings: Tensor = self.model.transformer.embeddings.word_embeddings(ids)
        return embeddings

    def embed(self, prompts: Prompts, dtype: torch.dtype, ctx: Tensor | None = None) -> BertState:
        """The embeddings of C sequences, with context vectors [slots, W] or [G, slots, W] in their
        slots. Raises NerpError for prompts that another tokenizer made."""
        if prompts.name != "BERT":
            raise NerpError("this method makes its prompts of CLIP's tokens; the backbone's text "
                            "encoder is a BERT")
        x = self.token_embedding(prompts.ids).to(dtype)
        if ctx is not None:
            x = fill(x, prompts.slots, ctx)
        shown = torch.arange(x.shape[-2], device=x.device) <= prompts.eot[:, None]
        return BertState(x.view(-1, *x.shape[-3:]), shown)

    def advance(self, state: BertState, layer: int) -> BertState:
        """`state` itself, because no method edits more than the input of layer 1."""
        return state

    def features(self, state: BertState, edit: Edit = FROZEN) -> Tensor:
        """Text features [G, C, D] of the first token, not normalised."""
        groups, classes, length, _ = state.x.shape
        mask = state.shown.expand(groups, -1, -1).reshape(-1, length).long()
        out = self.model.transformer(inputs_embeds=state.x.flatten(0, 1), attention_mask=mask)
        projected: Tensor = self.model.proj(out.last_hidden_state[:, 0])
        return projected.view(groups, classes, -1)
