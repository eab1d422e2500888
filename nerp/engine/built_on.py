"""The checkpoint of another method that a training starts from (`Method.builds_on`)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.base.registry import TRAINERS
from nerp.engine.checkpoint import (
    Checkpoint,
    check_finite,
    checkpoint_file,
    read_checkpoint,
)
from nerp.files.digest import content_digest
from nerp.settings.catalogue import epoch_key
from nerp.settings.protocols import plain_name


def built_on_files(cfg: CfgNode) -> dict[str, Path]:
    """Full name of a setting -> the checkpoint's file, for the settings that name a checkpoint.

    Raises NerpError, naming the setting, if the file does not exist.
    """
    method = TRAINERS[plain_name(cfg.TRAINER.NAME)]
    settings = cfg.TRAINER[method.node]
    files = {}
    for leaf, other in method.builds_on.items():
        key, epoch = f"TRAINER.{method.node}.{leaf}", settings[epoch_key(leaf)]
        if settings[leaf]:
            folder = TRAINERS[other].folder
            best = Path(settings[leaf]).expanduser() / folder / "model-best.pth.tar"
            try:
                files[key] = checkpoint_file(settings[leaf], folder, epoch or None)
            except NerpError as error:
                if not best.is_file():
                    raise NerpError(f"{key}: {error}") from None
                files[key] = best  # published folders have this file
    return files


def completed(checkpoint: Checkpoint, cfg: CfgNode) -> Checkpoint:
    """A checkpoint, completed by the tensors that a test needs from the checkpoints it builds on.
    Raises NerpError if tensors are missing and nothing says where to find them."""
    method = TRAINERS[checkpoint.trainer]
    if not method.lacks(checkpoint.tensors):
        return checkpoint
    if not built_on_files(cfg):
        ((leaf, other),) = method.builds_on.items()
        raise NerpError(f"{checkpoint.path}: it lacks the prompts of its teacher, as published "
                        f"files do: TRAINER.{method.node}.{leaf} names the {other} checkpoint that "
                        "taught it")
    digests = map(content_digest, built_on_files(cfg).values())
    more = method.taken_over(starting_tensors(cfg))
    return replace(checkpoint, tensors={**checkpoint.tensors, **more},
                   digest=" ".join([checkpoint.digest, *digests]))


def starting_tensors(cfg: CfgNode, names: Sequence[str] = ()) -> dict[str, Tensor]:
    """The tensors of the checkpoints that a training starts from; {} for a method without any.
    names: the classes of the training; (): the tensors that a test needs.

    Raises NerpError, naming setting and file, for a checkpoint of another method, or for one that
    this training cannot build on.
    """
    method = TRAINERS[plain_name(cfg.TRAINER.NAME)]
    tensors: dict[str, Tensor] = {}
    for key, path in built_on_files(cfg).items():
        wanted = method.builds_on[key.rpartition(".")[2]]
        found = read_checkpoint(path, wanted)
        if found.trainer != wanted:
            raise NerpError(f"{key}: {path}: a checkpoint of {found.trainer}, not of {wanted}")
        if names and (reason := method.unfit(cfg, names, found.source, found.classnames)):
            raise NerpError(f"{key}: {path}: {reason}")
        for name, tensor in found.tensors.items():
            check_finite(name, tensor, path)
        of = f", trained on {found.source}" if found.source else ""
        say(f"builds on {wanted} from {path}, epoch {found.epoch}{of}")
        tensors |= found.tensors
    return tensors
