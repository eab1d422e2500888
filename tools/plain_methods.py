"""Every method written out plainly: open_clip's own blocks, 77 tokens a text, nothing shared.

The reference that the tests compare `nerp.trainers` with, and side B of tools/bench.py. Each class
takes an open_clip model, prompts and the learned tensors under their checkpoint names, and
recomputes everything at every call, frozen CLIP included. Numerics: the methods' papers; for MMA's
gradient, see `PlainMMA.loss`.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nerp.clip.templates import ENSEMBLE_60
from nerp.clip.tokenizer import CONTEXT_LENGTH, encode, tokenize
from nerp.trainers.sar import draw


def padded(texts: Sequence[str]) -> Tensor:
    """Token ids [C, 77], zero after end-of-text."""
    rows = [tokenize(text) for text in texts]
    return torch.tensor([row + [0] * (CONTEXT_LENGTH - len(row)) for row in rows])


def unit(x: Tensor) -> Tensor:
    """x / |x| over the last axis."""
    return x / x.norm(dim=-1, keepdim=True)


def causal_mask(length: int, like: Tensor) -> Tensor:
    """[L, L]: -inf above the diagonal."""
    mask = torch.full((length, length), float("-inf"), device=like.device, dtype=like.dtype)
    return mask.triu(1)


class PlainMethod:
    """Zero-shot CLIP; the methods below override what they change."""

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        template: str,
        tensors: Mapping[str, Tensor],
        settings: Mapping[str, object],
        seen: bool = True,
        frozen: nn.Module | None = None,
    ):
        """frozen: the CLIP that is computed beside the tuned one, where there is a copy for it."""
        self.model = model
        self.frozen = model if frozen is None else frozen
        self.names = list(names)
        self.prompts = [template.format(name) for name in names]
        self.tensors = dict(tensors)
        self.settings = settings
        self.seen = seen
        self.device = next(model.parameters()).device
        self.scale = model.logit_scale.exp()

    # The two towers at full length.

    def text_tower(self, x: Tensor, eot: Tensor, enter=None, branch=None) -> Tensor:
        """Features [C, D] of embeddings [C, L, W] that already hold their positions."""
        for layer, block in enumerate(self.model.transformer.resblocks, 1):
            x = enter(layer, x) if enter else x
            y = block(x, attn_mask=causal_mask(x.shape[1], x))
            x = y + branch(layer, block.ln_1(x)) if branch else y
        x = self.model.ln_final(x)[torch.arange(len(x), device=x.device), eot]
        return x @ self.model.text_projection

    def image_tower(self, images: Tensor, enter=None, branch=None, extra=None) -> Tensor:
        """All tokens [B, N, W] after the last block; `extra` [K, W] goes to the end first."""
        visual = self.model.visual
        x = visual.conv1(images).flatten(2).transpose(1, 2)
        token = visual.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([token, x], 1) + visual.positional_embedding.to(x.dtype)
        if extra is not None:
            x = torch.cat([x, extra.to(x.dtype).expand(len(x), -1, -1)], 1)
        x = visual.ln_pre(x)
        for layer, block in enumerate(visual.transformer.resblocks, 1):
            x = enter(layer, x) if enter else x
            y = block(x)
            x = y + branch(layer, block.ln_1(x)) if branch else y
        return x

    def image_head(self, x: Tensor) -> Tensor:
        """Features [B, D] of the class token, not normalised."""
        return self.model.visual.ln_post(x[:, 0]) @ self.model.visual.proj

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.token_embedding(ids.to(self.device))

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


class PlainCoOp(PlainMethod):
    """ctx [K, W] or [C, K, W]; the name at the end, in the middle or in front."""

    def context_embeddings(self, ctx: Tensor) -> tuple[Tensor, Tensor]:
        """Prompt embeddings [C, 77, W] around ctx [C, K, W], and end-of-text [C]."""
        n_ctx = ctx.shape[1]
        ids = padded([" ".join(["X"] * n_ctx) + f" {name}." for name in self.names])
        x = self.embed(ids)
        start, rest = x[:, :1], x[:, 1 + n_ctx :]
        position = self.settings.get("CLASS_TOKEN_POSITION", "end")
        rows = []
        for c, name in enumerate(self.names):
            n_name = len(encode(name))
            word, tail = rest[c, :n_name], rest[c, n_name:]
            half = n_ctx // 2
            rows.append(torch.cat({
                "end": [start[c], ctx[c], word, tail],
                "middle": [start[c], ctx[c, :half], word, ctx[c, half:], tail],
                "front": [start[c], word, ctx[c], tail],
            }[position]))
        return torch.stack(rows), ids.argmax(1)

    def encode_context(self, ctx: Tensor) -> Tensor:
        x, eot = self.context_embeddings(ctx)
        return unit(self.text_tower(x + self.positions, eot))

    def text(self) -> Tensor:
        ctx = self.tensors["ctx"]
        return self.encode_context(ctx if ctx.dim() == 3 else ctx.expand(len(self.names), -1, -1))


class PlainKgCoOp(PlainCoOp):
    """CoOp's text; a pull towards frozen CLIP's features of the template."""

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        t = self.text()
        pull = 1 - F.cosine_similarity(t, self.frozen_text()).mean()
        logits = self.scale * self.image(images) @ t.t()
        return F.cross_entropy(logits, labels) + self.settings.get("W", 8.0) * pull


def plain_alignment(learned: Tensor, frozen: Tensor, indices: Tensor, scale: float) -> Tensor:
    """SAR's term, row by row."""
    learned, frozen = unit(learned), unit(frozen)
    rows = []
    for i, others in enumerate(indices):
        own = (scale * learned[others] @ learned[i]).log_softmax(0)
        target = (scale * frozen[others] @ frozen[i]).log_softmax(0)
        rows.append((target.exp() * (target - own)).sum())
    return torch.stack(rows).mean()


