"""CasPL: its boosting phase; CoOp, CoCoOp, MaPLe and PromptSRC beside frozen boosting tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor

from plain_methods.deep import PlainMaPLe, PlainPromptSRC
from plain_methods.plain import OpenCLIP, PlainMethod, padded, unit

_BOOSTING = "{}_encoder.transformer.resblocks.{}.VPT_shallow_FIRST"


def placed(x: Tensor, begin: int, tokens: Tensor | None) -> Tensor:
    """x [B, L, W] with tokens [K, W] at the positions from `begin` on of every row."""
    if tokens is None:
        return x
    end = begin + len(tokens)
    return torch.cat([x[:, :begin], tokens.expand(len(x), -1, -1), x[:, end:]], 1)


class PlainBoosted(PlainMethod):
    """Boosting tokens beside the method's own, of which there may be none."""

    MOST_WORDS = 4  # a longer context does not start from words

    def deep(self, tower: str, layer: int) -> Tensor | None:
        return None

    def first_vision(self) -> Tensor:
        return self.tensors["image_encoder.VPT_FIRST"][:0]

    def boosting(self, tower: str, layer: int) -> Tensor | None:
        return self.tensors.get(_BOOSTING.format(tower, layer - 1))

    def gap(self, layer: int, n_own: int) -> int:
        """The number of words between the method's text tokens and the boosting tokens."""
        return 0

    def prefix(self, n_own: int) -> str:
        """CTX_INIT if the method's tokens start from it, else one placeholder per token."""
        words = str(self.settings["CTX_INIT"])
        return words if n_own <= min(self.MOST_WORDS, len(words.split())) else \
            " ".join(["X"] * n_own)

    def encode(self, ctx: Tensor) -> Tensor:
        first, own = self.tensors["prompt_learner_teacher.ctx"], len(ctx)
        prefix = f"{self.prefix(own)} {' '.join(['X'] * len(first))}"
        ids = padded([f"{prefix} {name}." for name in self.names])

        def both(layer: int, x: Tensor, tokens: Tensor | None, boosting: Tensor | None) -> Tensor:
            return placed(placed(x, 1, tokens), 1 + own + self.gap(layer, own), boosting)

        def enter(layer: int, x: Tensor) -> Tensor:
            if layer == 1:
                return x
            return both(layer, x, self.deep("text", layer), self.boosting("text", layer))

        x = both(1, self.embed(ids), ctx, first) + self.positions
        return unit(self.text_tower(x, ids.argmax(1), enter))

    def text(self) -> Tensor:
        return self.encode(self.tensors["prompt_learner.ctx"])

    def image(self, images: Tensor) -> Tensor:
        first, own = self.tensors["image_encoder.VPT_FIRST"], self.first_vision()

        def enter(layer: int, x: Tensor) -> Tensor:
            if layer == 1:
                return x
            x = placed(x, x.shape[1] - len(own), self.deep("image", layer))
            begin = x.shape[1] - len(own) - len(first)
            return placed(x, begin, self.boosting("image", layer))

        x = self.image_tower(images, enter, extra=torch.cat([first, own]))
        return unit(self.image_head(x))


class PlainCasPL(PlainBoosted):
    """The boosting phase. `teacher`, an open_clip model, is set from outside."""

    teacher: OpenCLIP

    @torch.no_grad()
    def teacher_text(self) -> Tensor:
        return unit(self.teacher.encode_text(padded(self.prompts).to(self.device)))

    def text(self) -> Tensor:
        first = self.tensors["prompt_learner_teacher.ctx"]
        ids = padded([f"{self.prefix(len(first))} {name}." for name in self.names])

        def enter(layer: int, x: Tensor) -> Tensor:
            return placed(x, 1, self.boosting("text", layer)) if layer > 1 else x

        x = placed(self.embed(ids), 1, first) + self.positions
        return unit(self.text_tower(x, ids.argmax(1), enter))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        temperature = float(self.settings["TEMPERATURE"])
        with torch.no_grad():
            f = unit(self.teacher.encode_image(images))
            target = self.scale * f @ self.teacher_text().t()
        p = (target / temperature).softmax(1)
        own = (self.logits(images) / temperature).log_softmax(1)
        return temperature**2 * (p * (p.log() - own)).sum() / len(images)


class PlainCasPLCoOp(PlainBoosted):
    """CoOp's context, however many words it has, and the boosting tokens."""

    MOST_WORDS = 77


class PlainCasPLCoCoOp(PlainCasPLCoOp):
    """One text pass per image; the boosting tokens are not shifted."""

    def logits(self, images: Tensor) -> Tensor:
        t = {name.removeprefix("prompt_learner."): x for name, x in self.tensors.items()}
        rows = []
        for f in self.image(images):
            h = F.relu(F.linear(f, t["meta_net.linear1.weight"], t["meta_net.linear1.bias"]))
            shift = F.linear(h, t["meta_net.linear2.weight"], t["meta_net.linear2.bias"])
            rows.append(self.scale * self.encode(t["ctx"] + shift) @ f)
        return torch.stack(rows)


class PlainCasPLMaPLe(PlainBoosted):
    """MaPLe's prompts and the boosting tokens."""

    mapped, deep = PlainMaPLe.mapped, PlainMaPLe.deep
    first_vision = PlainMaPLe.first_vision

    def gap(self, layer: int, n_own: int) -> int:
        return 2 if n_own == 2 else 0


class PlainCasPLPromptSRC(PlainBoosted):
    """PromptSRC's prompts and the boosting tokens; frozen CLIP beside them for the loss."""

    deep, first_vision = PlainPromptSRC.deep, PlainPromptSRC.first_vision
    frozen_text, loss = PlainPromptSRC.frozen_text, PlainPromptSRC.loss

    def gap(self, layer: int, n_own: int) -> int:
        return 2 if n_own == 2 and layer > 1 else 0
