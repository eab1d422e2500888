"""Changes inside the blocks: CLIP-LoRA's low-rank terms, MoCoOp's norms and its mixed prompts."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nerp.clip.tokenizer import encode
from plain_methods.plain import Block, PlainMethod, padded, unit

_LORA = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "proj"}


class PlainCLIPLoRA(PlainMethod):
    """V x + gamma B A x in every layer of the adapted encoders; POSITION all."""

    def prepare(self) -> None:
        self.prompts = [f"a photo of a {name}." for name in self.names]
        self.scale = 100.0

    def adapted(self, kind: str, layer: int, part: str, x: Tensor) -> Tensor | float:
        """The term of a part of a layer; 0 if the part is not adapted."""
        encoder = self.settings["ENCODER"]
        if encoder not in ("both", kind) or part not in self.settings["PARAMS"]:
            return 0.0
        number = layer - 1
        if (kind, encoder) == ("vision", "both"):
            number += len(self.model.transformer.resblocks)
        name = f"layer_{number}.{_LORA[part]}.w_lora"
        gamma = float(self.settings["ALPHA"] / self.settings["RANK"] ** 0.5)
        low = F.linear(x, self.tensors[f"{name}_A"])
        return gamma * F.linear(low, self.tensors[f"{name}_B"])

    def run_block(
        self, kind: str, layer: int, block: Block, x: Tensor, mask: Tensor | None
    ) -> Tensor:
        attn, h = block.attn, block.ln_1(x)
        inputs = F.linear(h, attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
        q, k, v = (
            (y + self.adapted(kind, layer, part, h)).unflatten(2, (attn.num_heads, -1))
            .transpose(1, 2) for part, y in zip("qkv", inputs, strict=True)
        )
        out = F.scaled_dot_product_attention(q, k, v, None if mask is None else mask.to(q.dtype))
        out = out.transpose(1, 2).flatten(2)
        x = x + attn.out_proj(out) + self.adapted(kind, layer, "o", out)
        further: Tensor = block.mlp(block.ln_2(x))
        return x + further

    def text(self) -> Tensor:
        ids = padded(self.prompts)
        return unit(self.text_tower(self.embed(ids) + self.positions, ids.argmax(1)))

    def image(self, images: Tensor) -> Tensor:
        return unit(self.image_head(self.image_tower(images)))


class PlainMoCoOp(PlainMethod):
    """Each expert's prompts at 77 tokens; an image's two experts are mixed row by row. `prototypes`
    [G, C, D], P, are set from outside: they are encoded once per run."""

    prototypes: Tensor

    def run_block(
        self, kind: str, layer: int, block: Block, x: Tensor, mask: Tensor | None
    ) -> Tensor:
        if kind == "text":
            return super().run_block(kind, layer, block, x, mask)

        def norm(name: str, x: Tensor) -> Tensor:
            name = f"image_encoder.transformer.resblocks.{layer - 1}.{name}"
            weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
            return F.layer_norm(x.float(), (len(weight),), weight, bias, 1e-5).to(x.dtype)

        h = norm("ln_1", x)
        x = x + block.attn(h, h, h, need_weights=False)[0]
        further: Tensor = block.mlp(norm("ln_2", x))
        return x + further

    def expert(self, number: int, template: str) -> Tensor:
        before, behind = template.replace(".", "").split("{}")
        ids = padded([f"{before[:-1]} {name}{behind}" for name in self.names])
        x = self.embed(ids).clone()
        own = [self.tensors[f"prompt_learner.ctx_{side}_{number}"] for side in ("before", "after")]
        for c, name in enumerate(self.names):
            start = 1 + len(own[0]) + len(encode(name))
            x[c, 1 : 1 + len(own[0])] = own[0].to(x.dtype)
            x[c, start : start + len(own[1])] = own[1].to(x.dtype)
        u = self.text_tower(x + self.positions, ids.argmax(1))
        return unit(u + self.tensors["prompt_learner.w"])

    def experts(self) -> Tensor:
        groups: Sequence[int] = self.settings["GROUPS"]
        firsts = [self.settings["PROMPTS"][sum(groups[:g])] for g in range(len(groups))]
        return torch.stack([self.expert(g, template) for g, template in enumerate(firsts)])

    def image(self, images: Tensor) -> Tensor:
        return unit(self.image_head(self.image_tower(images)))

    def gate(self, image: Tensor) -> Tensor:
        t = self.tensors
        return F.linear(image, t["prompt_learner.gate.weight"], t["prompt_learner.gate.bias"])

    def mixed(self, image: Tensor, experts: Tensor) -> Tensor:
        rows = []
        for f, q in zip(image, self.gate(image), strict=True):
            values, best = q.topk(2)
            t = (values.softmax(0)[:, None, None] * experts[best]).sum(0)
            rows.append(self.scale * t @ f)
        return torch.stack(rows)

    def logits(self, images: Tensor) -> Tensor:
        return self.mixed(self.image(images), self.experts())

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        image, experts = self.image(images), self.experts()
        classes = torch.arange(len(self.names), device=image.device)
        text = torch.stack([
            F.cross_entropy(e @ p.t(), classes)
            for e, p in zip(experts, self.prototypes, strict=True)
        ]).mean()
        alike = torch.stack([self.prototypes[:, y] @ f for f, y in zip(image, labels, strict=True)])
        favoured = torch.zeros_like(alike).scatter(1, alike.topk(2).indices, 10.0)
        gate = F.cross_entropy(self.gate(image), (alike + favoured).softmax(1))
        entropy = F.cross_entropy(self.mixed(image, experts), labels)
        s = self.settings
        weights = float(s["TEXT_LOSS_WEIGHT"]), float(s["GATE_LOSS_WEIGHT"])
        return entropy + weights[0] * text + weights[1] * gate
