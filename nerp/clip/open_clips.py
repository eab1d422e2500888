"""A backbone for open_clip: its name there, or a folder of files that open_clip reads."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor
from yacs.config import CfgNode

from nerp.clip.backbones import BIOMEDCLIP, HUB, find_backbone
from nerp.clip.loading import PUBLISHED, SHIPPED, stated_sizes
from nerp.clip.model import Clip

# For each name in `PUBLISHED`: image layers and the side of a patch in pixels (None: a ResNet),
# text layers, D. open_clip has them too, but takes seconds to import.
_SIZES = {
    "ViT-B/32": (12, 32, 12, 512), "ViT-B/16": (12, 16, 12, 512), "ViT-L/14": (24, 14, 12, 768),
    "ViT-L/14@336px": (24, 14, 12, 768), "RN50": (0, None, 12, 1024), "RN101": (0, None, 12, 512),
    "RN50x4": (0, None, 12, 640), "RN50x16": (0, None, 12, 768), "RN50x64": (0, None, 12, 1024),
}
CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"
# The arguments of open_clip.create_model, as Python source, that read these files in the current
# folder.
FROM_FOLDER = ["'local-dir:.'"]


def own_arguments(backbone: CfgNode) -> list[str] | None:
    """The arguments of open_clip.create_model, as Python source, for the backbone of a node
    MODEL.BACKBONE. None for weights that open_clip does not have.

    A file given with BiomedCLIP's name is assumed to be a copy of its weights.
    """
    name, changed = backbone.NAME, backbone.INTERPOLATE or backbone.ACTIVATION != "auto"
    if name == BIOMEDCLIP:
        return [repr(name)]
    if name in SHIPPED or backbone.PATH or changed:
        return None
    if name in PUBLISHED:
        return [repr(PUBLISHED[name]), "pretrained='openai'", "force_quick_gelu=True"]
    if name.startswith(HUB):
        return [repr(name)]
    model, _, tag = name.partition(":")
    quick = find_backbone(name).activation == "quick_gelu"
    return [repr(model), f"pretrained={tag!r}", *(["force_quick_gelu=True"] if quick else [])]


def open_clips_files(
    clip: Clip, name: str, tensors: Mapping[str, Tensor], inputs: CfgNode
) -> dict[str, bytes]:
    """File name -> content of a backbone's files. open_clip's create_model("local-dir:FOLDER")
    reads a folder of them.

    Args:
        clip: the backbone. name: MODEL.BACKBONE.NAME. tensors: its state dict, or a changed one.
        inputs: the configuration's node INPUT.
    """
    quick = clip.activation == "QuickGELU"
    vision, text, embed = stated_sizes(dict(tensors), Path(WEIGHTS_FILE))
    stated = find_backbone(name).config if ":" in name else None
    if stated:
        vision, text = stated["vision_cfg"], stated["text_cfg"]
    config = {
        "model_cfg": {"embed_dim": embed, "quick_gelu": quick, "text_cfg": text,
                      "vision_cfg": {**vision, "image_size": clip.size}},
        "preprocess_cfg": {
            "mean": list(inputs.PIXEL_MEAN), "std": list(inputs.PIXEL_STD),
            "interpolation": inputs.INTERPOLATION, "resize_mode": inputs.RESIZE_MODE,
        },
    }
    kept = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    # MODEL.BACKBONE.PATH needs the activation, which no tensor shows.
    about = {"format": "pt", "activation": "quick_gelu" if quick else "gelu"}
    return {CONFIG_FILE: (json.dumps(config, indent=1) + "\n").encode(),
            WEIGHTS_FILE: save(kept, about)}


def other_architecture(name: str, clip: Clip) -> str:
    """In words, the architecture that a name of `PUBLISHED` stands for, if `clip` differs from it;
    "" if it does not, or if the name is not in `PUBLISHED`."""
    if name not in PUBLISHED or not clip.image.depth:
        return ""
    layers, patch, text_layers, width = stated = _SIZES[name]
    if stated == (clip.image.depth, clip.patch, clip.text.depth, clip.embed_dim):
        return ""
    kind = f"{layers}/{text_layers} layers, patches of {patch} pixels" if patch else "a ResNet"
    return f"{kind}, D = {width}"
