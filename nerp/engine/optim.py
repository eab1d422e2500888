"""Optimisers and the learning rate of an epoch."""

import math

import torch
from yacs.config import CfgNode


def build_optimizer(parameters: list[torch.nn.Parameter], optim: CfgNode) -> torch.optim.Optimizer:
    """SGD with momentum, AdamW, or Adam (the decay an L2 term in its gradient), from the config
    node OPTIM. The rate is set every epoch."""
    # On a GPU the fused step: it also skips a scaled step that overflowed without asking the host.
    fused = parameters[0].device.type == "cuda"
    adams = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if optim.NAME in adams:
        return adams[optim.NAME](
            parameters,
            lr=optim.LR,
            betas=(optim.ADAM_BETA1, optim.ADAM_BETA2),
            eps=optim.ADAM_EPS,
            weight_decay=optim.WEIGHT_DECAY,
            fused=fused,
        )
    return torch.optim.SGD(
        parameters,
        lr=optim.LR,
        momentum=optim.MOMENTUM,
        weight_decay=optim.WEIGHT_DECAY,
        fused=fused,
    )


def what_a_step_leaves(optim: CfgNode) -> dict[str, torch.Tensor | None]:
    """What the optimizer keeps of a parameter [1] after a step, by name: a count of steps has no
    dimension."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    optimizer = build_optimizer([parameter], optim)
    optimizer.step()
    return optimizer.state[parameter]


def learning_rate(optim: CfgNode, epoch: int) -> float:
    """The rate of epoch 0, 1, ...: constant in the warm-up, then a half cosine over MAX_EPOCH."""
    if epoch < optim.WARMUP_EPOCH:
        return optim.WARMUP_CONS_LR
    turn = math.pi * (epoch - max(0, optim.WARMUP_EPOCH)) / optim.MAX_EPOCH
    return 0.5 * optim.LR * (1 + math.cos(turn))
