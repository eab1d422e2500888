"""The checkpoint of another method that a training starts from (`Method.builds_on`)."""

from pathlib import Path

from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.base.registry import TRAINERS
from nerp.engine.checkpoint import check_finite, checkpoint_file, read_checkpoint
from nerp.settings.protocols import plain_name


def built_on_files(cfg: CfgNode) -> dict[str, Path]:
    """A setting's full name -> the checkpoint's file, for those that name one.

    Raises NerpError, naming the setting, where there is none.
    """
    method = TRAINERS[plain_name(cfg.TRAINER.NAME)]
    settings = cfg.TRAINER[method.node]
    files = {}
    for leaf, other in method.builds_on.items():
        key, epoch = f"TRAINER.{method.node}.{leaf}", settings[f"{leaf}_EPOCH"]
        if settings[leaf]:
            try:
                files[key] = checkpoint_file(settings[leaf], TRAINERS[other].folder, epoch or None)
            except NerpError as error:
                raise NerpError(f"{key}: {error}") from None
    return files


def starting_tensors(cfg: CfgNode) -> dict[str, Tensor]:
    """The tensors of the checkpoints that a training starts from, {} for a method without such.

    Raises NerpError, naming setting and file, for a checkpoint of another method.
    """
    method = TRAINERS[plain_name(cfg.TRAINER.NAME)]
    tensors: dict[str, Tensor] = {}
    for key, path in built_on_files(cfg).items():
        wanted = method.builds_on[key.rpartition(".")[2]]
        found = read_checkpoint(path, wanted)
        if found.trainer != wanted:
            raise NerpError(f"{key}: {path}: a checkpoint of {found.trainer}, not of {wanted}")
        for name, tensor in found.tensors.items():
            check_finite(name, tensor, path)
        of = f", trained on {found.source}" if found.source else ""
        say(f"builds on {wanted} from {path}, epoch {found.epoch}{of}")
        tensors |= found.tensors
    return tensors
