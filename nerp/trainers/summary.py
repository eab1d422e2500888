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
    """[name, learned parameters on `backbone`, paper] for each method; None where it does not fit.

    The counts need the backbone's shapes, not its published weights. Raises NerpError for an
    unknown backbone.
    """
    clip = Clip(_shapes_of(backbone), "fp32", torch.device("cpu"), backbone)
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
        rows.append([name, count, method.paper])
    return rows


def _shapes_of(backbone: str) -> torch.nn.Module:
    if backbone in SHIPPED:
        return load_model(SHIPPED[backbone])
    if backbone not in PUBLISHED:
        raise unknown("backbone", backbone, [*PUBLISHED, *SHIPPED])
    import open_clip

    return open_clip.create_model(PUBLISHED[backbone], load_weights=False)
