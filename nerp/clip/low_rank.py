"""Low-rank terms on a block's attention matrices (Hu et al., LoRA, ICLR 2022)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PARTS = ("q", "k", "v")  # in the order of the rows of a block's in_proj; "o" is its output


@dataclass(frozen=True)
class LowRank:
    """Terms that are added to a layer's attention matrices V [W, W]: V becomes V + B A.

    Attributes:
        terms: part (q, k, v, o) -> A [r, W] and B [W, r], its factor included.
        drop: in training, a function (part, input [T, W]) -> the term's input [T, W] after dropout.
            None: no dropout.
    """

    terms: Mapping[str, tuple[Tensor, Tensor]]
    drop: Callable[[str, Tensor], Tensor] | None = None

    def add_to_inputs(self, qkv: Tensor, h: Tensor) -> Tensor:
        """Queries, keys and values qkv [T, 3 W] of inputs h [T, W], with the terms added in
        place."""
        inner = {part: self.terms[part] for part in PARTS if part in self.terms}
        if not inner:
            return qkv
        if self.drop:
            low = torch.cat([F.linear(self.drop(part, h), a) for part, (a, _) in inner.items()], 1)
        else:
            low = F.linear(h, torch.cat([a for a, _ in inner.values()]))
        # One product for all parts: B of each stands in the rows of its part.
        nothing = h.new_zeros(h.shape[1], 0)
        b = torch.block_diag(*(inner[part][1] if part in inner else nothing for part in PARTS))
        return qkv.addmm_(low.to(qkv.dtype), b.t().to(qkv.dtype))

    def add_to_stream(self, x: Tensor, out: Tensor, gamma: Tensor | None) -> Tensor:
        """x [T, W] plus the output matrix's term for `out` [T, W], times gamma [W] if there is
        one."""
        if "o" not in self.terms:
            return x
        a, b = self.terms["o"]
        y = F.linear(F.linear(self.drop("o", out) if self.drop else out, a), b)
        return x + (y if gamma is None else y * gamma.to(y.dtype))

    def merged(self, weight: Tensor) -> Tensor:
        """V + B A [3 W, W] for the matrix V [3 W, W] of queries, keys and values; without
        dropout."""
        if not set(PARTS) & set(self.terms):
            return weight
        blocks = [
            block + (b @ a).to(block.dtype) if part in self.terms else block
            for part, block in zip(PARTS, weight.chunk(3), strict=True)
            for a, b in [self.terms.get(part, (block, block))]
        ]
        return torch.cat(blocks)

    def merged_output(self, weight: Tensor) -> Tensor:
        """V + B A [W, W] for a block's output matrix V [W, W]."""
        if "o" not in self.terms:
            return weight
        a, b = self.terms["o"]
        return weight + (b @ a).to(weight.dtype)
