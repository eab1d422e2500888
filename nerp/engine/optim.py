"""Optimisers, their steps, and the learning rate of an epoch."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from nerp.engine.checkpoint import check_finite

Group = dict[str, Any]  # of parameters that share a rate, as torch's optimisers take them


def build_optimizer(
    parameters: Sequence[nn.Parameter] | Sequence[Group],
    optim: CfgNode,
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    """SGD with momentum, AdamW, or Adam (with weight decay as an L2 term in its gradient), from the
    config node OPTIM. The schedule sets the rate.

    Args:
        parameters: all of them, or in groups (`Trainer.parameter_groups`).
        fused: whether a step is one kernel, which also skips a scaled step that overflowed without
            asking the host; default: on a GPU.
    """
    groups: list[Group] = [
        entry if isinstance(entry, dict) else {"params": [entry]} for entry in parameters
    ]
    if fused is None:
        fused = groups[0]["params"][0].device.type == "cuda"
    adams = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if optim.NAME in adams:
        adam: torch.optim.Optimizer = adams[optim.NAME](
            groups,
            lr=optim.LR,
            betas=(optim.ADAM_BETA1, optim.ADAM_BETA2),
            eps=optim.ADAM_EPS,
            weight_decay=optim.WEIGHT_DECAY,
            fused=fused,
        )
        return adam
    sgd = torch.optim.SGD(
        groups,
        lr=optim.LR,
        momentum=optim.MOMENTUM,
        weight_decay=optim.WEIGHT_DECAY,
        fused=fused,
    )
    if fused and optim.MOMENTUM:
        # If its first step overflows, it would leave the momentum's memory uninitialised. Starting
        # from zeros, the first momentum equals the first gradient as well.
        for parameter in all_parameters(sgd):
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def all_parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """The parameters of all its groups, in the order in which its state dict counts them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def take_step(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, loss: Tensor, clip_norm: float,
    change: Callable[[], None] = lambda: None,
) -> None:
    """Take one step down the gradient of `loss`. `change` may change the gradient first
    (`Method.change_gradients`). If `clip_norm` is above 0, the joint gradient of all parameters is
    then clipped to that norm."""
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    change()
    if clip_norm:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(all_parameters(optimizer), clip_norm)
    scaler.step(optimizer)
    scaler.update()


def what_a_step_leaves(optim: CfgNode) -> dict[str, torch.Tensor | None]:
    """The optimizer's state for a parameter [1] after a step, by name. A count of steps is a
    scalar."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    optimizer = build_optimizer([parameter], optim)
    optimizer.step()
    left: dict[str, torch.Tensor | None] = optimizer.state[parameter]
    return left


def checked_steps(
    optimizer: torch.optim.Optimizer, optim: CfgNode, kept: Mapping[int, Mapping[str, Tensor]],
    most: int, path: Path,
) -> Mapping[int, Mapping[str, Tensor]]:
    """The optimizer state of each parameter in a file, by its position, after at most `most` steps.
    Raises ValueError, or NerpError naming the file, if the optimizer's steps cannot produce such a
    state."""
    parameters, wanted = all_parameters(optimizer), what_a_step_leaves(optim)
    for place, values in kept.items():
        if place not in range(len(parameters)) or values.keys() != wanted.keys():
            raise ValueError("what the optimizer keeps")
        for name, value in values.items():
            expected = wanted[name]
            if expected is None:
                right = value is None
            else:
                counted = not expected.dim()
                shape = () if counted else parameters[place].shape
                right = (value.shape, value.dtype) == (shape, expected.dtype)
                check_finite(f"the optimizer's {name}", value, path)
                # 0: every step so far overflowed
                right = right and (not counted or value.item() in range(most + 1))
            if not right:
                raise ValueError(f"the optimizer's {name}")
    return kept


def learning_rate(optim: CfgNode, epoch: int, factor: float = 1.0) -> float:
    """The rate of epoch 0, 1, ...: constant during warm-up, then a half cosine over MAX_EPOCH down
    to LR_MIN. Except during warm-up, the rate is OPTIM.LR times `factor`."""
    if epoch < optim.WARMUP_EPOCH:
        return float(optim.WARMUP_CONS_LR)
    turn = math.pi * (epoch - max(0, optim.WARMUP_EPOCH)) / optim.MAX_EPOCH
    low = float(optim.LR_MIN)
    return low + 0.5 * (factor * float(optim.LR) - low) * (1 + math.cos(turn))
