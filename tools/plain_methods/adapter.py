"""Adapters beside the blocks: MMA."""

import torch.nn.functional as F
from torch import Tensor

from plain_methods.plain import Branch, PlainMethod, padded, unit


class PlainMMA(PlainMethod):
    """Adapters beside the blocks of layers ADAPTER_START..ADAPTER_END."""

    def prepare(self) -> None:
        self.prompts = [f"{self.settings['TEXT_CTX_INIT']} {name}." for name in self.names]

    def branch(self, tower: str) -> Branch:
        t, scale = self.tensors, float(self.settings["ADAPTER_SCALE"])

        def run(layer: int, h: Tensor) -> Tensor | float:
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
            assert tensor.grad is not None  # after the backward pass
            tensor.grad /= self.settings["ADAPTER_SCALE"]
