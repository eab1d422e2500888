"""Experts that a gate mixes by the image, and what such a gate is trained with (MoCoOp)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from nerp.clip.device import in_float32

PICKED = 2  # experts for an image
_FAVOUR = 10.0  # what the gate's targets have added for the best experts


def shares(gate: Tensor) -> Tensor:
    """p [B, G] of the gate's q [B, G]: a softmax over the two largest, 0 for the others."""
    best = gate.topk(PICKED)
    return torch.zeros_like(gate).scatter(1, best.indices, best.values.softmax(1))


def picked(gate: Tensor) -> list[int]:
    """The experts that any of the images with gates q [B, G] picks, in order."""
    found: list[int] = gate.topk(PICKED).indices.unique().tolist()
    return found


def mixed(shares: Tensor, experts: Tensor) -> Tensor:
    """sum_g p_bg x_g [B, ...] of p [B, G] and what each expert has, x [G, ...], in float32."""
    with in_float32(experts.device):
        return torch.einsum("bg,g...->b...", shares, experts)


def mixed_cosines(features: Tensor, shares: Tensor, experts: Tensor) -> Tensor:
    """f_b · sum_g p_bg t_gc [B, C] of f [B, D], p [B, G] and t [G, C, D], in float32."""
    with in_float32(features.device):
        return (shares.t()[:, :, None] * (features @ experts.mT)).sum(0)


def text_loss(experts: Tensor, prototypes: Tensor) -> Tensor:
    """The mean cross entropy, over experts and names, of each feature [G, A, D] against the
    prototypes [G, A, D] of its group; their cosines are the logits, without a scale."""
    with in_float32(experts.device):
        logits = experts @ prototypes.mT
        groups, names, _ = logits.shape
        targets = torch.arange(names, device=logits.device).repeat(groups)
        return F.cross_entropy(logits.flatten(0, 1), targets)


def gate_target(image: Tensor, own: Tensor) -> Tensor:
    """[B, G]: a softmax of how alike images f [B, D] and their classes' prototypes [G, B, D] are,
    the two best favoured. It carries gradient."""
    with in_float32(image.device):
        alike = torch.einsum("bd,gbd->bg", image, own)
    best = torch.zeros_like(alike).scatter(1, alike.topk(PICKED).indices, 1.0)
    return (alike + _FAVOUR * best).softmax(1)


def gate_loss(gate: Tensor, target: Tensor) -> Tensor:
    """The mean cross entropy of gates q [B, G] against soft targets [B, G]."""
    return -(target * gate.log_softmax(1)).sum(1).mean()
