"""The small random CLIP behind the golden vectors, drawn tensor by tensor from one seed.

`random_clip(0)` is the backbone that tests/golden was made with: numpy's legacy generator draws
every tensor in the order of OpenAI's state dict, and values are rounded through float16.
"""

from dataclasses import dataclass

import numpy as np
import torch
from open_clip.model import build_model_from_openai_state_dict


@dataclass(frozen=True)
class Sizes:
    """Shapes of a CLIP; the defaults are those of the golden vectors."""

    embed: int = 64
    pixels: int = 32
    patch: int = 8
    vision_width: int = 192
    vision_layers: int = 4
    text_width: int = 128
    text_layers: int = 4
    context: int = 77
    vocabulary: int = 49408


def _tower(prefix: str, width: int, layers: int):
    for i in range(layers):
        for name, shape in (
            ("attn.in_proj_weight", (3 * width, width)),
            ("attn.in_proj_bias", (3 * width,)),
            ("attn.out_proj.weight", (width, width)),
            ("attn.out_proj.bias", (width,)),
            ("ln_1.weight", (width,)),
            ("ln_1.bias", (width,)),
            ("mlp.c_fc.weight", (4 * width, width)),
            ("mlp.c_fc.bias", (4 * width,)),
            ("mlp.c_proj.weight", (width, 4 * width)),
            ("mlp.c_proj.bias", (width,)),
            ("ln_2.weight", (width,)),
            ("ln_2.bias", (width,)),
        ):
            yield f"{prefix}.resblocks.{i}.{name}", shape


def _shapes(s: Sizes):
    v, t = s.vision_width, s.text_width
    yield "visual.class_embedding", (v,)
    yield "visual.positional_embedding", ((s.pixels // s.patch) ** 2 + 1, v)
    yield "visual.proj", (v, s.embed)
    yield "visual.conv1.weight", (v, 3, s.patch, s.patch)
    for ln in ("ln_pre", "ln_post"):
        yield f"visual.{ln}.weight", (v,)
        yield f"visual.{ln}.bias", (v,)
    yield from _tower("visual.transformer", v, s.vision_layers)
    yield from _tower("transformer", t, s.text_layers)
    yield "positional_embedding", (s.context, t)
    yield "text_projection", (t, s.embed)
    yield "token_embedding.weight", (s.vocabulary, t)
    yield "ln_final.weight", (t,)
    yield "ln_final.bias", (t,)


def _scaled(name: str, draw: np.ndarray) -> np.ndarray:
    if ".ln_" in name or name.startswith("ln_"):
        return 1 + 0.1 * draw if name.endswith("weight") else 0.05 * draw
    if name.endswith("bias"):
        return 0.02 * draw
    if "embedding" in name:
        return 0.5 * draw
    projection = name in ("visual.proj", "text_projection")
    fan_in = draw.shape[0] if projection else draw[0].size
    return draw / np.sqrt(fan_in)


def random_clip(seed: int = 0, sizes: Sizes = Sizes()) -> dict[str, torch.Tensor]:
    """An OpenAI-format state dict in float32, its logit scale 100."""
    rng = np.random.RandomState(seed)
    state = {}
    for name, shape in _shapes(sizes):
        values = _scaled(name, rng.standard_normal(shape))
        state[name] = torch.from_numpy(values.astype(np.float16).astype(np.float32))
    state["logit_scale"] = torch.tensor(np.log(100.0), dtype=torch.float32)
    return state


def open_clip_model(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """open_clip's own model of an OpenAI state dict whose values survive float16; frozen."""
    model = build_model_from_openai_state_dict(dict(state), cast_dtype=torch.float32)
    return model.float().requires_grad_(False)


def _resnet_shapes(width: int = 8, embed: int = 64, grid: int = 2):
    """A ResNet of one block a stage: stem, four stages, attention over grid x grid places."""
    def norm(name: str, count: int):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.{leaf}", (count,)

    for i, (before, after) in enumerate(
            ((3, width // 2), (width // 2, width // 2), (width // 2, width)), 1):
        yield f"visual.conv{i}.weight", (after, before, 3, 3)
        yield from norm(f"visual.bn{i}", after)
    before = width
    for stage in range(1, 5):
        block, inner = f"visual.layer{stage}.0.", width * 2 ** (stage - 1)
        for i, shape in ((1, (inner, before, 1, 1)), (2, (inner, inner, 3, 3)),
                         (3, (4 * inner, inner, 1, 1))):
            yield f"{block}conv{i}.weight", shape
            yield from norm(f"{block}bn{i}", shape[0])
        yield f"{block}downsample.0.weight", (4 * inner, before, 1, 1)
        yield from norm(f"{block}downsample.1", 4 * inner)
        before = 4 * inner
    yield "visual.attnpool.positional_embedding", (grid * grid + 1, before)
    for part, count in (("k", before), ("q", before), ("v", before), ("c", embed)):
        yield f"visual.attnpool.{part}_proj.weight", (count, before)
        yield f"visual.attnpool.{part}_proj.bias", (count,)


def random_resnet(seed: int = 0) -> dict[str, torch.Tensor]:
    """`random_clip(seed)` with a small ResNet as its image encoder, for 64 pixels."""
    rng = np.random.RandomState(1000 + seed)
    state = {n: t for n, t in random_clip(seed).items() if not n.startswith("visual.")}
    for name, shape in _resnet_shapes():
        draw = rng.standard_normal(shape)
        if name.endswith("running_var"):
            draw = 1.0 + 0.2 * np.abs(draw)
        elif name.endswith(("running_mean", "bias")):
            draw = 0.05 * draw
        elif len(shape) == 1:
            draw = 1.0 + 0.1 * draw
        elif "positional" in name:
            draw = 0.5 * draw
        else:
            draw = draw * np.sqrt(2 / np.prod(shape[1:]))
        state[name] = torch.from_numpy(draw.astype(np.float16).astype(np.float32))
    return state
