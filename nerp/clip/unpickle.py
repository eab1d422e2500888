"""Reading torch files from strangers without running anything they hold."""

import pickle
import types
from collections import OrderedDict
from pathlib import Path

import torch

from nerp.errors import NerpError


class _Inert:
    """Stands for whatever class or function a file names: takes anything, does nothing."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def _ignore(self, *args, **kwargs):
        pass

    __call__ = __setstate__ = __setitem__ = append = extend = add = update = _ignore


_ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        return _ALLOWED.get((module, name), _Inert)


def _load(file, **kwargs):
    return _Unpickler(file, **kwargs).load()


# What torch.load asks of a pickle module; every name a file looks up goes through find_class.
_INERT_PICKLE = types.SimpleNamespace(
    Unpickler=_Unpickler,
    load=_load,
    __name__=__name__,
    UnpicklingError=pickle.UnpicklingError,
)


def load_inert(path: str | Path):
    """The tensors and plain values in a torch file, on the CPU; nothing in it is executed.

    Published checkpoints pickle optimiser and scheduler objects beside their tensors. Where
    torch's own weights-only reader refuses such a file, it is read once more with every class and
    function outside a short list replaced by a placeholder, and the placeholders are dropped.

    Raises NerpError, naming the file, if it is missing, damaged or not a torch file.
    """
    path = Path(path)
    if not path.is_file():
        raise NerpError(f"{path}: no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        pass
    except Exception as error:
        raise _damaged(path, error) from None
    try:
        content = torch.load(
            path, map_location="cpu", pickle_module=_INERT_PICKLE, weights_only=False
        )
    except Exception as error:
        raise _damaged(path, error) from None
    return _plain(content)


def _damaged(path: Path, error: Exception) -> NerpError:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return NerpError(f"{path}: not a readable torch file, or a damaged one ({reason})")


def _plain(value):
    """`value` with every placeholder, wherever it is nested, left out."""
    if isinstance(value, dict):
        pairs = ((key, _plain(inner)) for key, inner in value.items() if _is_plain(key))
        return {key: inner for key, inner in pairs if _is_plain(inner)}
    if isinstance(value, list | tuple):
        return type(value)(inner for inner in map(_plain, value) if _is_plain(inner))
    return value


def _is_plain(value) -> bool:
    plain = bool | int | float | complex | str | bytes | None | dict | list | tuple
    return isinstance(value, plain | torch.Tensor)
