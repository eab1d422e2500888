"""What is computed once: logits, kept beside their checkpoint, so that X_NeRP after X encodes no
image; and frozen image features, kept beside the data for every method that uses them as they are.

An entry is used only where everything that its numbers depend on is the same (`logits_key`,
`features_key`) and its content is whole; anything else is computed anew and replaces it. Of several
processes that want the same entry one computes it.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.distributed import agree, is_main
from nerp.base.errors import DiskError, NerpError
from nerp.base.log import environment, say
from nerp.base.paths import lock, replacing
from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip
from nerp.data.benchmark import Benchmark, Item, images_digest
from nerp.data.images import eval_identity
from nerp.engine.evaluate import FEATURE_BATCH
from nerp.engine.open_world import is_open
from nerp.files.arrays import FLOATS, TEXTS, Kind, read_arrays
from nerp.files.digest import file_digest
from nerp.settings.protocols import plain_name
from nerp.trainers.base import Trainer

FOLDER = "logits_cache"
FEATURES_FOLDER = "features_cache"


def cache_file(folder: Path, cfg: CfgNode) -> Path:
    """Where below `folder` the logits of a run's tested split are kept."""
    dataset = cfg.DATASET
    return folder / FOLDER / f"{dataset.NAME}-{dataset.SUBSAMPLE_CLASSES}-{cfg.TEST.SPLIT}.npz"


def cached_logits(
    file: Path, key: str, shape: tuple[int, int], compute: Callable[[], Tensor]
) -> Tensor:
    """The logits [N, C] of that shape kept in `file` under `key`, or `compute()`, which is then
    kept."""
    return cached([file], key, "logits", shape, compute)


def cached_features(
    bench: Benchmark, items: list[Item], cfg: CfgNode, clip: Clip, directory: Path,
    compute: Callable[[], Tensor],
) -> Tensor:
    """The frozen image features [N, D] of `items`, kept in the dataset's folder, or, where that
    cannot be written, where the runs on this dataset are (`directory` is the run's folder)."""
    key = features_key(clip, bench, items, cfg)
    dataset = cfg.DATASET
    matrices = str(clip.precision.weights).removeprefix("torch.")
    name = "-".join((dataset.NAME, dataset.SUBSAMPLE_CLASSES, cfg.TEST.SPLIT,
                     clip.name.replace("/", "-"), matrices))
    runs = next((p.parent for p in directory.parents if p.name.startswith("shots_")), directory)
    files = [folder / FEATURES_FOLDER / f"{name}.npz" for folder in (bench.directory, runs)]
    return cached(files, key, "features", (len(items), clip.embed_dim), compute)


def cached(
    files: Sequence[Path], key: str, name: str, shape: tuple[int, ...],
    compute: Callable[[], Tensor],
) -> Tensor:
    """The tensor `name` of that shape kept under `key` in one of `files`, or `compute()`, which is
    then kept in the first that can be written.

    Where none can, nothing is kept; the numbers are the same either way.
    """
    with _alone(files) if is_main() else contextlib.nullcontext():
        kept = [read_kept(file, key, {name: shape}) for file in files] if is_main() else []
        place = agree(next((i for i, found in enumerate(kept) if found), None))
        if place is not None:
            say(f"{name} from {files[place]}, computed by an earlier run (nerp test --no-cache "
                "computes them again)")
            found = kept[place] if is_main() else read_kept(files[place], key, {name: shape})
            return found[name]
        computed = compute()
        if is_main():
            keep(files, key, {name: computed})
    return computed


@contextlib.contextmanager
def _alone(files: Sequence[Path]) -> Iterator[None]:
    """Wait until no other process reads or computes what is kept in `files`; without locks where
    no folder can be written or the file system has none."""
    with contextlib.ExitStack() as stack:
        for file in files:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                beside = stack.enter_context(open(file.with_suffix(".lock"), "wb"))
            except OSError:
                continue
            if not lock(beside, wait=False):
                say(f"waiting for another process that computes {file}")
                lock(beside)
            break
        yield


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


def keep(files: Sequence[Path], key: str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors for `read_kept` to the first of `files` that can be written. Where none can,
    it says so and goes on."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    for file in files:
        try:
            with replacing(file) as partial, open(partial, "wb") as content:
                np.savez(content, **arrays, key=key, digest=_digest(arrays))
            return
        except DiskError as error:
            reason = error
    say(f"not kept for later runs: {reason}")


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
    """A digest of all that logits depend on: method, weights, classes, images, transform, machine.

    Images count by place, size and times of change (`images_digest`).
    """
    clip, classes = trainer.clip, trainer.classes
    parts = {
        "method": plain_name(cfg.TRAINER.NAME),
        "code": TRAINERS.code(plain_name(cfg.TRAINER.NAME)),
        "settings": dict(trainer.settings),
        "checkpoint": file_digest(checkpoint) if checkpoint else "",
        "backbone": clip.digest,
        "description": clip.description,
        "classes": [list(classes.names), classes.template, classes.seen],
        "images": _images(bench, items),
        "input": dict(cfg.INPUT),
        "batch": cfg.DATALOADER.TEST.BATCH_SIZE,
        "halves": is_open(cfg),
        "machine": environment(clip.device),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def features_key(clip: Clip, bench: Benchmark, items: list[Item], cfg: CfgNode) -> str:
    """A digest of all that frozen image features depend on: backbone, images, transform, machine.

    Images count as in `logits_key`.
    """
    parts = {
        "backbone": clip.digest,
        "description": clip.description,
        "images": _images(bench, items),
        "input": eval_identity(cfg),
        "batch": FEATURE_BATCH,
        "machine": environment(clip.device),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _images(bench: Benchmark, items: list[Item]) -> list[str]:
    return [str(bench.image_dir.resolve()), images_digest(items, bench.image_dir, times=True)]
