"""CLIP-LoRA's adapted layers, and the dropout of its low-rank terms."""

import torch
from torch import Tensor

from nerp.base.errors import NerpError
from nerp.clip.model import Clip
from nerp.trainers.tensors import epoch_seed

# POSITION -> layers, for encoders of at most _DEPTH layers. A smaller encoder may lack some.
_DEPTH = 12
POSITIONS = {
    "all": range(1, 13), "bottom": range(1, 5), "mid": range(5, 9), "up": range(9, 13),
    "half-up": range(7, 13), "half-bottom": range(1, 7), "top3": range(10, 13),
}


def positions(depth: int) -> dict[str, range]:
    """POSITION -> layers, for an encoder of `depth` layers."""
    if depth <= _DEPTH:
        return POSITIONS
    half = depth // 2
    return {"all": range(1, depth + 1), "half-up": range(half + 1, depth + 1),
            "half-bottom": range(1, half + 1)}


def adapted_layers(
    clip: Clip, encoder: str, position: str, key: str
) -> dict[str, dict[int, int]]:
    """The adapted layers of the "text" and the "vision" encoder: layer -> its number in a
    checkpoint. Numbers start at 0 and count the text encoder's layers first.

    Args: encoder: "both", "text" or "vision". key: the setting's name, for messages.

    Raises NerpError for a position without a layer in an encoder.
    """
    adapted: dict[str, dict[int, int]] = {"text": {}, "vision": {}}
    count = 0
    for kind, depth in (("text", clip.text.depth), ("vision", clip.image.depth)):
        if encoder not in ("both", kind):
            continue
        known = positions(depth)
        layers = [layer for layer in known.get(position, ()) if layer <= depth]
        if not layers:
            there = [name for name, all_of in known.items() if all_of[0] <= depth]
            raise NerpError(f"{key} is {position}; the {kind} encoder has {depth or 'no'} layers"
                            + (f", of which there are {', '.join(there)}" if there else ""))
        adapted[kind] = {layer: count + place for place, layer in enumerate(layers)}
        count += len(layers)
    return adapted


class Dropout:
    """Training dropout on the inputs of low-rank terms. Every pass draws a new mask for each part
    of each layer. A trainer and its copies for other classes share one `Dropout`."""

    def __init__(self, share: float, seed: int):
        self.share = share
        self.seed = seed
        self.start(0)

    def start(self, epoch: int) -> None:
        """Seed the draws from the run's seed and the epoch alone."""
        self.epoch_seed = epoch_seed(self.seed, epoch)
        self.generator: torch.Generator | None = None

    def __call__(self, name: str, x: Tensor) -> Tensor:
        """x [T, W] with each element 0 or divided by the kept share. name: the term's name."""
        if self.generator is None:
            self.generator = torch.Generator(x.device).manual_seed(self.epoch_seed)
        keep = 1 - self.share
        drawn = torch.empty_like(x, requires_grad=False).bernoulli_(keep, generator=self.generator)
        return x * drawn.div_(keep)
