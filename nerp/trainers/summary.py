"""What is registered, in numbers: for `nerp methods`."""

import torch

from nerp.clip.loading import PUBLISHED, SHIPPED, load_model
from nerp.clip.model import Clip
from nerp.defaults import default_config
from nerp.errors import NerpError
from nerp.registry import TRAINERS, unknown
from nerp.trainers.base import Classes

_CLASSES = Classes(tuple(f"class {i}" for i in range(10)), "a photo of a {}.", "a photo.")


def method_rows(backbone: str) -> list[list]:
    """[name, learned parameters on `backbone`, checkpoint folder, paper] for each method.

    The count is None where the method does not fit the backbone. It needs shapes alone: the
    backbone and whatever a method computes from it are on the meta device, without any values.
    Raises NerpError for an unknown backbone.
    """
    meta = torch.device("meta")
    clip = Clip(_shapes_of(backbone), "fp32", meta, backbone)
    cfg = default_config()
    rows = []
    for name in TRAINERS.names():
        method = TRAINERS[name]
        try:
            trainer = method(cfg, clip, _CLASSES)
        except NerpError:
            count = None
        else:
            count = sum(parameter.numel() for parameter in trainer.parameters())
        rows.append([name, count, method.folder, method.paper])
    return rows


def _shapes_of(backbone: str) -> torch.nn.Module:
    """A CLIP of the backbone's architecture, its weights on the meta device but for the scale,
    which `Clip` reads."""
    if backbone in SHIPPED:
        return load_model(SHIPPED[backbone])
    if backbone not in PUBLISHED:
        raise unknown("backbone", backbone, [*PUBLISHED, *SHIPPED])
    from open_clip.factory import get_model_config
    from open_clip.model import CLIP

    with torch.device("meta"):
        model = CLIP(**get_model_config(PUBLISHED[backbone]))
    model.logit_scale = torch.nn.Parameter(torch.zeros(()))
    return model