class PlainCoOpSAR(PlainCoOp):
    """CoOp with SAR's term over trained and novel names. `novel`, `sar` (its settings),
    `frozen_all` (T* of trained and novel names) and `generator` are set from outside."""

    novel: Sequence[str] = ()
    sar: Mapping[str, object]
    frozen_all: Tensor
    generator: torch.Generator

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        everyone = copy.copy(self)
        everyone.names = [*self.names, *self.novel]
        t = everyone.text()
        logits = self.scale * self.image(images) @ t[: len(self.names)].t()
        indices = draw(len(t), self.sar["SAMPLES"], self.generator)
        term = plain_alignment(t, self.frozen_all, indices, self.scale)
        return F.cross_entropy(logits, labels) + self.sar["WEIGHT"] * term


class PlainTCP(PlainKgCoOp):
    """At CLASS_LAYER positions 1..4 of a class are what its frozen feature is mapped to."""

    def text(self) -> Tensor:
        t = self.tensors
        h = F.linear(self.frozen_text(), t["meta_net.linear1.weight"], t["meta_net.linear1.bias"])
        h = h * torch.sigmoid(1.702 * h)
        h = F.linear(h, t["meta_net.linear2.weight"], t["meta_net.linear2.bias"])
        own = h.view(len(self.names), 4, -1)

        def enter(layer, x):
            if layer != self.settings["CLASS_LAYER"]:
                return x
            return torch.cat([x[:, :1], own.to(x.dtype), x[:, 5:]], 1)

        x, eot = self.context_embeddings(t["ctx"].expand(len(self.names), -1, -1))
        return unit(self.text_tower(x + self.positions, eot, enter))


class PlainCoCoOp(PlainCoOp):
    """One text pass an image, as published."""

    def text_of(self, feature: Tensor) -> Tensor:
        t = self.tensors
        h = F.linear(feature, t["meta_net.linear1.weight"], t["meta_net.linear1.bias"])
        shift = F.linear(F.relu(h), t["meta_net.linear2.weight"], t["meta_net.linear2.bias"])
        return self.encode_context((t["ctx"] + shift).expand(len(self.names), -1, -1))

    def logits(self, images: Tensor) -> Tensor:
        features = self.image(images)
        return torch.stack([self.scale * self.text_of(f) @ f for f in features])


