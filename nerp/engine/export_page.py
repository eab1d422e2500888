"""The page beside an exported model: code that uses it without nerp."""

from collections.abc import Sequence

from nerp.clip.open_clips import FROM_FOLDER
from nerp.engine.export_onnx import OPSET
from nerp.engine.model import Model

_WEIGHTS = '''```python
import numpy as np
import open_clip
import torch
from PIL import Image

clip = open_clip.create_model({arguments}).eval()
preprocess = open_clip.image_transform({transform})
of = np.load("class_weights.npz")
with torch.no_grad():
    image = preprocess(Image.open("photo.jpg"))[None]
    feature = clip.encode_image(image, normalize=True).numpy()
logits = of["scale"] * feature @ of["weight"].T + of["bias"]
print(of["classnames"][logits.argmax(1)])
```'''
_GRAPH = '''```python
import json

import onnxruntime
import open_clip
from PIL import Image

session = onnxruntime.InferenceSession("model.onnx")
names = json.loads(session.get_modelmeta().custom_metadata_map["classnames"])
preprocess = open_clip.image_transform({transform})
image = preprocess(Image.open("photo.jpg"))[None].numpy()
logits = session.run(["logits"], {{"images": image}})[0]
print(names[logits.argmax(1)[0]])
```'''


def page(model: Model, arguments: Sequence[str] | None) -> str:
    """A Markdown text.

    Args: arguments: of open_clip.create_model, as Python has them; None: the export is a graph.
    """
    clip, classes = model.trainer.clip, len(model.classes)
    facts = [f"{model.resolved.method} on {clip.name}, {classes} classes, computed in float32. "
             "Softmax of the logits gives the probabilities."]
    if arguments is None:
        code = _GRAPH
        facts.append(f"ONNX, opset {OPSET}. `images`: float32 [batch, 3, {clip.size}, "
                     f"{clip.size}], any batch, normalised; `logits`: float32 [batch, {classes}].")
    else:
        code = _WEIGHTS
        facts.append(f"`weight`: float32 [{classes}, {clip.embed_dim}]; `scale`: a number; `bias`: "
                     f"float32 [{classes}]; `classnames`: {classes} texts. The same is in "
                     "`class_weights.safetensors`, with the names in its metadata.")
        if arguments == FROM_FOLDER:
            facts.append("`open_clip_model.safetensors` holds CLIP's weights; open_clip 3 or newer "
                         "reads the folder.")
    shown = code.format(arguments=", ".join(arguments or []), transform=_transform(model))
    return "\n\n".join([f"# {model.resolved.method}", *facts, shown]) + "\n"


def _transform(model: Model) -> str:
    """The arguments of open_clip.image_transform that prepare an image as in the model's test, one
    per line."""
    inputs, size = model.resolved.cfg.INPUT, model.trainer.clip.size
    plain = "normalize" not in inputs.TRANSFORMS
    mean, std = ((0.0,) * 3, (1.0,) * 3) if plain else (inputs.PIXEL_MEAN, inputs.PIXEL_STD)
    parts = [
        f"{size}, is_train=False", f"mean={tuple(mean)}", f"std={tuple(std)}",
        f"interpolation={inputs.INTERPOLATION!r}", f"resize_mode={inputs.RESIZE_MODE!r}",
    ]
    return "\n    " + ",\n    ".join(parts) + ",\n"
