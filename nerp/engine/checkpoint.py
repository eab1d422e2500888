"""Checkpoints: learned tensors only, written whole, and readers of the published layouts."""

import io
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.paths import write_bytes, write_text
from nerp.base.printable import is_printable, printable
from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip
from nerp.files.digest import bytes_digest, read_digested
from nerp.files.opening import read_text, reading
from nerp.files.tensors import load_inert
from nerp.settings.protocols import DEPT_SUFFIX, plain_name
from nerp.settings.resolve import Resolved
from nerp.settings.tree import get
from nerp.trainers.base import Trainer
from nerp.trainers.texts import Classes

BEST_FILE = "model-best.pth.tar"  # of the best epoch on validation images (TEST.FINAL_MODEL)
_LONGEST_NOTE = 1000  # bytes of the file `checkpoint`
_MOST_PREFIXES = 16  # prefixes under which one method's tensors are searched
_LONGEST_NAME = 500  # characters of a tensor's name
# The keys of a card with which another run finds the images that a model was trained on.
_OF_THE_DATASET = ("NAME", "DIRECTORY", "LAYOUT", "IMAGE_FOLDER", "SPLIT_FILE", "CLASS_FILE",
                   "NUM_CLASSES", "TEMPLATE", "NEUTRAL", "REFERENCE")


# The keys that affect a prediction besides the method and its classes.
_OF_AN_IMAGE = (
    "MODEL.BACKBONE.NAME", "MODEL.BACKBONE.ACTIVATION", "MODEL.BACKBONE.INTERPOLATE", "INPUT.SIZE",
    "INPUT.INTERPOLATION", "INPUT.RESIZE_MODE", "INPUT.PIXEL_MEAN", "INPUT.PIXEL_STD",
    "INPUT.TRANSFORMS", "INPUT.EXACT_JPEG",
)


@dataclass(frozen=True)
class Checkpoint:
    """A method's learned tensors as read from a file.

    Attributes:
        path: the file. epoch: 0 if the file does not say.
        trainer: the registered method they belong to.
        tensors: by name, as `Trainer.initial` names them.
        settings: the method's shape settings, if the file has them.
        source: the dataset it was trained on, "" if the file does not say.
        substitute: what replaced files that were not given (`Trainer.substitute`).
        card: the keys of that dataset's card, {} if the file has none.
        inputs: the keys of the backbone and of the images' preprocessing, {} if the file has none.
            backbone: a digest of the backbone's weights, "" if the file has none.
        classnames: of the classes it was trained on, in label order, with spaces for underscores;
            () if the file does not say, as no published file does.
        also_seen: what its training has seen beyond labelled images, in words; None if the file
            does not say, as no published file does.
        digest: of the file's content.
        plain: the method's plain values (`Method.plain`) that the file has.
    """

    path: Path
    epoch: int
    trainer: str
    tensors: dict[str, Tensor]
    settings: dict[str, object]
    source: str
    substitute: str
    card: dict[str, object] = field(default_factory=dict)
    classnames: tuple[str, ...] = ()
    inputs: dict[str, object] = field(default_factory=dict)
    backbone: str = ""
    also_seen: str | None = None
    digest: str = ""
    plain: dict[str, object] = field(default_factory=dict)


def methods_of_files() -> list[str]:
    """The methods whose checkpoints can occur: the registered methods, and those with a suffix that
    adds tensors."""
    return [*TRAINERS.names(), *TRAINERS.taking(DEPT_SUFFIX)]


