"""nerp as a sweep's server (`nerp.experiments.server`) runs it: forked from a process that has
imported everything that `nerp train` and `nerp test` use, and has read the next run's backbone."""

import argparse
import contextlib
import gc
import importlib
from collections.abc import Sequence
from functools import cache
from typing import NoReturn

import nerp.cli  # (first: it decides what torch reads when it is imported)
from nerp.base.python import module_command
from nerp.commands import add_arguments, command_module

# What `nerp sweep` starts its runs with: forks of this module, or new Python processes.
FORKED = "nerp.commands.forked"
FRESH = module_command("nerp")


def prepare(argv: Sequence[str]) -> None:
    """Called in the server, whose state stays as it is except for what the runs share."""
    import_everything()
    read_backbone(argv)


def run(argv: list[str]) -> int:
    """Called in a fork: carry out the arguments after `nerp`. Returns the exit status."""
    import numpy as np
    import torch

    np.random.seed()  # as in a new process; otherwise all forks would have equal numbers
    torch.set_num_threads(import_everything())
    return nerp.cli.run(argv)


@cache
def import_everything() -> int:
    """Import what `nerp train` and `nerp test` import. Returns torch's number of threads."""
    for name in ("nerp.commands.train", "nerp.commands.test", "nerp.base.distributed",
                 "nerp.engine.run", "nerp.trainers", "nerp.data.layouts", "nerp.correction",
                 "nerp.correction.pairs", "nerp.correction.references", "nerp.demo.world",
                 "nerp.settings.catalogue", "numpy.ma", "torchvision.transforms",
                 "torch._dynamo", "torch.utils.serialization.config", "safetensors.torch",
                 "multiprocessing.synchronize"):
        importlib.import_module(name)
    import torch
    from PIL import Image

    from nerp.base.log import environment, revision
    from nerp.clip.tokenizer import encode

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    encode("")
    Image.preinit()
    environment(torch.device("cpu"))
    revision()
    gc.collect()
    gc.freeze()
    return threads


def read_backbone(argv: Sequence[str]) -> None:
    """Read the backbone of a run, once for all later runs with it."""
    from nerp.clip.model import read_ahead
    from nerp.commands.common import request
    from nerp.settings.resolve import resolve

    with contextlib.suppress(Exception):  # the run meets the same error and reports it
        command, parser = command_module(argv[0]), _Parser()
        add_arguments(parser, command)
        backbone = resolve(request(parser.parse_intermixed_args(argv[1:]))).cfg.MODEL.BACKBONE
        read_ahead(backbone.NAME, backbone.PATH, backbone.ACTIVATION)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)
