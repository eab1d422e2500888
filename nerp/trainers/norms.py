"""Learned LayerNorms in every block of the image encoder; they start from CLIP's."""

from collections.abc import Mapping

from torch import Tensor

from nerp.clip.layers import Norms
from nerp.clip.towers import Edit, Tower

_NAME = "image_encoder.transformer.resblocks.{}.{}.{}"  # in a checkpoint; blocks count from 0


def frozen_norms(tower: Tower) -> dict[str, Tensor]:
    """CLIP's own `ln_1` and `ln_2` of every block, under the learned norms' names."""
    return {
        _NAME.format(i, name, leaf): getattr(getattr(block, name), leaf)
        for i, block in enumerate(tower.blocks)
        for name in ("ln_1", "ln_2") for leaf in ("weight", "bias")
    }


class OwnNorms(Edit):
    """Replaces the norms of every block. Args: tensors: by the names of `frozen_norms`."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = tensors

    def norms(self, layer: int) -> Norms:
        first, second = (
            (self.tensors[_NAME.format(layer - 1, name, "weight")],
             self.tensors[_NAME.format(layer - 1, name, "bias")]) for name in ("ln_1", "ln_2")
        )
        return first, second