def checkpoint_file(
    model_dir: str | Path, folder: str, epoch: int | None = None, published: str = ""
) -> Path:
    """The file of an epoch, `<folder>/model.pth.tar-<epoch>`. Without an epoch it is, as in Dassl,
    the best, `model-best.pth.tar`, if that exists, otherwise the newest.

    `model_dir` is a run's folder, the checkpoint folder itself, or a file. The newest file is named
    in the file `checkpoint`; without that, it is the highest epoch. If there is no such file, the
    result is the file `published` below `model_dir`, which has no epochs.

    Raises NerpError, listing the epochs that exist, if there is none.
    """
    root = Path(model_dir).expanduser()
    if root.is_file():
        return root
    inside = root / folder if (root / folder).is_dir() else root
    epochs = {
        int(match[1]): path
        for path in inside.glob("model.pth.tar-*")
        if (match := re.fullmatch(r"model\.pth\.tar-(\d+)", path.name))
    }
    best = inside / BEST_FILE
    if published and not epochs and not best.is_file() and (root / published).is_file():
        return root / published
    if epoch is not None:
        if epoch in epochs:
            return epochs[epoch]
        raise NerpError(f"{inside}: no checkpoint of epoch {epoch}; "
                        f"there are: {', '.join(map(str, sorted(epochs))) or 'none'}")
    if best.is_file():
        return best
    note = inside / "checkpoint"
    if note.is_file():
        named = read_text(note, _LONGEST_NOTE).strip()
        if named in (path.name for path in inside.glob("model*")):
            return inside / named
    if not epochs:
        also = f" and no {published}" if published else ""
        files = sorted(path for path in inside.glob("*.pth*") if path.is_file())
        if files:
            raise NerpError(f"{root}: no checkpoint {folder}/model.pth.tar-<epoch>{also}; "
                            f"{files[0].name} is there: give the file itself, --model-dir "
                            f"{shlex.quote(str(files[0]))}")
        raise NerpError(f"{root}: no checkpoint {folder}/model.pth.tar-<epoch>{also}; --model-dir "
                        "is the --output-dir of a training run")
    return epochs[max(epochs)]


def read_checkpoint(path: Path, wanted: str = "") -> Checkpoint:
    """Read a checkpoint of nerp's or a published one; nothing in the file is executed.

    Args: wanted: the method to prefer if its tensors could belong to several.

    Raises NerpError for a file that is not a checkpoint of a registered method.
    """
    read, own_digest = read_digested(path, lambda path: _unpacked(load_inert(path), path))
    content: dict[object, object] = read if isinstance(read, dict) else {}
    state = content.get("state_dict")
    if not isinstance(state, dict):
        raise NerpError(f"{path}: not a checkpoint: there is no state_dict in it")
    state = {n: t for n, t in state.items()
             if isinstance(n, str) and len(n) <= _LONGEST_NAME and isinstance(t, Tensor)}
    with reading(path, "a checkpoint"):
        trainer, prefix = _identify(state, content.get("trainer"), path.parent.name, wanted)
    if trainer is None:
        names = ", ".join(list(state)[:3]) or "none"
        raise NerpError(f"{path}: not a checkpoint of a registered method "
                        f"({', '.join(TRAINERS.names())}, and with {DEPT_SUFFIX}); its tensors "
                        "begin with: "
                        f"{printable(names)}")
    tensors = {n.removeprefix(prefix): t.float() if t.is_floating_point() else t
               for n, t in state.items() if n.startswith(prefix)}
    settings, card = content.get("settings"), content.get("card")
    epoch = content.get("epoch")
    source, substitute = content.get("dataset"), content.get("substitute")
    seen = content.get("also_seen")
    return Checkpoint(
        path=path,
        epoch=epoch if type(epoch) is int else 0,
        trainer=trainer,
        tensors=tensors,
        settings={n: v for n, v in settings.items() if isinstance(n, str)}
        if isinstance(settings, dict) else {},
        source=source if isinstance(source, str) else "",
        substitute=printable(substitute) if isinstance(substitute, str) else "",
        card={key: card[key] for key in _OF_THE_DATASET if key in card}
        if isinstance(card, dict) else {},
        classnames=_classnames(content.get("classnames")),
        inputs=_inputs(content.get("inputs")),
        backbone=digest if isinstance(digest := content.get("backbone_digest"), str) else "",
        also_seen=printable(seen) if isinstance(seen, str) else None,
        digest=own_digest,
        plain={name: content[name] for name in TRAINERS[trainer].plain if name in content},
    )


def _inputs(said: object) -> dict[str, object]:
    return {n: said[n] for n in _OF_AN_IMAGE if n in said} if isinstance(said, dict) else {}


