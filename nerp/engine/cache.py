"""Results that are computed once. Logits are kept beside their checkpoint, so that a test of X_NeRP
after X encodes no image. Frozen image features are kept beside the data for every method.

An entry is used only if everything that its numbers depend on is the same (`logits_key`,
`features_key`) and its content is undamaged. Otherwise it is computed again and replaced. If
several processes want the same entry, one of them computes it.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.beside import check_folder, lock, make_folder, open_locked
from nerp.base.distributed import agree, everywhere, is_main
from nerp.base.errors import DiskError, NerpError
from nerp.base.log import environment, say
from nerp.base.paths import replacing
from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip
from nerp.data.benchmark import Benchmark, Item
from nerp.data.images import eval_identity
from nerp.data.sentences import input_digest
from nerp.engine.evaluate import FEATURE_BATCH
from nerp.engine.open_world import is_open
from nerp.files.arrays import FLOATS, TEXTS, Kind, read_arrays
from nerp.settings.defaults import key
from nerp.settings.protocols import plain_name, training_node
from nerp.trainers.base import Trainer

FOLDER = "logits_cache"
FEATURES_FOLDER = "features_cache"
# The end of the names of files with features of randomly transformed images. Each epoch has its own
# file, so `trim` limits their total size.
DRAWN = ".drawn.npz"


class Kept(NamedTuple):
    """A file of results, and the given folder that it is in."""

    file: Path
    within: Path


def cache_file(folder: Path, within: Path, cfg: CfgNode) -> Kept:
    """The file below `folder` for the logits of a run's tested split. within: the given folder that
    contains `folder`."""
    dataset = cfg.DATASET
    name = f"{dataset.NAME}-{dataset.SUBSAMPLE_CLASSES}-{cfg.TEST.SPLIT}.npz"
    return Kept(folder / FOLDER / name, within)


def cached_logits(
    place: Kept, key: str, shape: tuple[int, int], compute: Callable[[], Tensor]
) -> Tensor:
    """The logits [N, C] kept under `key`. If there are none of this shape, `compute()`, which is
    then kept."""
    return cached([place], key, "logits", shape, compute)


def cached_features(
    bench: Benchmark, items: list[Item], images: str, cfg: CfgNode, clip: Clip, directory: Path,
    compute: Callable[[], Tensor], part: str = "", drawn: Mapping[str, object] | None = None,
    quietly: bool = False,
) -> Tensor:
    """The frozen image features [N, D] of `items`, not normalised, whose state is `images`. They
    are kept in the dataset's folder or, if that cannot be written, beside the runs on this dataset
    (`directory` is the run's folder).

    Args:
        part: the part of the dataset that the items are, for the file's name; default: the tested
            split.
        drawn: everything that determines a random transform; {}: the transform of a test.
        quietly: as in `cached`.
    """
    key = features_key(clip, bench.image_dir, images, cfg, drawn)
    dataset = cfg.DATASET
    matrices = str(clip.precision.weights).removeprefix("torch.")
    name = "-".join((dataset.NAME, dataset.SUBSAMPLE_CLASSES, part or cfg.TEST.SPLIT,
                     clip.name.replace("/", "-"), matrices))
    file = f"{name}{DRAWN if drawn else '.npz'}"
    places = [Kept(folder / FEATURES_FOLDER / file, folder)
              for folder in feature_folders(bench, directory)]
    return cached(places, key, "features", (len(items), clip.embed_dim), compute, quietly)


def cached(
    places: Sequence[Kept], key: str, name: str, shape: tuple[int, ...],
    compute: Callable[[], Tensor], quietly: bool = False,
) -> Tensor:
    """The tensor `name` of that shape, kept under `key` in one of `places`. If none has it,
    `compute()`, which is then kept in the first place that can be written.

    If no place can be written, nothing is kept; the numbers are the same. The processes of one run
    either all read it or all compute it.

    Args: quietly: whether only the log file says where it is from; it then does not mention
        `nerp test --no-cache`, which would not compute it again.
    """
    with _alone(places) if is_main() else contextlib.nullcontext():
        kept = [read_kept(p.file, key, {name: shape}) for p in places] if is_main() else []
        number = agree(next((i for i, found in enumerate(kept) if found), None))
        if number is not None:
            file = places[number].file
            found = kept[number] if is_main() else read_kept(file, key, {name: shape})
            # Another command may have removed it meanwhile: not every place can be locked.
            if everywhere(found is not None) and found is not None:
                again = "" if quietly else " (nerp test --no-cache computes them again)"
                say(f"{name} from {file}, computed by an earlier run{again}", file_only=quietly)
                return found[name]
        computed = compute()
        if is_main():
            keep(places, key, {name: computed})
    return computed


@contextlib.contextmanager
def _alone(places: Sequence[Kept]) -> Iterator[None]:
    """Wait until no other process reads or computes the entries in `places`. If no folder can be
    written, or the file system has no locks, there is no wait."""
    with contextlib.ExitStack() as stack:
        for file, within in places:
            try:
                make_folder(file.parent, within)
                beside = stack.enter_context(open_locked(_lock_file(file)))
            except DiskError:
                continue
            if not lock(beside, wait=False):
                say(f"waiting for another process that computes {file}")
                lock(beside)
            break
        yield


def _lock_file(file: Path) -> Path:
    return file.with_suffix(".lock")


def read_kept(
    file: Path, key: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor] | None:
    """The float tensors of these shapes that `keep` wrote under `key`; None if the file has others
    or is damaged."""
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
    with contextlib.suppress(OSError):  # a read-only folder
        os.utime(file, follow_symlinks=False)  # `trim` keeps the files that were used last
    return {name: torch.from_numpy(array).float() for name, array in arrays.items()}


def keep(places: Sequence[Kept], key: str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors for `read_kept` to the first of `places` that can be written. If none can, say
    so and continue."""
    arrays = {name: _compact(tensor).numpy() for name, tensor in tensors.items()}
    for file, within in places:
        try:
            with replacing(file, within) as partial, open(partial, "wb") as content:
                kept = {**arrays, "key": np.array(key), "digest": np.array(_digest(arrays))}
                np.savez(content, **kept)  # type: ignore[arg-type]  # none is called allow_pickle
            return
        except DiskError as error:
            reason = error
    say(f"not kept for later runs: {reason}")


def _compact(tensor: Tensor) -> Tensor:
    """A tensor in half precision if that holds all of its numbers, else unchanged."""
    half = tensor.half()
    return half if torch.equal(half.float(), tensor) else tensor


def feature_folders(bench: Benchmark, directory: Path) -> list[Path]:
    """The folders for frozen features, in the order in which they are tried: the dataset's folder,
    the folder of the runs on this dataset. Args: directory: the run's folder."""
    runs = next((p.parent for p in directory.parents if p.name.startswith("shots_")), directory)
    return [bench.directory, runs]


def trim(folder: Path, most: int) -> None:
    """Remove the `DRAWN` features of a folder that were used longest ago, until the rest takes at
    most `most` bytes. An entry that another process reads or computes stays. Nothing is removed if
    the files are behind a link that leads out of the folder."""
    left, found, kept_in = most, [], folder / FEATURES_FOLDER
    try:
        check_folder(kept_in, folder)
    except DiskError:
        return
    for file in kept_in.glob(f"*{DRAWN}"):
        with contextlib.suppress(OSError):
            state = file.lstat()
            found.append((state.st_mtime, state.st_size, file))
    for _, size, file in sorted(found, reverse=True):
        left -= size
        if left < 0:
            # The lock file stays. Without it, a process that waits for the old file and a process
            # that creates a new one would both compute the entry.
            with contextlib.suppress(OSError), open_locked(_lock_file(file)) as beside:
                if lock(beside, wait=False):
                    file.unlink()


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    content = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        content.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()


def logits_key(
    trainer: Trainer, checkpoint: str, inputs: Mapping[str, str], image_dir: Path, images: str,
    cfg: CfgNode,
) -> str:
    """A digest of everything that logits depend on: method, weights, classes, images, transform,
    machine.

    Args:
        checkpoint: the digest of the checkpoint, "" without one. inputs: the digests of the files
            that the method read (`method_inputs`).
        images: the state of the images in the folder `image_dir` (`images_state`). A stranger
            cannot predict it, and so cannot plant an entry that is taken for ours.
    """
    clip, classes = trainer.clip, trainer.classes
    beside = training_node(plain_name(cfg.TRAINER.NAME))
    parts = {
        "method": plain_name(cfg.TRAINER.NAME),
        "code": TRAINERS.code(plain_name(cfg.TRAINER.NAME)),
        "settings": dict(trainer.settings) | dict(cfg.TRAINER[beside] if beside else {}),
        "inputs": dict(inputs),
        "checkpoint": checkpoint,
        "backbone": clip.digest,
        "description": clip.description,
        "classes": [list(classes.names), classes.template, classes.seen, classes.within],
        "images": [str(image_dir.resolve()), images],
        "input": dict(cfg.INPUT),
        "batch": cfg.DATALOADER.TEST.BATCH_SIZE,
        "halves": is_open(cfg),
        "machine": environment(clip.device),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def features_key(
    clip: Clip, image_dir: Path, images: str, cfg: CfgNode,
    drawn: Mapping[str, object] | None = None,
) -> str:
    """A digest of everything that frozen image features depend on: backbone, images, transform,
    machine. images: as in `logits_key`. Args: drawn: as in `cached_features`.
    Images count as in `logits_key`. Args: drawn: as in `cached_features`.
    """
    parts = {
        "backbone": clip.digest,
        "description": clip.description,
        "images": [str(image_dir.resolve()), images],
        "input": eval_identity(cfg),
        "drawn": dict(drawn or {}),
        "length": "any",
        "batch": FEATURE_BATCH,
        "machine": environment(clip.device),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def method_inputs(cfg: CfgNode) -> dict[str, str]:
    """Key -> digest of each file that a method's own keys name. Raises NerpError for a file that
    cannot be read."""
    node = TRAINERS[plain_name(cfg.TRAINER.NAME)].node
    return {
        name: input_digest(value, [cfg.DATASET.NAME])
        for name, value in cfg.TRAINER[node].items()
        if value and key(f"TRAINER.{node}.{name}").is_file
    }


def built(make: Callable[[], Trainer], cfg: CfgNode) -> tuple[Trainer, dict[str, str]]:
    """A trainer, and the `method_inputs` that it read. Raises NerpError if a file changes
    meanwhile."""
    before = method_inputs(cfg)
    trainer = make()
    if method_inputs(cfg) != before:
        raise NerpError(f"{cfg.TRAINER.NAME}: a file that its keys name was changed while it was "
                        "read; the same command reads it again")
    return trainer, before
