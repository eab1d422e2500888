"""What is registered, in numbers: for `nerp methods`."""

from dataclasses import dataclass

import torch

from nerp.clip.backbones import HUB, find_backbone, model_config
from nerp.clip.loading import SHIPPED, load_model
from nerp.clip.model import Clip
from nerp.clip.modules import CLIP
from nerp.clip.tokenizer import CONTEXT_LENGTH, VOCABULARY
from nerp.defaults import default_config
from nerp.errors import NerpError
from nerp.registry import TRAINERS
from nerp.trainers.base import Classes, Trainer

# D, the image tower's width, layers and patch, the text tower's width and layers. (Radford et al.,
# Learning Transferable Visual Models, 2021, table 20.) To ask open_clip takes two seconds more.
_SIZES = {
    "ViT-B/32": (512, 768, 12, 32, 512, 12),
    "ViT-B/16": (512, 768, 12, 16, 512, 12),
    "ViT-L/14": (768, 1024, 24, 14, 768, 12),
}
_CLASSES = Classes(tuple(f"class {i}" for i in range(10)), "a photo of a {}.", "a photo.")


def method_rows(backbone: str) -> list[list]:
    """[name, learned parameters on `backbone`, checkpoint folder, paper] for each method.

    The count is None where the method does not fit the backbone. It needs shapes alone: the
    backbone and whatever a method computes from it are on the meta device, without any values.
    Raises NerpError for an unknown backbone.
    """
    clip = Clip(_shapes_of(backbone), "fp32", torch.device("meta"), backbone)
    return [
        [name, trainer and sum(parameter.numel() for parameter in trainer.parameters()),
         TRAINERS[name].folder, TRAINERS[name].paper]
        for name, trainer in _fitted(clip).items()
    ]


def _shapes_of(backbone: str) -> torch.nn.Module:
    """A CLIP of the backbone's architecture, its weights on the meta device but for the scale,
    which `Clip` reads."""
    if backbone in SHIPPED:
        return load_model(SHIPPED[backbone])
    with torch.device("meta"):
        model = _published(backbone) if backbone in _SIZES else _open_clips(backbone)
    model.logit_scale = torch.nn.Parameter(torch.zeros(()))
    return model


def _published(name: str) -> torch.nn.Module:
    embed, width, layers, patch, text_width, text_layers = _SIZES[name]
    return CLIP(
        embed,
        {"width": width, "layers": layers, "patch_size": patch, "image_size": 224},
        {"width": text_width, "layers": text_layers, "vocab_size": VOCABULARY,
         "context_length": CONTEXT_LENGTH},
        quick_gelu=True,
    )


def _open_clips(name: str) -> torch.nn.Module:
    from open_clip.model import CLIP

    config = find_backbone(name).config if name.startswith(HUB) else \
        model_config(name.partition(":")[0])
    return CLIP(**{key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")})


@dataclass(frozen=True)
class BackboneRow:
    """What `nerp backbones` says of one: patch and image in pixels (patch 0: a ResNet), layers of
    the image and the text tower, the joint width D, and the methods whose defaults fit."""

    name: str
    patch: int
    pixels: int
    layers: tuple[int, int]
    embed_dim: int
    methods: list[str]


def backbone_row(name: str) -> BackboneRow:
    """The row of a backbone, without its weights. Raises NerpError as `method_rows` does."""
    clip = Clip(_shapes_of(name), "fp32", torch.device("meta"), name)
    conv = clip.model.visual.conv1
    return BackboneRow(
        name, conv.kernel_size[0] if clip.image.depth else 0, clip.size,
        (clip.image.depth, clip.text.depth), clip.embed_dim,
        [method for method, trainer in _fitted(clip).items() if trainer is not None],
    )


def _fitted(clip: Clip) -> dict[str, Trainer | None]:
    """Every method, by name, on a backbone; None where it does not fit."""
    cfg, fitted = default_config(), {}
    for name in TRAINERS.names():
        try:
            fitted[name] = TRAINERS[name](cfg, clip, _CLASSES)
        except NerpError:
            fitted[name] = None
    return fitted
