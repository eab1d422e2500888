"""Tokens put into both towers: MMRL, MMRL++, ANPrompt."""

import json
from abc import ABC, abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nerp.clip.templates import ENSEMBLE_60
from plain_methods.plain import Enter, PlainMethod, padded, unit


class PlainInserted(PlainMethod, ABC):
    """Tokens after the first position of both towers' upper layers; a second image feature."""

    layers_key = "REP_LAYERS"

    def prepare(self) -> None:
        self.scale = 100.0
        self.layers: list[int] = list(self.settings[self.layers_key])

    @abstractmethod
    def tokens_of(self, kind: str, i: int) -> Tensor:
        """The tokens [K, W] of the i-th layer."""

    def over(self, tokens: Tensor, there: Tensor) -> Tensor:
        """The values that replace `there` at a later layer."""
        return tokens

    @property
    @abstractmethod
    def projection(self) -> Tensor:
        """The projection [W_v, D] of the second feature."""

    def enter(self, kind: str) -> Enter:
        def run(layer: int, x: Tensor) -> Tensor:
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
        """f and the second feature, [B, D] each."""
        x = self.image_tower(images, self.enter("v"))
        count = len(self.tokens_of("v", 0))
        second: Tensor = self.model.visual.ln_post(x[:, 1 : 1 + count]).mean(1)
        return unit(self.image_head(x)), unit(second @ self.projection)

    def drift(self, images: Tensor, f: Tensor, t: Tensor) -> Tensor:
        image = 1 - F.cosine_similarity(f, self.frozen_image(images)).mean()
        return image + 1 - F.cosine_similarity(t, self.frozen_text()).mean()


class PlainMMRL(PlainInserted):
    """Representation tokens with a map per encoder and layer."""

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
        alpha = float(self.settings["ALPHA"])
        return alpha * z + (1 - alpha) * z_rep if self.seen else z

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        t, (f, f_rep) = self.text(), self.images(images)
        alpha, weight = float(self.settings["ALPHA"]), float(self.settings["REG_WEIGHT"])
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
        beta = float(self.settings["BETA"])
        return beta * tokens + (1 - beta) * there

    @property
    def projection(self) -> Tensor:
        low_rank = self.tensors["image_encoder.A"] @ self.tensors["image_encoder.B"]
        return self.model.visual.proj + low_rank


class PlainANPrompt(PlainInserted):
    """Tokens with noise prompts added; a second classifier of two sentences per class."""

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
        """f_w [C, D], normalised."""
        main, noise = (
            json.loads(Path(file).read_text()) if (file := self.settings[f"{kind}_TEXTS"]) else None
            for kind in ("MAIN", "NOISE")
        )
        mains: list[list[str]] = [main[n] for n in self.names] if main else \
            [[prompt] for prompt in self.prompts]
        noises: list[list[str]] = [
            noise[n] if noise else [t.format(n) for t in ENSEMBLE_60] for n in self.names
        ]
        drawn = map(int, self.tensors["prompt_learner.drawn"])
        f_m, f_n = (
            unit(self.frozen.encode_text(padded([t[i % len(t)] for t in texts]).to(self.device)))
            for i, texts in zip(drawn, (mains, noises), strict=True)
        )
        return unit(f_m + self.settings["ALPHA"] * f_n)

    def logits(self, images: Tensor) -> Tensor:
        f, theta = self.images(images)[0], float(self.settings["THETA"])
        return self.scale * (theta * f @ self.text().t() + (1 - theta) * f @ self.weak_text().t())

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        t, (f, prototype), weak_text = self.text(), self.images(images), self.weak_text()
        aligned = self.scale * f @ t.t()
        robust, weak = (self.scale * x @ weak_text.t() for x in (f, prototype))
        p, q = weak.log_softmax(1), aligned.log_softmax(1)
        gamma = 1 / (robust.std() * robust.numel() + 1e-6)
        divergence = (p.exp() * (p - q)).sum()
        drift = float(self.settings["SIM_WEIGHT"]) * self.drift(images, f, t)
        return F.cross_entropy(aligned, labels) + drift + gamma * divergence
