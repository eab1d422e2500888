"""Logits kept beside a checkpoint: testing X_NeRP after X encodes no image twice.

An entry is used only where everything that its numbers depend on is the same (`logits_key`) and
its content is whole; anything else is computed anew and replaces it.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.data.benchmark import Benchmark, Item
from nerp.engine.distributed import agree, is_main
from nerp.log import environment, say
from nerp.paths import file_digest, replacing
from nerp.protocols import plain_name
from nerp.trainers.base import Trainer

FOLDER = "logits_cache"


def cache_file(folder: Path, cfg: CfgNode) -> Path:
    """Where below `folder` the logits of a run's tested split are kept."""
    dataset = cfg.DATASET
    return folder / FOLDER / f"{dataset.NAME}-{dataset.SUBSAMPLE_CLASSES}-{cfg.TEST.SPLIT}.npz"


def cached_logits(file: Path, key: str, compute: Callable[[], Tensor]) -> Tensor:
    """The logits [N, C] kept in `file` under `key`, or `compute()`, which is then kept.

    A folder that cannot be written keeps nothing; the numbers are the same either way.
    """
    kept = _read(file, key)
    if agree(kept is not None):
        say(f"logits from {file}, computed by an earlier test (--no-cache computes them again)")
        return kept
    logits = compute()
    if not is_main():
        return logits
    try:
        with replacing(file) as partial, open(partial, "wb") as content:
            np.savez(content, logits=logits.numpy(), key=key, digest=_digest(logits.numpy()))
    except OSError as error:
        say(f"the logits are not kept for later tests: {error}")
    return logits


def _read(file: Path, key: str) -> Tensor | None:
    try:
        with np.load(file, allow_pickle=False) as content:
            if str(content["key"]) != key:
                return None
            logits = content["logits"]
            return torch.from_numpy(logits) if str(content["digest"]) == _digest(logits) else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def logits_key(
    trainer: Trainer, checkpoint: Path | None, bench: Benchmark, items: list[Item], cfg: CfgNode
) -> str:
    """A digest of all that logits depend on: weights, classes, images, transform, machine.

    Images count by path, size and times of change; they are not read.
    """
    clip, classes = trainer.clip, trainer.classes
    parts = {
        "method": plain_name(cfg.TRAINER.NAME),
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
