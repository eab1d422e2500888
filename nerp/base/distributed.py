"""Several processes on one job, started by torchrun; with one process every function is trivial."""

import contextlib
import os
from collections.abc import Iterator
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world_size() -> int:
    """The number of processes that share the job."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0 for the one that writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process writes files and prints."""
    return rank() == 0


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """Join the processes that torchrun started, each on a GPU of its own where there are GPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    # An optimizer imports torch._dynamo at its first step. If a process group exists at that time,
    # the module keeps it alive: its threads outlive the interpreter and may abort it at its end.
    import torch._dynamo

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl")
    else:
        dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def agree(answer: T) -> T:
    """The main process's answer, given to every process."""
    if world_size() == 1:
        return answer
    answers = [answer]
    dist.broadcast_object_list(answers, src=0)
    return answers[0]


def everywhere(answer: bool) -> bool:
    """Whether the answer of every process is yes."""
    if world_size() == 1:
        return answer
    least = torch.tensor(int(answer))
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return bool(least)


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Let the main process run the context first; the others wait until it has written its file."""
    if not is_main():
        dist.barrier()
    try:
        yield
    finally:
        if is_main() and world_size() > 1:
            dist.barrier()


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of each element over the processes."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world_size()


class _Sum(torch.autograd.Function):
    """The sum over the processes. The gradient of each process's values is the sum of the gradients
    of all processes."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of each element over the processes. Gradients flow to the values of all processes."""
    if world_size() == 1:
        return values
    total: Tensor = _Sum.apply(values)
    return total


def interleave(part: Tensor, total: int) -> Tensor:
    """[total, ...]: the rows in order, of which each of R processes has r, r + R, r + 2R, ..."""
    if world_size() == 1:
        return part
    most = -(-total // world_size())
    padded = part.new_zeros(most, *part.shape[1:])
    padded[: len(part)] = part
    parts = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(parts, padded)
    return torch.stack(parts, dim=1).flatten(0, 1)[:total]
