"""A learned context before the class name: CoOp, KgCoOp, ProGrad, SAR on CoOp, TCP, CoCoOp."""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nerp.clip.tokenizer import encode
from nerp.trainers.sar import draw
from plain_methods.plain import PlainMethod, Settings, padded, unit


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
        return F.cross_entropy(logits, labels) + float(self.settings.get("W", 8.0)) * pull


class PlainProGrad(PlainCoOp):
    """CoOp's text, its context shorter than the words by a comma; zero-shot CLIP beside it, which
    encodes the images too. `project`, after the backward pass, is the step's last part."""

    def context_embeddings(self, ctx: Tensor) -> tuple[Tensor, Tensor]:
        if self.settings["CTX_INIT"] != "template":
            return super().context_embeddings(ctx)
        words = self.template.replace(" {}.", "")
        placeholders = " ".join(["X"] * (ctx.shape[1] - len(words.split(" "))))
        ids = padded([f"{placeholders} {words} {name}." for name in self.names])
        x = self.embed(ids)
        return torch.cat([x[:, :1], ctx, x[:, 1 + ctx.shape[1] :]], 1), ids.argmax(1)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        z = self.logits(images)
        with torch.no_grad():
            f = unit(self.frozen.encode_image(images))
            frozen = self.scale * f @ self.frozen_text().t()
        temperature = self.settings["T"]
        q = (frozen / temperature).softmax(1)
        p = (z / temperature).log_softmax(1)
        alignment = -temperature**2 * (q * p).sum(1).mean()
        (self.conflicting,) = torch.autograd.grad(alignment, self.tensors["ctx"], retain_graph=True)
        return F.cross_entropy(z, labels)

    def project(self) -> None:
        ctx = self.tensors["ctx"]
        n = self.conflicting / self.conflicting.norm()
        dot = (ctx.grad * n).sum()
        if dot < 0:
            ctx.grad -= self.settings["LAMBDA"] * dot * n


def plain_alignment(
    learned: Tensor, frozen: Tensor, indices: Tensor, scale: Tensor | float
) -> Tensor:
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
    sar: Settings
    frozen_all: Tensor
    generator: torch.Generator

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        everyone = copy.copy(self)
        everyone.names = [*self.names, *self.novel]
        t = everyone.text()
        logits = self.scale * self.image(images) @ t[: len(self.names)].t()
        indices = draw(len(t), self.sar["SAMPLES"], self.generator)
        term = plain_alignment(t, self.frozen_all, indices, self.scale)
        return F.cross_entropy(logits, labels) + float(self.sar["WEIGHT"]) * term


class PlainTCP(PlainKgCoOp):
    """At CLASS_LAYER tokens mapped from a class's frozen feature replace its positions 1..4."""

    def text(self) -> Tensor:
        t = self.tensors
        h = F.linear(self.frozen_text(), t["meta_net.linear1.weight"], t["meta_net.linear1.bias"])
        h = h * torch.sigmoid(1.702 * h)
        h = F.linear(h, t["meta_net.linear2.weight"], t["meta_net.linear2.bias"])
        own = h.view(len(self.names), 4, -1)

        def enter(layer: int, x: Tensor) -> Tensor:
            if layer != self.settings["CLASS_LAYER"]:
                return x
            return torch.cat([x[:, :1], own.to(x.dtype), x[:, 5:]], 1)

        x, eot = self.context_embeddings(t["ctx"].expand(len(self.names), -1, -1))
        return unit(self.text_tower(x + self.positions, eot, enter))


class PlainCoCoOp(PlainCoOp):
    """One text pass per image, as in the published code."""

    def text_of(self, feature: Tensor) -> Tensor:
        t = self.tensors
        h = F.linear(feature, t["meta_net.linear1.weight"], t["meta_net.linear1.bias"])
        shift = F.linear(F.relu(h), t["meta_net.linear2.weight"], t["meta_net.linear2.bias"])
        return self.encode_context((t["ctx"] + shift).expand(len(self.names), -1, -1))

    def logits(self, images: Tensor) -> Tensor:
        features = self.image(images)
        return torch.stack([self.scale * self.text_of(f) @ f for f in features])
