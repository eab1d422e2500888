"""A classifier that is linear in the image feature, as exported models use it."""

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
        """The classifier by cosines with class features t [C, D], times `scale`."""
        return cls(text, scale, torch.zeros_like(text[:, 0]))

    def then(self, factor: float, bias: Tensor) -> "LinearClassifier":
        """The classifier with logits factor z + bias, z being this one's. bias: [C], on the same
        device."""
        return LinearClassifier(self.weight, factor * self.scale, factor * self.bias + bias)

    def logits(self, features: Tensor) -> Tensor:
        """Logits [B, C] from normalised image features f [B, D]."""
        return self.scale * features @ self.weight.t() + self.bias
