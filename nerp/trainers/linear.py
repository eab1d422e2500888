"""A classifier that is linear in the image feature: what other programs need of a model."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Linear:
    """Logits scale f Wᵀ + b of a normalised image feature f.

    Attributes: weight: W [C, D]. scale: a number. bias: b [C].
    """

    weight: Tensor
    scale: float
    bias: Tensor

    @classmethod
    def cosine(cls, text: Tensor, scale: float) -> "Linear":
        """Cosines with class features t [C, D], times `scale`."""
        return cls(text, scale, torch.zeros_like(text[:, 0]))

    def then(self, factor: float, bias: Tensor) -> "Linear":
        """The same with logits z made into factor z + bias [C]."""
        return Linear(self.weight, factor * self.scale, factor * self.bias + bias)

    def logits(self, features: Tensor) -> Tensor:
        """[B, C] of f [B, D]."""
        return self.scale * features @ self.weight.t() + self.bias
