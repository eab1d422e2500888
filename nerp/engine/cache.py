"""Logits kept beside a checkpoint: testing X_NeRP after X encodes no image twice.

An entry is used only where everything that its numbers depend on is the same (`logits_key`) and
its content is whole; anything else is computed anew and replaces it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.data.benchmark import Benchmark, Item
from nerp.engine.distributed import agree, is_main
from nerp.errors import DiskError, NerpError
from nerp.files.arrays import FLOATS, TEXTS, Kind, read_arrays
from nerp.log import environment, say
from nerp.paths import file_digest, replacing
from nerp.trainers.base import Trainer

FOLDER = "logits_cache"


def cache_file(folder: Path, cfg: CfgNode) -> Path:
    """Where below `folder` the logits of a run's tested split are kept."""
    dataset = cfg.DATASET
    return folder / FOLDER / f"{dataset.NAME}-{dataset.SUBSAMPLE_CLASSES}-{cfg.TEST.SPLIT}.npz"


def cached_logits(
    file: Path, key: str, shape: tuple[int, int], compute: Callable[[], Tensor]
) -> Tensor:
    """The logits [N, C] of that shape kept in `file` under `key`, or `compute()`, which is then
    kept.

    A folder that cannot be written keeps nothing; the numbers are the same either way.
    """
    kept = read_kept(file, key, {"logits": shape})
    if agree(kept is not None):
        say(f"logits from {file}, computed by an earlier test (--no-cache computes them again)")
        return kept["logits"]
    logits = compute()
    if is_main():
        keep(file, key, {"logits": logits})
    return logits


def read_kept(file: Path, key: str, shapes: Mapping[str, tuple[int, ...]]) -> dict | None:
    """The float tensors of these shapes that `keep` wrote under `key`; None where that is not what
    the file holds, whole and undamaged."""
    kinds = {name: Kind(FLOATS, len(shape)) for name, shape in shapes.items()}
    note = Kind(TEXTS, 0)
    if not os.path.lexists(file):
        return None
    try:
        arrays = read_arrays(file, {"key": note, "digest": note, **kinds})
    except NerpError:
        return None
    says, digest = (str(arrays.pop(name)) for name in ("key", "digest"))
    fits = {name: array.shape for name, array in arrays.items()} == {**shapes}
    if says != key or not fits or digest != _digest(arrays):
        return None
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def keep(file: Path, key: str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors for `read_kept`. Where that cannot be done, it says so and goes on."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    try:
        with replacing(file) as partial, open(partial, "wb") as content:
            np.savez(content, **arrays, key=key, digest=_digest(arrays))
    except DiskError as error:
        say(f"not kept for later tests: {error}")


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    content = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        content.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()


def logits_key(
    trainer: Trainer, checkpoint: Path | None, bench: Benchmark, items: list[Item], cfg: CfgNode
) -> str:
    """A digest of all that logits depend on: weights, classes, images, transform, machine.

    Images count by path, size and times of change; they are not read.
    """
    clip, classes = trainer.clip, trainer.classes
    parts = {
        "method": type(trainer).__name__,
        "settings": dict(trainer.settings),
        "checkpoint": file_digest(checkpoint) if checkpoint else "",
        "backbone": clip.digest,
        "description": clip.description,
        "classes": [list(classes.names), classes.template, classes.seen],
        "images": _images_digest(bench.image_dir, items),
        "input": dict(cfg.INPUT),
        "batch": cfg.DATALOADER.TEST.BATCH_SIZE,
        "machine": environment(clip.device),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _images_digest(image_dir: Path, items: list[Item]) -> str:
    content = hashlib.sha256(str(image_dir.resolve()).encode())
    for item in items:
        try:
            stat = (image_dir / item.path).stat()
        except OSError:
            return "missing"  # decoding will name it
        seen = item.path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
        content.update(f"{seen}\n".encode())
    return content.hexdigest()
