"""SEED -1: no seed is fixed, so one is drawn, said and recorded; the record repeats the run."""

import secrets
from pathlib import Path

from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.engine.distributed import agree
from nerp.files.yaml_file import load_yaml
from nerp.settings.config import Request, build_config
from nerp.settings.defaults import key
from nerp.settings.protocols import CONFIG_FILE


def run_config(request: Request, anew: bool = False) -> CfgNode:
    """The configuration of a run, with a seed drawn where SEED is -1.

    A run that was interrupted in the same folder goes on with the seed that it drew, unless it is
    to begin `anew`. Raises NerpError as `build_config` does.
    """
    cfg = build_config(request)
    if cfg.SEED >= 0:
        return cfg
    kept = None if anew or not cfg.OUTPUT_DIR else _kept_seed(Path(cfg.OUTPUT_DIR).expanduser())
    drawn = agree(secrets.randbelow(2**31) if kept is None else kept)
    cfg.defrost()
    cfg.SEED = drawn
    cfg.freeze()
    how = "drawn for this run" if kept is None else "the one that the run in this folder drew"
    say(f"SEED -1: the seed is {drawn}, {how}; --seed {drawn} repeats it")
    return cfg


def _kept_seed(directory: Path) -> int | None:
    file = directory / CONFIG_FILE
    try:
        seed = load_yaml(file).get("SEED") if file.is_file() else None
        return None if seed is None else key("SEED").read(seed, str(file))
    except NerpError:
        return None
