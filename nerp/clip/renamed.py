"""Conversion of CLIP weights from the names of Hugging Face's transformers to OpenAI's names."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nerp.base.errors import NerpError
from nerp.base.printable import brief
from nerp.clip.modules import HEAD_WIDTH, HEAD_WIDTHS
from nerp.files.json_file import is_node, read_json

_TABLE = "text_model.embeddings.token_embedding.weight"
_DEFAULT = "quick_gelu"
_CONFIG = "config.json"  # save_pretrained writes it beside the weights
_NAMES = {
    _TABLE: "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm": "visual.ln_pre",  # as it is spelt there
    "vision_model.post_layernorm": "visual.ln_post",
    "visual_projection.weight": "visual.proj",
    "logit_scale": "logit_scale",
}
_ENCODERS = {"text_model": "transformer", "vision_model": "visual.transformer"}
_IN_A_LAYER = {
    "self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
}
_TRANSPOSED = ("text_projection", "visual.proj")  # a Linear's weight there, a plain matrix here
_PARTS = ("q_proj", "k_proj", "v_proj")  # in the order of OpenAI's in_proj
_LAYER = re.compile(r"(text_model|vision_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def has_transformers_names(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of a CLIPModel of transformers."""
    return _TABLE in tensors


def with_openai_names(tensors: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The same tensors under OpenAI's names. A tensor without a counterpart keeps its name.

    Raises NerpError, naming the file, if one of a layer's query, key and value tensors is missing.
    """
    renamed: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer = _LAYER.fullmatch(name)
        stem, _, leaf = name.rpartition(".")
        if layer:
            encoder, number, inner, leaf = layer.groups()
            block = f"{_ENCODERS[encoder]}.resblocks.{number}"
            part = inner.removeprefix("self_attn.")
            if part in _PARTS:
                parts.setdefault(f"{block}.attn.in_proj_{leaf}", {})[part] = tensor
            else:
                renamed[f"{block}.{_IN_A_LAYER.get(inner, inner)}.{leaf}"] = tensor
        else:
            own = _NAMES.get(name) or f"{_NAMES.get(stem, stem)}.{leaf}".removeprefix(".")
            renamed[own] = tensor.t() if own in _TRANSPOSED else tensor
    for name, found in parts.items():
        shapes = {tensor.shape for tensor in found.values()}
        if len(found) < len(_PARTS) or len(shapes) > 1:
            raise NerpError(f"{file}: {name}, which its {', '.join(sorted(found))} make, needs "
                            f"{', '.join(_PARTS)} of one shape")
        renamed[name] = torch.cat([found[part] for part in _PARTS])
    return renamed


def config_beside(file: Path) -> Path | None:
    """The config.json beside the weights, which names their activation; None if there is none."""
    config = file.parent / _CONFIG
    return config if config.is_file() else None


def stated_activation(config: Path | None) -> str:
    """The activation that a config.json names, "quick_gelu" or "gelu". Without a file it is
    transformers' default, which is that of OpenAI's models.

    Raises NerpError, naming the file, for another activation, and for heads whose width differs
    from that of CLIP's models of the same width.
    """
    content = read_json(config) if config else {}
    stated = set()
    for name in ("text_config", "vision_config"):
        found = content.get(name)
        part = found if is_node(found) else {}
        stated.add(str(part.get("hidden_act", _DEFAULT)))
        width, heads = part.get("hidden_size"), part.get("num_attention_heads")
        if type(width) is int and type(heads) is int and (
                heads * HEAD_WIDTHS.get(width, HEAD_WIDTH) != width):
            raise NerpError(f"{config}: {name} has {heads} heads in a width of {width}, which no "
                            "CLIP has")
    if len(stated) > 1 or not stated <= {"quick_gelu", "gelu"}:
        raise NerpError(f"{config}: hidden_act is {brief(', '.join(sorted(stated)))}; CLIP's "
                        "encoders both have quick_gelu, or both gelu")
    return stated.pop()
