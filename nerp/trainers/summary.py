"""The rows of `nerp methods` and `nerp backbones`: registered methods and backbones in numbers."""

import contextlib
import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.backbones import BIOMEDCLIP, HUB, find_backbone, model_config
from nerp.clip.bert import BertCLIP, Sizes, on_meta
from nerp.clip.loading import SHIPPED, load_model
from nerp.clip.model import Clip
from nerp.clip.modules import CLIP
from nerp.clip.tokenizer import CONTEXT_LENGTH, VOCABULARY, Prompts
from nerp.clip.wordpiece import require_transformers
from nerp.settings.backbones import BACKBONE_KEY
from nerp.settings.cards import find_method_file, read_method
from nerp.settings.catalogue import config_file, config_name, methods
from nerp.settings.defaults import default_config
from nerp.settings.protocols import bare_name
from nerp.settings.tree import METHOD, Draft, Origin
from nerp.trainers.base import Trainer
from nerp.trainers.method import GROUPS
from nerp.trainers.texts import Classes

# D; the image encoder's width, layers and patch; the text encoder's width and layers. (Radford et
# al., Learning Transferable Visual Models, 2021, table 20.) Importing open_clip would add 2 s.
_SIZES = {
    "ViT-B/32": (512, 768, 12, 32, 512, 12),
    "ViT-B/16": (512, 768, 12, 16, 512, 12),
    "ViT-L/14": (768, 1024, 24, 14, 768, 12),
}
_SHOTS = 16  # the number of shots of the looked-up configuration
_CLASSES = Classes(tuple(f"class {i}" for i in range(10)), "a photo of a {}.", "a photo.")


class MethodRow(NamedTuple):
    """A method's row in `nerp methods`. parameters: the number of learned ones, None if the method
    does not fit the backbone. folder: the folder of its checkpoints."""

    name: str
    parameters: int | None
    folder: str
    paper: str
    group: str


def method_rows(backbone: str, more: Iterable[str] = ()) -> list[MethodRow]:
    """A row for each method on a backbone, ordered by group. more: further methods, with suffixes.

    Raises NerpError for an unknown backbone.
    """
    rows = [
        MethodRow(name, sum(p.numel() for p in trainer.parameters()) if trainer else None,
                  TRAINERS[name].folder, TRAINERS[name].paper, TRAINERS[name].group)
        for name, trainer in _fitted(_shapes_of(backbone), more).items()
    ]
    order = dict.fromkeys([*GROUPS, *sorted(row.group for row in rows)])
    return sorted(rows, key=lambda row: list(order).index(row.group))


class _Shapes(Clip):
    """A backbone that has shapes only and computes nothing. The first arithmetic on the meta device
    would import modules for two seconds."""

    def __init__(self, clip: Clip):
        vars(self).update(vars(clip))
        self.text = copy.copy(clip.text)
        vars(self.text)["token_embedding"] = lambda ids: torch.zeros(*ids.shape, self.text.width)

    def text_state(self, prompts: Prompts, ctx: Tensor | None = None, layer: int = 1) -> None:
        return None

    def text_features(self, texts: list[str], cut: bool = False) -> Tensor:
        return torch.zeros(len(texts), self.embed_dim)


def _shapes_of(backbone: str) -> Clip:
    """A CLIP of the backbone's architecture with weights on the meta device."""
    if backbone in SHIPPED:
        model = load_model(SHIPPED[backbone])
    elif backbone == BIOMEDCLIP:
        require_transformers(f"{BIOMEDCLIP}: its text encoder is a BERT, which")
        model = on_meta(Sizes())
    else:
        with torch.device("meta"):
            model = _published(backbone) if backbone in _SIZES else _open_clips(backbone)
        model.logit_scale = torch.nn.Parameter(torch.zeros(()))  # `Clip` reads it
    return Clip(model, "fp32", torch.device("meta"), backbone)


def _published(name: str) -> CLIP:
    embed, width, layers, patch, text_width, text_layers = _SIZES[name]
    return CLIP(
        embed,
        {"width": width, "layers": layers, "patch_size": patch, "image_size": 224},
        {"width": text_width, "layers": text_layers, "vocab_size": VOCABULARY,
         "context_length": CONTEXT_LENGTH},
        quick_gelu=True,
    )


def _open_clips(name: str) -> CLIP:
    from open_clip.model import CLIP as Theirs

    config = find_backbone(name).config if name.startswith(HUB) else \
        model_config(name.partition(":")[0])
    assert config is not None  # every named backbone has one
    model: CLIP = Theirs(**{key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")})
    return model


@dataclass(frozen=True)
class BackboneRow:
    """A backbone's row in `nerp backbones`: patch and image size in pixels (patch 0: a ResNet), the
    numbers of layers of the image and the text encoder, the joint width D, and the methods that
    fit, with their defaults or with their configuration for this backbone."""

    name: str
    patch: int
    pixels: int
    layers: tuple[int, int]
    embed_dim: int
    methods: list[str]


def backbone_row(name: str) -> BackboneRow:
    """The row of a backbone; its weights are not read. Raises NerpError as `method_rows` does."""
    clip = _shapes_of(name)
    layers = clip.image.depth, clip.text.depth
    if isinstance(clip.model, BertCLIP):
        trunk = clip.model.visual.trunk
        patch = trunk.patch_embed.proj.kernel_size[0]
        layers = len(trunk.blocks), len(clip.model.transformer.encoder.layer)
    else:
        patch = clip.model.visual.conv1.kernel_size[0] if clip.image.depth else 0
    return BackboneRow(
        name, patch, clip.size, layers, clip.embed_dim,
        [method for method, trainer in _fitted(clip).items() if trainer is not None],
    )


def _fitted(clip: Clip, more: Iterable[str] = ()) -> dict[str, Trainer | None]:
    """Name -> trainer on a backbone, for every method and `more`. It has the method's defaults or
    its configuration for the backbone; None if neither fits."""
    shapes = _Shapes(clip)
    fitted: dict[str, Trainer | None] = {}
    for name in dict.fromkeys([*TRAINERS.names(), *more]):
        method = TRAINERS[name]
        # A user's own method may compute with the backbone's outputs.
        ours = method.__module__.startswith(f"{__package__}.")
        fitted[name] = None
        for cfg in _configurations(name, clip.name):
            with contextlib.suppress(NerpError):
                fitted[name] = method(cfg, shapes if ours else clip, _CLASSES)
                break
    return fitted


def _configurations(name: str, backbone: str) -> Iterator[CfgNode]:
    """The method's defaults, then the configuration that a run on this backbone uses. The latter
    may have its layers fitted to the backbone's depth."""
    yield default_config()
    if bare_name(name) in methods() and (
        config := config_name(name, "B2N", "", _SHOTS, {BACKBONE_KEY: backbone})
    ):
        draft, file = Draft(TRAINERS[name]), find_method_file(config_file(name, config))
        for layer, entry in read_method(file, "", _SHOTS):
            draft.merge(layer, Origin(METHOD, str(file), entry))
        yield draft.cfg
