"""Experts that a gate mixes for each image, and the losses that train the gate (MoCoOp)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from nerp.clip.device import in_float32

PICKED = 2  # experts per image
_FAVOUR = 10.0  # added to the best experts in the gate's targets, before the softmax


def shares(gate: Tensor) -> Tensor:
    """Shares p [B, G] of the experts, from the gate's outputs q [B, G]: a softmax over the two
    largest, 0 for the others."""
    best = gate.topk(PICKED)
    return torch.zeros_like(gate).scatter(1, best.indices, best.values.softmax(1))


def picked(gate: Tensor) -> list[int]:
    """The experts that at least one image picks, in ascending order. gate: q [B, G]."""
    found: list[int] = gate.topk(PICKED).indices.unique().tolist()
    return found


def mixed(shares: Tensor, experts: Tensor) -> Tensor:
    """sum_g p_bg x_g [B, ...] in float32, from shares p [B, G] and experts x [G, ...]."""
    with in_float32(experts.device):
        return torch.einsum("bg,g...->b...", shares, experts)


def mixed_cosines(features: Tensor, shares: Tensor, experts: Tensor) -> Tensor:
    """f_b · sum_g p_bg t_gc [B, C] in float32, from f [B, D], p [B, G] and t [G, C, D]."""
    with in_float32(features.device):
        return (shares.t()[:, :, None] * (features @ experts.mT)).sum(0)


def text_loss(experts: Tensor, prototypes: Tensor) -> Tensor:
    """The mean cross entropy over experts and names, a scalar. Each feature [G, A, D] is classified
    among the prototypes [G, A, D] of its group; the logits are the cosines without a scale."""
    with in_float32(experts.device):
        logits = experts @ prototypes.mT
        groups, names, _ = logits.shape
        targets = torch.arange(names, device=logits.device).repeat(groups)
        return F.cross_entropy(logits.flatten(0, 1), targets)


def gate_target(image: Tensor, own: Tensor) -> Tensor:
    """Targets [B, G] of the gate: a softmax of the similarities of images f [B, D] to their
    classes' prototypes [G, B, D], with 10 added for the two best. It has a gradient."""
    with in_float32(image.device):
        alike = torch.einsum("bd,gbd->bg", image, own)
    best = torch.zeros_like(alike).scatter(1, alike.topk(PICKED).indices, 1.0)
    return (alike + _FAVOUR * best).softmax(1)


def gate_loss(gate: Tensor, target: Tensor) -> Tensor:
    """The mean cross entropy, a scalar, of gates q [B, G] with soft targets [B, G]."""
    return -(target * gate.log_softmax(1)).sum(1).mean()
