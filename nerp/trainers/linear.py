"""A classifier that is linear in the image feature: what other programs need of a model."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearClassifier:
    """Logits scale f Wᵀ + b of a normalised image feature f.

    Attributes:
        weight: W [C, D]. bias: b [C]; both float32, on the backbone's device. scale: a number.
    """

    weight: Tensor
    scale: float
    bias: Tensor

    @classmethod
    def cosine(cls, text: Tensor, scale: float) -> "LinearClassifier":
        """Cosines with class features t [C, D], times `scale`."""
        return cls(text, scale, torch.zeros_like(text[:, 0]))

    def then(self, factor: float, bias: Tensor) -> "LinearClassifier":
        """The same with logits z made into factor z + bias; bias: [C], on the same device."""
        return LinearClassifier(self.weight, factor * self.scale, factor * self.bias + bias)

    def logits(self, features: Tensor) -> Tensor:
        """[B, C] of f [B, D]."""
        return self.scale * features @ self.weight.t() + self.bias
