"""What a GPU does otherwise than a CPU, where that would show: copies, products, float64."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. The host does not wait for a GPU, which copies from pinned memory
    when it comes to that."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def place(device: torch.device) -> str:
    """What a device is called in messages."""
    return {"cpu": "CPU", "mps": "Apple GPU"}.get(device.type, device.type.upper())


def in_float64(tensor: Tensor) -> Tensor:
    """The tensor in float64; on the CPU where it is on an Apple GPU, which has none."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def in_float32(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Products in the type of their operands, also under autocast. Logits are cosines times 100:
    rounded to half precision, they would be off by up to 0.3."""
    return torch.autocast(device.type, enabled=False)


@contextlib.contextmanager
def float32_convolutions() -> Iterator[None]:
    """Convolutions of float32 in float32: a GPU computes them in TF32 unless it is told, products
    of matrices only if it is."""
    cudnn: Any = torch.backends.cudnn  # it has either of the two flags
    # PyTorch 2.9 has another flag for this, and refuses the older one where both were used.
    newer = hasattr(cudnn, "conv")
    owner, flag, exact = (cudnn.conv, "fp32_precision", "ieee") if newer else (
        cudnn, "allow_tf32", False)
    before = getattr(owner, flag)
    setattr(owner, flag, exact)
    try:
        yield
    finally:
        setattr(owner, flag, before)
