"""The input of a transformer layer: the rows of all sequences, with shared rows stored once."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class State:
    """The input of a layer. Each of G groups has one shared start of P tokens and M ends of S
    tokens each; a sequence is a start with one end.

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

    @property
    def text_ends(self) -> Tensor:
        """`eot`, which text always has."""
        assert self.eot is not None
        return self.eot

    def starts(self) -> Tensor:
        groups, start, _, _ = self.sizes
        return self.x[: groups * start].view(groups, start, -1)

    def with_starts(self, starts: Tensor) -> "State":
        groups, start, ends, length = self.sizes
        tail = self.x[groups * start :]
        x = torch.cat([starts.flatten(0, 1), tail]) if ends else starts.flatten(0, 1)
        return replace(self, x=x, sizes=(groups, starts.shape[1], ends, length))

    def with_class_tokens(self, tokens: Tensor) -> "State":
        """The input with tokens [M, K, W] at positions 1..K. The sequences then share only their
        first token. The rest of the start becomes part of each end. The start must have at least
        1 + K tokens."""
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
        """The same text without shared rows: G * M groups, each with a whole sequence as its
        start."""
        groups, start, ends, length = self.sizes
        if not ends:
            return self
        starts = self.starts()[:, None].expand(-1, ends, -1, -1)
        own = self.x[groups * start :].view(groups, ends, length, -1)
        x = torch.cat([starts, own], dim=2).flatten(0, 2)
        eot = self.text_ends.expand(groups, -1).reshape(-1, 1)
        return replace(self, x=x, sizes=(groups * ends, start + length, 0, 0), eot=eot)


def fill(x: Tensor, slots: Tensor, ctx: Tensor) -> Tensor:
    """x [..., W] with ctx[slots] at the positions whose slot is >= 0."""
    vectors = ctx.to(x.dtype)[..., slots.clamp(min=0), :]
    return torch.where((slots >= 0)[..., None], vectors, x)


def join(start: Tensor, end: Tensor, ends: int) -> Tensor:
    """Keys or values of each whole sequence: a group's start before each of its ends."""
    return torch.cat([start.repeat_interleave(ends, 0), end], dim=2)


def ends_mask(start: int, length: int, device: torch.device) -> Tensor:
    """Mask [S, P + S]: the end's i-th token attends to the whole start and to the end up to
    itself."""
    return torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)
