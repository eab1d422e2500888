"""Checkpoints: learned tensors only, written whole, and readers of the published layouts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.clip.model import Clip
from nerp.clip.unpickle import load_inert
from nerp.config import put
from nerp.errors import NerpError
from nerp.paths import replacing, write_text
from nerp.protocols import plain_name
from nerp.registry import TRAINERS
from nerp.trainers.base import Classes, Trainer

# What of a card another run needs in order to find the images that a model was trained on.
_OF_THE_DATASET = ("NAME", "DIRECTORY", "LAYOUT", "IMAGE_FOLDER", "SPLIT_FILE", "CLASS_FILE",
                   "NUM_CLASSES", "TEMPLATE", "NEUTRAL", "REFERENCE")


@dataclass(frozen=True)
class Checkpoint:
    """A method's learned tensors as read from a file.

    Attributes:
        path: the file. epoch: 0 where it does not say.
        trainer: the registered method they belong to.
        tensors: by name, as `Trainer.initial` names them.
        settings: the method's shape settings, where the file carries them.
        source: the dataset it was trained on, "" where the file does not say; card: its card's
            keys, {} where they are not in the file.
    """

    path: Path
    epoch: int
    trainer: str
    tensors: dict[str, Tensor]
    settings: dict[str, object]
    source: str
    card: dict[str, object] = field(default_factory=dict)


def checkpoint_file(model_dir: str | Path, folder: str, epoch: int | None = None) -> Path:
    """The file of an epoch, or of the newest one: `<folder>/model.pth.tar-<epoch>`.

    `model_dir` is a run's folder, the checkpoint folder itself, or a file. The newest is what the
    file `checkpoint` names, else the highest epoch, else `model-best.pth.tar`.

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
    if epoch is not None:
        if epoch in epochs:
            return epochs[epoch]
        raise NerpError(f"{inside}: no checkpoint of epoch {epoch}; "
                        f"there are: {', '.join(map(str, sorted(epochs))) or 'none'}")
    note = inside / "checkpoint"
    if note.is_file():
        named = inside / note.read_text().strip()
        if named.is_file():
            return named
    best = inside / "model-best.pth.tar"
    if not epochs and not best.is_file():
        raise NerpError(f"{root}: no checkpoint {folder}/model.pth.tar-<epoch>; --model-dir is the "
                        "--output-dir of a training run")
    return epochs[max(epochs)] if epochs else best


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one of our checkpoints or a published one; nothing in the file is executed.

    Raises NerpError for a file that is no checkpoint of a registered method.
    """
    content = load_inert(path)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise NerpError(f"{path}: not a checkpoint: there is no state_dict in it")
    state = {n: t for n, t in state.items() if isinstance(n, str) and isinstance(t, Tensor)}
    trainer, prefix = _identify(state)
    if trainer is None:
        names = ", ".join(list(state)[:3]) or "none"
        raise NerpError(f"{path}: not a checkpoint of a registered method "
                        f"({', '.join(TRAINERS.names())}); its tensors begin with: {names}")
    tensors = {n.removeprefix(prefix): t.float() for n, t in state.items() if n.startswith(prefix)}
    settings, card = content.get("settings"), content.get("card")
    epoch = content.get("epoch")
    return Checkpoint(
        path=path,
        epoch=epoch if isinstance(epoch, int) else 0,
        trainer=trainer,
        tensors=tensors,
        settings=dict(settings) if isinstance(settings, dict) else {},
        source=str(content.get("dataset") or ""),
        card={key: card[key] for key in _OF_THE_DATASET if key in card}
        if isinstance(card, dict) else {},
    )


def _identify(state: Mapping[str, Tensor]) -> tuple[str | None, str]:
    """The method whose signature is in `state`, and what its names are prefixed with there.

    Of several methods the one with the longest signature: CoCoOp's names include CoOp's.
    """
    best: tuple[int, str | None, str] = (0, None, "")
    for name in TRAINERS.names():
        patterns = TRAINERS[name].signature
        if not patterns:
            continue
        hits = [re.fullmatch(rf"(.*?){patterns[0]}", key) for key in state]
        for prefix in sorted({hit[1] for hit in hits if hit}, key=len):
            if prefix and not prefix.endswith("."):
                continue
            whole = all(
                any(re.fullmatch(re.escape(prefix) + pattern, key) for key in state)
                for pattern in patterns
            )
            if whole and len(patterns) > best[0]:
                best = (len(patterns), name, prefix)
    return best[1], best[2]


def load_trainer(
    cfg: CfgNode, clip: Clip, classes: Classes, checkpoint: Checkpoint
) -> tuple[Trainer, list[str]]:
    """The trainer that `checkpoint` holds, and lines for the log.

    Its shape settings come from the checkpoint (what it says, else what its tensors imply), so
    none of them need be repeated at test time. Frozen CLIP tensors and class-dependent buffers in
    published files are left aside, whatever their class count.

    Raises NerpError where it is another method's, or a tensor is missing or of another shape.
    """
    wanted = plain_name(cfg.TRAINER.NAME)
    path = checkpoint.path
    if checkpoint.trainer != wanted:
        raise NerpError(f"{path}: a checkpoint of {checkpoint.trainer}, the trainer is {wanted}")
    method = TRAINERS[wanted]
    cfg = cfg.clone()
    cfg.defrost()
    settings = cfg.TRAINER[method.node]
    found = {**method.infer(checkpoint.tensors, settings, clip), **checkpoint.settings}
    notes = [f"{wanted} from {path}, epoch {checkpoint.epoch}"]
    for key in method.shape_settings:
        if key in found and found[key] != settings[key]:
            full = f"TRAINER.{method.node}.{key}"
            notes.append(f"{full} is {found[key]!r} in the checkpoint, not {settings[key]!r}")
            put(cfg, full, found[key], str(path))
    trainer = method(cfg, clip, classes)
    learned = trainer.learned.state_dict()
    missing = [name for name in learned if name not in checkpoint.tensors]
    if missing:
        raise NerpError(f"{path}: lacks {missing[0]}" +
                        (f" and {len(missing) - 1} more" if len(missing) > 1 else ""))
    for name, tensor in learned.items():
        theirs = checkpoint.tensors[name]
        if theirs.shape != tensor.shape:
            raise NerpError(f"{path}: {name} is {tuple(theirs.shape)}, this run needs "
                            f"{tuple(tensor.shape)}: another backbone, class count or setting")
    trainer.learned.load_state_dict({name: checkpoint.tensors[name] for name in learned})
    return trainer, notes


def save_checkpoint(
    directory: Path, trainer: Trainer, tensors: Mapping[str, Tensor], epoch: int, cfg: CfgNode
) -> Path:
    """Write `<folder>/model.pth.tar-<epoch>` below `directory` and name it in `checkpoint`.

    It holds learned tensors and plain values only, and loads with `weights_only=True`.
    """
    path = directory / trainer.folder / f"model.pth.tar-{epoch}"
    content = {
        "state_dict": {name: tensor.detach().cpu() for name, tensor in tensors.items()},
        "epoch": epoch,
        "trainer": cfg.TRAINER.NAME,
        "settings": {key: trainer.settings[key] for key in trainer.shape_settings},
        "dataset": cfg.DATASET.NAME,
        "card": {key: cfg.DATASET[key] for key in _OF_THE_DATASET},
        "backbone": trainer.clip.name,
    }
    with replacing(path) as partial:
        torch.save(content, partial)
    write_text(path.parent / "checkpoint", f"{path.name}\n")
    return path
