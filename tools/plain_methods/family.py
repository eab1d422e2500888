"""DePT on MaPLe, PLOT, PLOT++ and DeCoOp's first phase."""

import torch
import torch.nn.functional as F
from torch import Tensor

from plain_methods.context import PlainCoOp
from plain_methods.deep import PlainMaPLe
from plain_methods.plain import PlainMethod, padded, unit


class PlainMaPLeDePT(PlainMaPLe):
    """MaPLe's features, and a linear head on these features before normalisation.
    `head_weight` is set from outside."""

    head_weight = 0.7

    def head(self, kind: str, x: Tensor) -> Tensor:
        scale, bias = (self.tensors[f"film_lp_{kind}.{leaf}"] for leaf in ("scale", "bias"))
        return F.linear(x * scale + bias, self.tensors["linear_probe_proj.weight"],
                        self.tensors["linear_probe_proj.bias"])

    def outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The encoders' outputs v and u, not normalised."""
        return self.image_output(images), self.text_output()

    def logits(self, images: Tensor) -> Tensor:
        v, u = self.outputs(images)
        own = self.scale * unit(v) @ unit(u).t()
        if not self.seen:
            return own
        return (1 - self.head_weight) * own + self.head_weight * self.head("img", v)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        v, u = self.outputs(images)
        own = F.cross_entropy(self.scale * unit(v) @ unit(u).t(), labels)
        both = torch.cat([self.head("text", u[labels]), self.head("img", v)])
        head = F.cross_entropy(both, torch.cat([labels, labels]))
        return (1 - self.head_weight) * own + self.head_weight * head


def plan(cosines: Tensor, together: bool) -> Tensor:
    """T [B, C, M, N]. With `together` the iteration stops for all images at once, else for each
    image by itself."""
    if not together:
        return torch.cat([plan(own[None], True) for own in cosines])
    places, contexts = cosines.shape[2:]
    q = torch.exp((cosines - 1) / 0.1)
    r, c = torch.ones_like(q[..., 0]), torch.ones_like(q[:, :, 0])
    for _ in range(100):
        before = r
        r = 1 / places / (q * c[:, :, None]).sum(3)
        c = 1 / contexts / (q * r[..., None]).sum(2)
        if (r - before).abs().mean() < 0.01:
            break
    return r[..., None] * q * c[:, :, None]


class PlainPLOT(PlainCoOp):
    """N passes of the text encoder; local features are the last block's patch tokens."""

    def prompt_features(self) -> Tensor:
        count = len(self.names)
        return torch.stack([self.encode_context(ctx.expand(count, -1, -1))
                            for ctx in self.tensors["ctx"]])

    @torch.no_grad()
    def local_features(self, images: Tensor) -> Tensor:
        visual = self.model.visual
        tokens = visual.ln_post(self.image_tower(images)[:, 1:]) @ visual.proj
        return unit(tokens).transpose(0, 1)

    def matched(self, images: Tensor, together: bool) -> Tensor:
        local, prompts = self.local_features(images), self.prompt_features()
        cosines = torch.einsum("mbd,ncd->bcmn", local.float(), prompts.float())
        with torch.no_grad():
            best = plan(cosines, together)
        return self.scale * (best * cosines).sum((2, 3))

    def logits(self, images: Tensor) -> Tensor:
        return self.matched(images, together=False)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.matched(images, together=True), labels)


class PlainPLOTPP(PlainPLOT):
    """Contexts with their own words behind them; M passes of the image encoder."""

    def prompt_features(self) -> Tensor:
        found = []
        for words, ctx in zip(self.settings["WORDS"], self.tensors["prompt_learner.ctx"],
                              strict=True):
            ids = padded([f"{words} {name}." for name in self.names])
            x = self.embed(ids)
            x = torch.cat([x[:, :1], ctx.expand(len(x), -1, -1), x[:, 1 + len(ctx) :]], 1)
            found.append(unit(self.text_tower(x + self.positions, ids.argmax(1))))
        return torch.stack(found)

    def local_features(self, images: Tensor) -> Tensor:
        groups = self.tensors["prompt_learner.ctx_vision"]
        return torch.stack([unit(self.image_head(self.image_tower(images, extra=tokens)))
                            for tokens in groups])


class PlainDeCoOp(PlainMethod):
    """Both encoders anew for every detector and classifier; the loss is that of the first phase.
    `trained`, the trained names, is set from outside where others are asked about."""

    trained: list[str] | None = None

    def features(self, kind: str, i: int, names: list[str]) -> Tensor:
        ctx = self.tensors[f"{kind}_prompter.{i}.ctx"]
        plain = PlainCoOp(self.model, names, "{}", {"ctx": ctx}, {})
        return plain.text()

    def own(self, i: int) -> list[int]:
        count, classes = self.settings["K"], len(self.trained or self.names)
        known = [j for j in range(classes) if j % count != i]
        return known if len(known) >= -(-classes * (count - 1) // count) else [*known, i]

    def logits(self, images: Tensor) -> Tensor:
        f, count = self.image(images), self.settings["K"]
        total, anyone = 0.0, torch.zeros(len(f), dtype=torch.bool, device=f.device)
        for i in range(count):
            own = [(self.trained or self.names)[j] for j in self.own(i)]
            asked = own + [name for name in self.names if name not in own]
            p = (self.scale * f @ self.features("ood", i, asked).t()).softmax(1)
            on = p[:, : len(own)].amax(1) >= self.tensors["threshold"]
            c = self.scale * f @ self.features("coop", i, self.names).t()
            total, anyone = total + on[:, None] * c / count, anyone | on
        return torch.where(anyone[:, None], total, self.scale * f @ self.frozen_text().t())

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        f, count = self.image(images), self.settings["K"]
        total = f.new_zeros(())
        for i in range(count):
            own = self.own(i)
            log = (self.scale * f @ self.features(
                "ood", i, [self.names[j] for j in own]).t()).log_softmax(1)
            entropy = -(log.exp() * log).sum(1)
            inside = labels % count != i
            if inside.any():
                place = torch.tensor([own.index(int(j)) for j in labels[inside]],
                                     device=f.device)
                total = total + F.nll_loss(log[inside], place) / count
            if inside.any() and not inside.all():
                gap = entropy[inside].mean() - entropy[~inside].mean()
                total = total + F.relu(self.settings["OOD_MARGIN"] + gap) / count
        return total