class PlainDeep(PlainMethod):
    """Deep prompts in both towers."""

    def deep(self, tower: str, layer: int) -> Tensor | None:
        """The tokens [K, W] of a layer, from 2 on."""
        raise NotImplementedError

    def first_vision(self) -> Tensor:
        """The tokens [K, W_v] of layer 1."""
        raise NotImplementedError

    def text(self) -> Tensor:
        ctx = self.tensors["prompt_learner.ctx"]
        n_ctx = len(ctx)
        words = self.settings["CTX_INIT"]
        prefix = words if len(words.split()) >= n_ctx else " ".join(["X"] * n_ctx)
        ids = padded([f"{prefix} {name}." for name in self.names])
        x = self.embed(ids)
        many = ctx.expand(len(x), -1, -1)
        x = torch.cat([x[:, :1], many, x[:, 1 + n_ctx :]], 1) + self.positions

        def enter(layer, x):
            tokens = self.deep("text", layer)
            if tokens is None:
                return x
            return torch.cat([x[:, :1], tokens.expand(len(x), -1, -1), x[:, 1 + n_ctx :]], 1)

        return unit(self.adapted("text", self.text_tower(x, ids.argmax(1), enter)))

    def image(self, images: Tensor) -> Tensor:
        def enter(layer, x):
            tokens = self.deep("image", layer)
            if tokens is None:
                return x
            return torch.cat([x[:, : -len(tokens)], tokens.expand(len(x), -1, -1)], 1)

        x = self.image_tower(images, enter, extra=self.first_vision())
        return unit(self.adapted("image", self.image_head(x)))

    def adapted(self, tower: str, u: Tensor) -> Tensor:
        """What becomes of a tower's output [..., D]."""
        return u


class PlainPromptSRC(PlainDeep):
    """Each tower's own prompts; frozen CLIP beside them for the loss."""

    def deep(self, tower: str, layer: int) -> Tensor | None:
        return self.tensors.get(f"{tower}_encoder.transformer.resblocks.{layer - 1}.VPT_shallow")

    def first_vision(self) -> Tensor:
        return self.tensors["image_encoder.VPT"]

    @torch.no_grad()
    def frozen_text(self) -> Tensor:
        sums = sum(
            self.frozen.encode_text(padded([t.format(n) for n in self.names]).to(self.device))
            for t in ENSEMBLE_60
        )
        return unit(sums / len(ENSEMBLE_60))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        t, f = self.text(), self.image(images)
        t_frozen, f_frozen = self.frozen_text(), self.frozen_image(images)
        logits = self.scale * f @ t.t()
        zero_shot = self.scale * f_frozen @ t_frozen.t()
        kl = F.kl_div(
            F.log_softmax(logits, 1), F.log_softmax(zero_shot, 1), reduction="sum", log_target=True
        )
        return (
            F.cross_entropy(logits, labels)
            + self.settings["TEXT_LOSS_WEIGHT"] * (t - t_frozen).abs().mean()
            + self.settings["IMAGE_LOSS_WEIGHT"] * (f - f_frozen).abs().mean()
            + kl / logits.numel()
        )


class PlainMaPLe(PlainDeep):
    """The vision tower's prompts are linear maps of the text tower's."""

    def mapped(self, name: str, x: Tensor) -> Tensor:
        name = f"prompt_learner.{name}"
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def deep(self, tower: str, layer: int) -> Tensor | None:
        tokens = self.tensors.get(f"prompt_learner.compound_prompts_text.{layer - 2}")
        if tokens is None or tower == "text":
            return tokens
        return self.mapped(f"compound_prompt_projections.{layer - 2}", tokens)

    def first_vision(self) -> Tensor:
        return self.mapped("proj", self.tensors["prompt_learner.ctx"])


class PlainCoPrompt(PlainMaPLe):
    """Adapters behind the towers; a pull towards the features of sentences and frozen CLIP's of
    the images. `sentences`, one a class, and `weight` are set from outside."""

    sentences: Sequence[str] = ()
    weight = 1.0

    def adapted(self, tower: str, u: Tensor) -> Tensor:
        share = {"image": 0.1, "text": 0.2}[tower]
        h = F.relu(F.linear(u, self.tensors[f"adapter_{tower}.fc.0.weight"]))
        h = F.relu(F.linear(h, self.tensors[f"adapter_{tower}.fc.2.weight"]))
        return share * h + (1 - share) * u

    @torch.no_grad()
    def sentence_features(self) -> Tensor:
        return unit(self.frozen.encode_text(padded(self.sentences).to(self.device)))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        t, f = self.text(), self.image(images)
        text = 1 - F.cosine_similarity(t, self.sentence_features()).mean()
        image = 1 - F.cosine_similarity(f, self.frozen_image(images)).mean()
        entropy = F.cross_entropy(self.scale * f @ t.t(), labels)
        return entropy + self.weight * (text + image)


