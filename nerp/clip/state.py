"""What enters a layer of a tower: the rows of all sequences, those that sequences share once."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class State:
    """The input of a layer, for G groups that share a start of P tokens and have M ends of S each.

    Attributes:
        x: [G * P + G * M * S, W]: the starts, then the ends.
        sizes: (G, P, M, S). Images are starts alone: (B, N, 0, 0).
        layer: the layer that `x` enters.
        eot: text only, [1 or G, M] positions of end-of-text counted from the whole sequence's
            beginning.
    """

    x: Tensor
    sizes: tuple[int, int, int, int]
    layer: int = 1
    eot: Tensor | None = None

    def starts(self) -> Tensor:
        groups, start, _, _ = self.sizes
        return self.x[: groups * start].view(groups, start, -1)

    def with_starts(self, starts: Tensor) -> "State":
        groups, start, ends, length = self.sizes
        tail = self.x[groups * start :]
        x = torch.cat([starts.flatten(0, 1), tail]) if ends else starts.flatten(0, 1)
        return replace(self, x=x, sizes=(groups, starts.shape[1], ends, length))

    def with_class_tokens(self, tokens: Tensor) -> "State":
        """Tokens [M, K, W] over positions 1..K; what the sequences still share is their first
        token, the rest of the start (it has at least 1 + K tokens) is now each end's own."""
        groups, start, ends, length = self.sizes
        tokens = tokens.to(self.x.dtype).expand(groups, -1, -1, -1)
        first, rest = self.starts()[:, :1], self.starts()[:, 1 + tokens.shape[2] :]
        if not ends:
            return self.with_starts(torch.cat([first, tokens[:, 0], rest], dim=1))
        own = self.x[groups * start :].view(groups, ends, length, -1)
        own = torch.cat([tokens, rest[:, None].expand(-1, ends, -1, -1), own], dim=2)
        x = torch.cat([first.flatten(0, 1), own.flatten(0, 2)])
        return replace(self, x=x, sizes=(groups, 1, ends, own.shape[2]))

    def apart(self) -> "State":
        """The same text with nothing shared: G * M groups, each a whole sequence as its start."""
        groups, start, ends, length = self.sizes
        if not ends:
            return self
        starts = self.starts()[:, None].expand(-1, ends, -1, -1)
        own = self.x[groups * start :].view(groups, ends, length, -1)
        x = torch.cat([starts, own], dim=2).flatten(0, 2)
        eot = self.eot.expand(groups, -1).reshape(-1, 1)
        return replace(self, x=x, sizes=(groups * ends, start + length, 0, 0), eot=eot)
