"""A context over the prompt's first words, BiomedCoOp; and prompts at the input of deeper layers:
PromptSRC, MaPLe, CoPrompt, RESTORE."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nerp.clip.templates import ENSEMBLE_60
from plain_methods.plain import PlainMethod, padded, unit


class PlainOverWords(PlainMethod):
    """ctx [K, W] over the first K tokens of CTX_INIT, whose other words stay."""

    def deep(self, tower: str, layer: int) -> Tensor | None:
        """The tokens [K, W] of a layer >= 2; None for no tokens."""
        return None

    def text(self) -> Tensor:
        return unit(self.text_output())

    def text_output(self) -> Tensor:
        """u [C, D]."""
        ctx = self.tensors["prompt_learner.ctx"]
        n_ctx = len(ctx)
        words = str(self.settings["CTX_INIT"])
        prefix = words if len(words.split()) >= n_ctx else " ".join(["X"] * n_ctx)
        ids = padded([f"{prefix} {name}." for name in self.names])
        x = self.embed(ids)
        many = ctx.expand(len(x), -1, -1)
        x = torch.cat([x[:, :1], many, x[:, 1 + n_ctx :]], 1) + self.positions

        def enter(layer: int, x: Tensor) -> Tensor:
            tokens = self.deep("text", layer)
            if tokens is None:
                return x
            return torch.cat([x[:, :1], tokens.expand(len(x), -1, -1), x[:, 1 + n_ctx :]], 1)

        return self.adapted("text", self.text_tower(x, ids.argmax(1), enter))

    def adapted(self, tower: str, u: Tensor) -> Tensor:
        """The adapted output [..., D] of an encoder."""
        return u


class PlainBiomedCoOp(PlainOverWords):
    """A pull towards the mean of sentences and towards the logits of those that are not outliers.
    `sentences` [C, P, D], the features of each class's sentences, are set from outside."""

    sentences: Tensor

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        t, f = self.text(), self.image(images)
        logits = self.scale * f @ t.t()
        zero_shot = self.frozen_image(images)  # from the second image encoder of the release
        scores = torch.stack([
            (self.scale * zero_shot @ self.sentences[:, i].t()).max(1).values.mean()
            for i in range(self.sentences.shape[1])
        ])
        kept = (scores - scores.mean()).abs() / scores.std() <= self.settings["TAU"]
        if not kept.any():
            kept = torch.ones_like(kept)
        teacher = self.scale * zero_shot @ unit(self.sentences[:, kept].mean(1)).t()
        p = teacher.softmax(1)
        kl = (p * (p.log() - logits.log_softmax(1))).sum() / logits.numel()
        drift = ((t - unit(self.sentences.mean(1))) ** 2).mean()
        return (
            F.cross_entropy(logits, labels)
            + float(self.settings["SCCM_LAMBDA"]) * drift
            + float(self.settings["KDSP_LAMBDA"]) * kl
        )


class PlainDeep(PlainOverWords, ABC):
    """Deep prompts in both encoders."""

    @abstractmethod
    def first_vision(self) -> Tensor:
        """The tokens [K, W_v] of layer 1."""

    def image(self, images: Tensor) -> Tensor:
        return unit(self.image_output(images))

    def image_output(self, images: Tensor) -> Tensor:
        """v [B, D]."""
        def enter(layer: int, x: Tensor) -> Tensor:
            tokens = self.deep("image", layer)
            if tokens is None:
                return x
            return torch.cat([x[:, : -len(tokens)], tokens.expand(len(x), -1, -1)], 1)

        x = self.image_tower(images, enter, extra=self.first_vision())
        return self.adapted("image", self.image_head(x))


class PlainPromptSRC(PlainDeep):
    """Each tower's own prompts; frozen CLIP beside them for the loss."""

    def deep(self, tower: str, layer: int) -> Tensor | None:
        return self.tensors.get(f"{tower}_encoder.transformer.resblocks.{layer - 1}.VPT_shallow")

    def first_vision(self) -> Tensor:
        return self.tensors["image_encoder.VPT"]

    @torch.no_grad()
    def frozen_text(self) -> Tensor:
        features = [
            self.frozen.encode_text(padded([t.format(n) for n in self.names]).to(self.device))
            for t in ENSEMBLE_60
        ]
        return unit(sum(features[1:], features[0]) / len(ENSEMBLE_60))

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
            + float(self.settings["TEXT_LOSS_WEIGHT"]) * (t - t_frozen).abs().mean()
            + float(self.settings["IMAGE_LOSS_WEIGHT"]) * (f - f_frozen).abs().mean()
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
    the images. `sentences`, one per class, and `weight` are set from outside."""

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


class PlainRESTORE(PlainMaPLe):
    """Calibrators behind the towers; the prompts of both grow at the same pace. `first_norms`
    [2, J - 1] of the prompts before training; by default those of the first step."""

    first_norms: Tensor | None = None

    def adapted(self, tower: str, u: Tensor) -> Tensor:
        name, ratio = {"text": ("text_adapter", "text_cali_ratio"),
                       "image": ("visual_adapter", "vis_cali_ratio")}[tower]
        t = self.tensors
        h = F.layer_norm(u, u.shape[-1:], t[f"{name}.post_ln.weight"], t[f"{name}.post_ln.bias"])
        h = F.linear(h, t[f"{name}.FFN.0.weight"], t[f"{name}.FFN.0.bias"])
        h = F.linear(h * torch.sigmoid(1.702 * h), t[f"{name}.FFN.2.weight"],
                     t[f"{name}.FFN.2.bias"])
        return t[ratio] * (u + h) + (1 - t[ratio]) * u

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        entropy = super().loss(images, labels)
        depth = sum("compound_prompts_text" in name for name in self.tensors)
        if not depth:
            return entropy
        norms = torch.stack([
            torch.stack([self.norm(tower, layer) for layer in range(2, 2 + depth)])
            for tower in ("text", "image")
        ])
        if self.first_norms is None:
            self.first_norms = norms.detach()
        pace = norms / self.first_norms
        apart = ((pace[0] - pace[1]) ** 2).sum()
        return entropy + float(self.settings["FS_LOSS_R"]) * apart

    def norm(self, tower: str, layer: int) -> Tensor:
        prompts = self.deep(tower, layer)
        assert prompts is not None  # up to the depth there are some
        length: Tensor = torch.linalg.norm(prompts.t() @ prompts)
        return length
