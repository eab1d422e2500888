"""Learned tensors by their names in a checkpoint, their initial values, and a distance."""

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]  # by their names in a checkpoint
NO_TENSORS: Tensors = MappingProxyType({})

EMBEDDING_STD = 0.02
_EPOCHS = 1_000_003  # the distance between the generator seeds of successive run seeds


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of a torch generator for an epoch of a run."""
    return (seed * _EPOCHS + epoch) % 2**63


def tree(tensors: Mapping[str, Tensor], fixed: Collection[str] = ()) -> nn.Module:
    """A module whose state dict is `tensors`. Dotted names become nested modules. Tensors whose
    name matches a pattern in `fixed` are buffers, the others are parameters."""
    root = nn.Module()
    for name, tensor in tensors.items():
        *parents, leaf = name.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = getattr(module, parent)
        if any(re.fullmatch(pattern, name) for pattern in fixed):
            module.register_buffer(leaf, tensor.detach().clone())
        else:
            module.register_parameter(leaf, nn.Parameter(tensor.detach().clone().float()))
    return root


def random_tokens(count: int, width: int) -> Tensor:
    """Tokens [count, width] drawn from N(0, 0.02^2)."""
    return EMBEDDING_STD * torch.randn(count, width)


def linear(out_width: int, in_width: int, name: str) -> dict[str, Tensor]:
    """Weight and bias of a Linear as PyTorch initialises it, under `name`."""
    layer = nn.Linear(in_width, out_width)
    return {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 minus the mean cosine of the rows of a and b, a scalar. a, b: [N, D], normalised."""
    return 1 - (a * b).sum(1).mean()
