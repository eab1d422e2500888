"""Visible differences between GPU and CPU and how they are handled: copies, products, float64."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. The host does not wait: a CUDA device copies from pinned memory
    asynchronously."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def place(device: torch.device) -> str:
    """The name of a device in messages."""
    return {"cpu": "CPU", "mps": "Apple GPU"}.get(device.type, device.type.upper())


def in_float64(tensor: Tensor) -> Tensor:
    """The tensor in float64. A tensor on an Apple GPU, which has no float64, moves to the CPU."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def in_float32(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context without autocast: products have the type of their operands. Logits are cosines
    times 100, and rounding them to half precision would change them by up to 0.3."""
    return torch.autocast(device.type, enabled=False)


@contextlib.contextmanager
def float32_convolutions() -> Iterator[None]:
    """A context in which convolutions of float32 tensors run in float32. By default a GPU computes
    convolutions in TF32, but not matrix products."""
    cudnn: Any = torch.backends.cudnn  # its flag depends on PyTorch's version
    # PyTorch 2.9 has another flag for this, and refuses the older one if both were used.
    newer = hasattr(cudnn, "conv")
    owner, flag, exact = (cudnn.conv, "fp32_precision", "ieee") if newer else (
        cudnn, "allow_tf32", False)
    before = getattr(owner, flag)
    setattr(owner, flag, exact)
    try:
        yield
    finally:
        setattr(owner, flag, before)
