"""CUDA without a GPU: tensors that say they are on one and hold nothing.

PyTorch's fake tensors carry every operation as far as shapes, types and devices go, and refuse one
whose operands lie on two devices. `fake_cuda` adds what else a GPU would do: it notes where the
host would wait, refuses products of integers, and goes back through a graph without a driver.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import nerp

CUDA = torch.device("cuda")
# Their results are numbers on the host, or of a size that depends on numbers.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2",
           "bincount"}
PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm", "mv", "addmv", "dot"}
_PACKAGE = str(Path(nerp.__file__).parent)


class Watch(TorchDispatchMode):
    """Notes in `seen` where the host would wait for a GPU: the operation, and the line.

    Args: device: whose tensors count as a GPU's.
    """

    def __init__(self, device="cuda"):
        super().__init__()
        self.device = device
        self.seen = []
        self._pinned = {}  # by storage; kept, so that no other gets its number

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.prim.device.default:  # asked as often as all else together
            return args[0].fake_device
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        if name == "is_pinned":
            return _storage(args[0]) in self._pinned
        if name in ("_pin_memory", "pin_memory"):
            copy = args[0].clone()
            copy.constant = None  # a number that is known would be copied by the real driver
            self._pinned[_storage(copy)] = copy
            return copy
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_gpu = any(tensor.device.type == self.device for tensor in tensors)
        if on_gpu and name in PRODUCTS and not tensors[0].is_floating_point():
            raise NotImplementedError(f"CUDA has no {name} of {tensors[0].dtype}")
        if self._waits(name, tensors, on_gpu, args, kwargs):
            self.seen.append(f"{name}, {_place()}")
        if name == "bincount" and isinstance(args[0], FakeTensor):
            # As large as it is asked to be at least.
            return torch.zeros(kwargs.get("minlength", args[-1]), dtype=torch.long,
                               device=tensors[0].device)
        if name.startswith(("_fused_", "_amp_")):  # change numbers in place, and have no fake
            return args[0] if isinstance(args[0], Tensor) else None
        try:
            return function(*args, **kwargs)
        except DataDependentOutputException:
            return _some_number(args[0].dtype)

    def _waits(self, name, tensors, on_gpu, args, kwargs):
        if name in ("_to_copy", "copy_"):
            source = tensors[-1]
            target = tensors[0].device if name == "copy_" else kwargs.get("device", source.device)
            ahead = kwargs.get("non_blocking") or args[-1] is True
            pinned = _storage(source) in self._pinned
            return target.type != source.device.type and not (ahead and pinned)
        by_mask = name == "index" and any(tensor.dtype == torch.bool for tensor in tensors[1:])
        from_host = any(tensor.device.type != self.device and tensor.dim() for tensor in tensors)
        return on_gpu and (name in WAITING or by_mask or from_host)


def _some_number(dtype):
    """There is none; what is divided by it, or asked whether it is so, is to go on."""
    if dtype == torch.bool:
        return False
    return 1.0 if dtype.is_floating_point else 0


def _storage(tensor):
    return tensor.untyped_storage()._cdata


def _place():
    """The innermost line of the package."""
    lines = [f"{Path(frame.filename).name}:{frame.lineno}"
             for frame in traceback.extract_stack() if frame.filename.startswith(_PACKAGE)]
    return lines[-1] if lines else "outside of nerp"


def backward(loss):
    """`loss.backward()`, node by node: PyTorch's own engine asks the driver first."""
    root = torch.autograd.graph.get_gradient_edge(loss).node
    missing, todo = {root: 0}, [root]
    while todo:
        for node, _ in todo.pop().next_functions:
            if node is not None:
                if node not in missing:
                    todo.append(node)
                missing[node] = missing.get(node, 0) + 1
    given, ready = {root: {0: torch.ones_like(loss)}}, [root]
    with torch.no_grad():
        while ready:
            node = ready.pop()
            for (after, place), gradient in _run(node, given.pop(node, {})):
                if gradient is not None:
                    sums, of = given.setdefault(after, {}), after._input_metadata[place]
                    assert gradient.device == of.device, f"a gradient of {after.name()}"
                    gradient = gradient.sum_to_size(of.shape).to(of.dtype)
                    sums[place] = sums[place] + gradient if place in sums else gradient
                missing[after] -= 1
                if not missing[after]:
                    ready.append(after)


def grad(output, inputs, retain_graph=False):
    """`torch.autograd.grad` by the same way, of inputs that are all the leaves."""
    kept = [tensor.grad for tensor in inputs]
    for tensor in inputs:
        tensor.grad = None
    backward(output)
    found = tuple(tensor.grad for tensor in inputs)
    for tensor, gradient in zip(inputs, kept, strict=True):
        tensor.grad = gradient
    return found


def _run(node, given):
    """Where the gradients go that a node makes of those `given` by place, and they themselves."""
    wanted, edges = node._input_metadata, node.next_functions
    if callable(node):
        found = node(*(given.get(place) for place in range(len(wanted))))
    else:  # one that is written in Python
        nothing = (torch.zeros(of.shape, dtype=of.dtype, device=of.device) for of in wanted)
        found = node.apply(*(given.get(place, zeros) for place, zeros in enumerate(nothing)))
        found = [one for one, asked in zip(found, node.needs_input_grad, strict=True) if asked]
        edges = [edge for edge in edges if edge[0] is not None]
    found = found if isinstance(found, tuple | list) else [found]
    return [pair for pair in zip(edges, found, strict=True) if pair[0][0] is not None]


def _apply(module, function, recurse=True):
    """`Module._apply`, which fake parameters need to be put in anew."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                new = function(parameter.detach())
                part._parameters[name] = nn.Parameter(new, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            part._buffers[name] = function(buffer)
    return module


def missing() -> str:
    """What this PyTorch lacks for it, in words; "" for nothing."""
    try:
        with fake_cuda():
            layer = nn.Linear(2, 2).to(CUDA)
            optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, fused=True)
            scaler = torch.amp.GradScaler("cuda")
            with torch.autocast("cuda", dtype=torch.float16):
                loss = layer(torch.zeros(1, 2).pin_memory().to(CUDA, non_blocking=True)).sum()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    except Exception as error:  # whatever an older one makes of it
        return f"torch {torch.__version__}: {error!r}"
    return ""


@contextmanager
def fake_cuda() -> Iterator[Watch]:
    """Every tensor that is made is a fake one, on a GPU if it asks for that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(nn.Module, "_apply", _apply)
        patch.setattr(Tensor, "backward", backward)
        patch.setattr(torch.autograd, "grad", grad)
        with FakeTensorMode(), Watch() as watch:
            yield watch