class PlainMMA(PlainMethod):
    """Adapters beside the blocks of layers ADAPTER_START..ADAPTER_END."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.prompts = [f"{self.settings['TEXT_CTX_INIT']} {name}." for name in self.names]

    def branch(self, tower: str):
        t, scale = self.tensors, self.settings["ADAPTER_SCALE"]

        def run(layer, h):
            if not self.settings["ADAPTER_START"] <= layer <= self.settings["ADAPTER_END"]:
                return 0.0
            for name, relu in (
                (f"{tower}_adapter.{layer}.down.0", True),
                (f"shared_adapter.{layer}.0", True),
                (f"{tower}_adapter.{layer}.up", False),
            ):
                h = F.linear(h, t[f"{name}.weight"], t[f"{name}.bias"])
                h = F.relu(h) if relu else h
            return scale * h

        return run

    def text(self) -> Tensor:
        ids = padded(self.prompts)
        x = self.embed(ids) + self.positions
        return unit(self.text_tower(x, ids.argmax(1), branch=self.branch("text")))

    def image(self, images: Tensor) -> Tensor:
        return unit(self.image_head(self.image_tower(images, branch=self.branch("visual"))))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Its gradient in the adapters is 1 / ADAPTER_SCALE of autograd's: the published
        adapters do not see the factor. `unscale` puts that right after the backward pass."""
        return super().loss(images, labels)

    def unscale(self) -> None:
        for tensor in self.tensors.values():
            tensor.grad /= self.settings["ADAPTER_SCALE"]


class PlainInserted(PlainMethod):
    """Tokens after the first position of both towers' upper layers; a second image feature."""

    layers_key = "REP_LAYERS"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.scale = 100.0
        self.layers = list(self.settings[self.layers_key])

    def tokens_of(self, kind: str, i: int) -> Tensor:
        """[K, W] of the i-th layer."""
        raise NotImplementedError

    def over(self, tokens: Tensor, there: Tensor) -> Tensor:
        """What `there` becomes at a later layer."""
        return tokens

    @property
    def projection(self) -> Tensor:
        """[W_v, D] of the second feature."""
        raise NotImplementedError

    def enter(self, kind: str):
        def run(layer, x):
            if layer not in self.layers:
                return x
            i = self.layers.index(layer)
            tokens = self.tokens_of(kind, i).expand(len(x), -1, -1)
            if i == 0:
                return torch.cat([x[:, :1], tokens, x[:, 1:]], 1)
            count = tokens.shape[1]
            tokens = self.over(tokens, x[:, 1 : 1 + count])
            return torch.cat([x[:, :1], tokens, x[:, 1 + count :]], 1)

        return run

    def text(self) -> Tensor:
        ids = padded(self.prompts)
        eot = ids.argmax(1) + len(self.tokens_of("t", 0))
        return unit(self.text_tower(self.embed(ids) + self.positions, eot, self.enter("t")))

    def images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """f and the second feature."""
        x = self.image_tower(images, self.enter("v"))
        count = len(self.tokens_of("v", 0))
        second = self.model.visual.ln_post(x[:, 1 : 1 + count]).mean(1)
        return unit(self.image_head(x)), unit(second @ self.projection)

    def drift(self, images: Tensor, f: Tensor, t: Tensor) -> Tensor:
        image = 1 - F.cosine_similarity(f, self.frozen_image(images)).mean()
        return image + 1 - F.cosine_similarity(t, self.frozen_text()).mean()


class PlainMMRL(PlainInserted):
    """Representation tokens with a map a tower and layer."""

    def tokens_of(self, kind: str, i: int) -> Tensor:
        base = "representation_learner.compound_rep_tokens"
        name = f"{base}_r2{kind}proj.{i}"
        return F.linear(
            self.tensors[base], self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        )

    @property
    def projection(self) -> Tensor:
        return self.tensors["image_encoder.proj_rep"]

    def logits(self, images: Tensor) -> Tensor:
        t = self.text()
        z, z_rep = (self.scale * f @ t.t() for f in self.images(images))
        alpha = self.settings["ALPHA"]
        return alpha * z + (1 - alpha) * z_rep if self.seen else z

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        t, (f, f_rep) = self.text(), self.images(images)
        alpha, weight = self.settings["ALPHA"], self.settings["REG_WEIGHT"]
        entropy, entropy_rep = (
            F.cross_entropy(self.scale * x @ t.t(), labels) for x in (f, f_rep)
        )
        return alpha * entropy + (1 - alpha) * entropy_rep + weight * self.drift(images, f, t)