def _unpacked(content: object, path: Path) -> object:
    """The content of a file; a method's own published layout is converted to that of nerp's."""
    if isinstance(content, dict) and "state_dict" not in content:
        for name in methods_of_files():
            with reading(path, f"a checkpoint of {name}"):
                unpacked = TRAINERS[name].unpack(content)
            if unpacked:
                return {"state_dict": unpacked[0], "settings": unpacked[1], "trainer": name}
    return content


def _classnames(said: object) -> tuple[str, ...]:
    """The class names in a file; () if they are not a list of printable names."""
    if not isinstance(said, list):
        return ()
    names = tuple(n for n in said if isinstance(n, str) and n.strip() and is_printable(n))
    return names if len(names) == len(said) else ()


def _identify(
    state: Mapping[str, Tensor], said: object, folder: str, wanted: str
) -> tuple[str | None, str]:
    """The method that `state` belongs to, and the prefix of its names.

    Files of nerp's name the trainer, which counts if its signature occurs. Otherwise it is a method
    whose signature and marks occur and whose shapes fit. Of several methods it is the one with most
    of both: CoCoOp's names include CoOp's, and TCP's are CoCoOp's in other shapes. If that leaves
    several, the order is: the method of the `folder`, the wanted method, the one with the shortest
    prefix (BiomedCoOp's names are CoOp's behind a prefix).
    """
    own = plain_name(said) if isinstance(said, str) else ""
    if own in methods_of_files():
        prefix = _prefix(state, TRAINERS[own], TRAINERS[own].signature)
        if prefix is not None:
            return own, prefix
    found: list[tuple[int, bool, bool, int, str, str]] = []
    for name in methods_of_files():
        method = TRAINERS[name]
        patterns = method.signature + method.marks
        prefix = _prefix(state, method, patterns)
        if prefix is not None and patterns:
            elsewhere = method.folder != folder
            found.append((-len(patterns), elsewhere, name != wanted, len(prefix), name, prefix))
    return min(found)[4:] if found else (None, "")


