"""CLIP-Adapter and TaskRes on frozen features; PromptKD's projection into a teacher's space."""

import torch
import torch.nn.functional as F
from torch import Tensor

from plain_methods.deep import PlainPromptSRC
from plain_methods.plain import PlainMethod, unit


class PlainCLIPAdapter(PlainMethod):
    """Two linear layers on the image features, mixed with those features."""

    def image(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            u = self.model.encode_image(images)
        h = F.relu(F.linear(u, self.tensors["fc.0.weight"]))
        h = F.relu(F.linear(h, self.tensors["fc.2.weight"]))
        ratio = self.settings["RATIO"]
        return unit(ratio * h + (1 - ratio) * u)


class PlainTaskRes(PlainMethod):
    """A learned addition to the class features."""

    def text(self) -> Tensor:
        t = self.tensors
        scale = self.settings["RESIDUAL_SCALE"]
        return unit(t["base_text_features"] + scale * t["text_feature_residuals"])


class PlainPromptKD(PlainPromptSRC):
    """Vision prompts and a projection. `teacher`, a plain PromptSRC, is set from outside. Each step
    of the published code runs all of the teacher, its text encoder too, although its class features
    never change. docs/performance.md has the source."""

    teacher: PlainPromptSRC
    training = False

    def adapted(self, tower: str, u: Tensor) -> Tensor:
        t = {name.removeprefix("VPT_image_trans.conv1."): x for name, x in self.tensors.items()}
        h = F.linear(u, t["0.weight"][:, :, 0, 0], t["0.bias"]).float()
        if self.training:
            mean, variance = h.mean(0), h.var(0, unbiased=False)
        else:
            mean, variance = t["1.running_mean"], t["1.running_var"]
        h = (h - mean) / (variance + 1e-5).sqrt() * t["1.weight"] + t["1.bias"]
        return F.linear(F.relu(h), t["3.weight"][:, :, 0, 0], t["3.bias"])

    @torch.no_grad()
    def text(self) -> Tensor:
        return self.teacher.text()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        self.training = True
        f = self.image(images)
        self.training = False
        t, temperature = self.text(), float(self.settings["TEMPERATURE"])
        with torch.no_grad():
            target = self.teacher.scale * self.teacher.image(images) @ t.t()
        p = (self.scale * f @ t.t() / temperature).log_softmax(1)
        q = (target / temperature).softmax(1)
        divergence: Tensor = (q * (q.log() - p)).sum() / p.numel()
        return float(self.settings["KD_WEIGHT"]) * temperature**2 * divergence