class PlainMMRLpp(PlainMMRL):
    """MMRL whose maps are a shared weight plus a product of two, its later tokens blended."""

    def tokens_of(self, kind: str, i: int) -> Tensor:
        t, base = self.tensors, f"representation_learner.srra_r2{kind}proj"
        weight = t[f"{base}.weight"] + t[f"{base}.srra.{i}.A"] @ t[f"{base}.srra.{i}.B"]
        tokens = t["representation_learner.compound_rep_tokens"]
        return F.linear(tokens, weight, t[f"{base}.srra.{i}.bias"])

    def over(self, tokens: Tensor, there: Tensor) -> Tensor:
        beta = self.settings["BETA"]
        return beta * tokens + (1 - beta) * there

    @property
    def projection(self) -> Tensor:
        low_rank = self.tensors["image_encoder.A"] @ self.tensors["image_encoder.B"]
        return self.model.visual.proj + low_rank


class PlainANPrompt(PlainInserted):
    """Tokens with noise prompts added; a second classifier of two sentences a class."""

    layers_key = "LAYERS"

    def tokens_of(self, kind: str, i: int) -> Tensor:
        t, tower = self.tensors, {"v": "vision", "t": "text"}[kind]
        noise = self.settings["EPSILON"] * t["prompt_learner.noise_prompts"]
        name = f"prompt_learner.{tower}_maps.{i}"
        tokens = t["prompt_learner.tokens"] + noise
        return F.linear(tokens, t[f"{name}.weight"], t[f"{name}.bias"])

    @property
    def projection(self) -> Tensor:
        return self.tensors["image_encoder.proj_prompt"]

    @torch.no_grad()
    def weak_text(self) -> Tensor:
        """f_w, normalised."""
        main, noise = (
            json.loads(Path(file).read_text()) if (file := self.settings[f"{kind}_TEXTS"]) else None
            for kind in ("MAIN", "NOISE")
        )
        main = [main[n] for n in self.names] if main else [[prompt] for prompt in self.prompts]
        noise = [noise[n] if noise else [t.format(n) for t in ENSEMBLE_60] for n in self.names]
        drawn = map(int, self.tensors["prompt_learner.drawn"])
        f_m, f_n = (
            unit(self.frozen.encode_text(padded([t[i % len(t)] for t in texts]).to(self.device)))
            for i, texts in zip(drawn, (main, noise), strict=True)
        )
        return unit(f_m + self.settings["ALPHA"] * f_n)

    def logits(self, images: Tensor) -> Tensor:
        f, theta = self.images(images)[0], self.settings["THETA"]
        return self.scale * (theta * f @ self.text().t() + (1 - theta) * f @ self.weak_text().t())

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        t, (f, prototype), weak_text = self.text(), self.images(images), self.weak_text()
        aligned = self.scale * f @ t.t()
        robust, weak = (self.scale * x @ weak_text.t() for x in (f, prototype))
        p, q = weak.log_softmax(1), aligned.log_softmax(1)
        gamma = 1 / (robust.std() * robust.numel() + 1e-6)
        divergence = (p.exp() * (p - q)).sum()
        drift = self.settings["SIM_WEIGHT"] * self.drift(images, f, t)
        return F.cross_entropy(aligned, labels) + drift + gamma * divergence


PLAIN = {
    "ZeroshotCLIP": PlainMethod,
    "CoOp": PlainCoOp,
    "CoCoOp": PlainCoCoOp,
    "PromptSRC": PlainPromptSRC,
    "CoOp_SAR": PlainCoOpSAR,
    "KgCoOp": PlainKgCoOp,
    "TCP": PlainTCP,
    "MaPLe": PlainMaPLe,
    "CoPrompt": PlainCoPrompt,
    "MMA": PlainMMA,
    "MMRL": PlainMMRL,
    "MMRLpp": PlainMMRLpp,
    "ANPrompt": PlainANPrompt,
}