def _prefix(
    state: Mapping[str, Tensor], method: type[Trainer], patterns: tuple[str, ...]
) -> str | None:
    """The shortest prefix of the names that `patterns` match; None if a pattern matches no name, or
    if the shapes are not the method's."""
    found = [
        {hit[1] for key in state if (hit := re.fullmatch(rf"(|.*?\.){pattern}", key))}
        for pattern in patterns
    ]
    shared = set.intersection(*found) if found else set()
    for prefix in sorted(shared, key=lambda prefix: (len(prefix), prefix))[:_MOST_PREFIXES]:
        inner = {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
        if method.fits(inner):
            return prefix
    return None


def load_trainer(
    resolved: Resolved, clip: Clip, classes: Classes, checkpoint: Checkpoint
) -> tuple[Trainer, list[str]]:
    """The trainer with the tensors of `checkpoint`, and lines for the log.

    Its shape settings come from the checkpoint (the stated ones, or else those that its tensors
    imply), so they need not be repeated for a test. Frozen CLIP tensors and class-dependent buffers
    in published files are ignored, whatever their class count.

    Raises NerpError for another method's checkpoint, or a tensor that is missing or of another
    shape.
    """
    cfg = resolved.cfg
    wanted = plain_name(cfg.TRAINER.NAME)
    path = checkpoint.path
    if checkpoint.trainer != wanted:
        raise NerpError(f"{path}: a checkpoint of {checkpoint.trainer}, the trainer is {wanted}")
    method = TRAINERS[wanted]
    with reading(path, f"a checkpoint of {wanted}"):
        reason = method.refusal(checkpoint.tensors, clip)
    if reason:
        raise NerpError(f"{path}: {reason}")
    settings = cfg.TRAINER[method.node]
    with reading(path, f"a checkpoint of {wanted}"):
        found = {**method.infer(checkpoint.tensors, settings, clip), **checkpoint.settings}
    notes = [f"{wanted} from {path}, epoch {checkpoint.epoch}"]
    carried = {f"TRAINER.{method.node}.{key}": found[key]
               for key in method.carried(cfg.TASK) if key in found}
    loaded = resolved.with_checkpoint(carried, path)
    notes += [
        f"{name} is {get(loaded.cfg, name)!r} in the checkpoint, not {get(cfg, name)!r} "
        f"({resolved.origin(name)})"
        for name in carried
        if get(loaded.cfg, name) != get(cfg, name) != []  # [] is a value that is still open
    ]
    trainer = method(loaded.cfg, clip, classes, start=checkpoint.tensors)
    with reading(path, f"a checkpoint of {wanted}"):
        problem = trainer.misfit(checkpoint.tensors)
    if problem:
        raise NerpError(f"{path}: {problem}")
    learned = trainer.learned.state_dict()
    missing = [name for name in learned
               if name not in checkpoint.tensors and name not in method.optional]
    if missing:
        raise NerpError(f"{path}: lacks {missing[0]}" +
                        (f" and {len(missing) - 1} more" if len(missing) > 1 else ""))
    for name, tensor in learned.items():
        theirs = checkpoint.tensors.get(name, tensor)
        free = name in method.by_data and theirs.dim() == tensor.dim() > 0
        if theirs.shape[free:] != tensor.shape[free:]:
            raise NerpError(f"{path}: {name} is {tuple(theirs.shape)}, this run needs "
                            f"{tuple(tensor.shape)}: another backbone, class count or setting")
        if tensor.is_floating_point() and not theirs.is_floating_point():
            kind = str(theirs.dtype).removeprefix("torch.")
            raise NerpError(f"{path}: {name} holds {kind}, and no floating-point numbers")
        check_finite(name, theirs, path)
    tensors = {name: checkpoint.tensors.get(name, fresh) for name, fresh in learned.items()}
    if method.by_data:  # of another shape
        trainer.learn(tensors)
    else:
        trainer.learned.load_state_dict(tensors)
    try:
        with reading(path, f"a checkpoint of {wanted}"):
            trainer.recall(checkpoint.classnames, checkpoint.plain)
    except NerpError as error:
        named = str(error).startswith(str(path))
        raise error if named else NerpError(f"{path}: {error}") from None
    if trainer.about_classes:
        notes.append(f"{wanted}: {trainer.about_classes}")
    return trainer, notes


def save_checkpoint(
    directory: Path, trainer: Trainer, tensors: Mapping[str, Tensor], epoch: int, cfg: CfgNode,
    best: bool = False,
) -> tuple[Path, str]:
    """Write `<folder>/model.pth.tar-<epoch>` below `directory` and name it in the file
    `checkpoint`; with `best`, write `model-best.pth.tar` beside it instead. Returns the path and
    the digest.

    The file holds learned tensors and plain values only, and loads with `weights_only=True`.
    """
    path = directory / trainer.folder / (BEST_FILE if best else f"model.pth.tar-{epoch}")
    content = {
        "state_dict": {n: tensor.detach().cpu() for n, tensor in trainer.saved(tensors).items()},
        "epoch": epoch,
        "trainer": plain_name(cfg.TRAINER.NAME),
        "settings": {key: trainer.settings[key] for key in trainer.shape_settings},
        "dataset": cfg.DATASET.NAME,
        "card": {key: cfg.DATASET[key] for key in _OF_THE_DATASET},
        "backbone": trainer.clip.name,
        "backbone_digest": trainer.clip.digest,
        "inputs": {name: get(cfg, name) for name in _OF_AN_IMAGE},
        "classnames": list(trainer.classes.names),
        "substitute": trainer.substitute,
        "also_seen": trainer.seen_besides(cfg),
        **trainer.plain_values(),
    }
    digest = save_tensors(path, content, directory)
    if not best:
        write_text(path.parent / "checkpoint", f"{path.name}\n", directory)
    return path, digest


def save_tensors(path: Path, content: Mapping[str, object], within: Path) -> str:
    """Write a torch file below the folder `within`, whole or not at all; returns the digest of its
    content. Raises DiskError if it cannot be written."""
    written = io.BytesIO()  # torch's own writer does not say that a disk is full
    torch.save(content, written)
    write_bytes(path, written.getvalue(), within)
    return bytes_digest(written.getvalue())


def check_finite(name: str, tensor: Tensor, where: Path | str) -> None:
    """Raise NerpError, beginning with `where`, for a tensor whose numbers are not finite."""
    if not tensor.isfinite().all():
        raise NerpError(f"{where}: {name} holds numbers that are not finite")
