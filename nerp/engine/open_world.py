"""A test in the open world: which classes were trained on, and how its images are processed.

All images are tested once, with all classes as answers. The images of the base and of the novel
half are encoded in separate batches, as in the base-to-novel tests. So kept frozen features serve
all three tests, and their numbers agree to the last bit.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.data.benchmark import Benchmark, comparable
from nerp.data.selection import class_half
from nerp.files.yaml_file import load_yaml
from nerp.settings.protocols import CONFIG_FILE, NERP_SUFFIX, plain_name, protocol

if TYPE_CHECKING:
    from nerp.engine.checkpoint import Checkpoint

TASK = protocol("open_world").task
_HALVES = ("base", "new")


def is_open(cfg: CfgNode) -> bool:
    """Whether a run is of the open world."""
    return bool(cfg.TASK == TASK)


def check_training(cfg: CfgNode) -> None:
    """Raise NerpError for a training of the open world on other classes than the base half."""
    if is_open(cfg) and cfg.DATASET.SUBSAMPLE_CLASSES != "base":
        raise NerpError(f"TASK {TASK} is trained on base classes: DATASET.SUBSAMPLE_CLASSES base")


def base_classes(
    cfg: CfgNode, bench: Benchmark, checkpoint: "Checkpoint | None"
) -> npt.NDArray[np.bool_]:
    """[C] whether a class of `bench`, which has all classes, was trained on.

    The class names in the checkpoint decide. For a published file, which has none, and for a method
    that learns nothing, it is the base half, as in the protocol.

    Raises NerpError if that contradicts the checkpoint, or if base or novel classes are missing.
    """
    if cfg.DATASET.SUBSAMPLE_CLASSES != "all":
        raise NerpError(f"TASK {TASK} tests all classes at once: leave out "
                        f"DATASET.SUBSAMPLE_CLASSES {cfg.DATASET.SUBSAMPLE_CLASSES}")
    names = bench.classnames
    half = _half(len(names))
    if checkpoint is None:
        return half
    trained = checkpoint.classnames
    if not trained:
        _check_protocol(cfg, checkpoint)
        return half
    if list(trained) == names[: half.sum()]:
        return half  # whatever names are there twice
    known = set(map(comparable, trained))
    base = np.array([comparable(name) in known for name in names])
    if not base.any() or base.all():
        which = "all" if base.any() else "none"
        raise NerpError(f"{checkpoint.path}: trained on {which} of the {len(names)} classes of "
                        f"{bench.name}, so there is nothing to tell apart in the open world: train "
                        "with DATASET.SUBSAMPLE_CLASSES base")
    return base


def _half(classes: int) -> npt.NDArray[np.bool_]:
    """[C] whether a class is of the base half."""
    return np.arange(classes) < len(class_half(classes, "base"))


def _check_protocol(cfg: CfgNode, checkpoint: "Checkpoint") -> None:
    """Raise NerpError if a checkpoint without class names was not trained on the base half of the
    tested dataset, as it or the configuration beside it says."""
    said = f"{checkpoint.path}: it does not name the classes that it was trained on"
    if checkpoint.source not in ("", cfg.DATASET.NAME):
        raise NerpError(f"{said}, which are of {checkpoint.source}, not of {cfg.DATASET.NAME}")
    file = checkpoint.path.parent.parent / CONFIG_FILE
    node = load_yaml(file).get("DATASET") if file.is_file() else None
    classes = node.get("SUBSAMPLE_CLASSES", "base") if isinstance(node, dict) else "base"
    if classes != "base":
        raise NerpError(f"{said}, and {file} says {classes!r}, so base and novel classes cannot be "
                        "told apart: train it again with DATASET.SUBSAMPLE_CLASSES base")


def batches_of(
    cfg: CfgNode, bench: Benchmark
) -> Iterator[tuple[CfgNode, Benchmark, npt.NDArray[np.int64]]]:
    """The parts in which a run's tested images are processed. Each is a configuration, a benchmark,
    and the positions of its images among all images."""
    items = getattr(bench, cfg.TEST.SPLIT)
    if not is_open(cfg):
        yield cfg, bench, np.arange(len(items))
        return
    for which in _HALVES:
        labels = class_half(len(bench.classnames), which)
        places = np.array([i for i, item in enumerate(items) if item.label in labels], np.int64)
        if len(places):
            part = cfg.clone()
            part.defrost()
            part.DATASET.SUBSAMPLE_CLASSES = which
            yield part, bench.select(labels), places


def stands_for(cfg: CfgNode, as_trained: bool, base: npt.NDArray[np.bool_]) -> list[str]:
    """The base-to-novel tests ("base", "new") whose numbers an open-world test also has: the tests
    in which the method has the same logits for a class."""
    name = cfg.TRAINER.NAME
    method = TRAINERS[plain_name(name)]
    corrected = name.endswith(NERP_SUFFIX)  # a correction depends on all tested classes
    if corrected or not method.independent or not np.array_equal(base, _half(len(base))):
        return []
    if not method.two_heads:
        return list(_HALVES)
    return ["base"] if as_trained else ["new"]
