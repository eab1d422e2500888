"""A whole model as an ONNX graph, from normalised pixels to logits.

The graph takes any number of images. For that, traced code must read the number of images from
`shape`, not from `len`, which would make it a constant.
"""

import json
import logging
import warnings

import numpy as np
import torch
from torch import Tensor, nn

from nerp.base.errors import NerpError
from nerp.engine.model import Model
from nerp.files.opening import reason

OPSET = 18
_TOLERANCE = 1e-3  # the largest allowed difference of the logits
_CHECKED = 3  # images in the comparison; not the number that the graph was traced with


class _Graph(nn.Module):
    """Logits [B, C] of normalised images [B, 3, S, S], the class features computed once."""

    def __init__(self, model: Model, factor: float, bias: Tensor):
        super().__init__()
        with torch.no_grad():
            self.classify = model.trainer.classifier()
        self.factor = factor
        self.bias = bias

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.factor * self.classify(images) + self.bias


def graph(model: Model, factor: float, bias: Tensor) -> bytes:
    """The content of an ONNX file of a model on the CPU, checked with onnxruntime.

    Args: factor, bias: of the logits z: the graph gives factor z + bias [C].

    Raises NerpError if packages are missing, or if the graph's logits are not the model's.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError as error:
        raise NerpError(f"--onnx needs the package {error.name}: pip install 'nerp[onnx]'"
                        ) from None
    size, module = int(model.trainer.clip.size), _Graph(model, factor, bias).eval()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        disabled = logging.root.manager.disable
        logging.disable(max(disabled, logging.WARNING))
        try:
            program = torch.onnx.export(
                module, (images,), dynamo=True, opset_version=OPSET, verbose=False,
                input_names=["images"], output_names=["logits"],
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
            )
        finally:
            logging.disable(disabled)
    assert program is not None  # as it is where dynamo exports
    proto = program.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = "classnames", json.dumps(model.classes)
    content: bytes = proto.SerializeToString()
    images = torch.randn(_CHECKED, 3, size, size, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    try:
        (found,) = session.run(["logits"], {"images": images.numpy()})
    except Exception as error:  # onnxruntime's own: the number of images is a constant in it
        raise NerpError(f"the graph is not for any number of images ({reason(error)}): nothing is "
                        "written") from None
    off = float(np.abs(found - module(images).numpy()).max())
    if not off <= _TOLERANCE:
        raise NerpError(f"the graph's logits are off by {off:.2g}, more than {_TOLERANCE:g}: "
                        "nothing is written")
    return content
