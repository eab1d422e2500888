"""A backbone's name in the settings: in a run's path, and in what a run prints about itself."""

import re
from collections.abc import Mapping
from pathlib import Path

from nerp.base.errors import NerpError
from nerp.base.printable import is_printable
from nerp.files.opening import read_text
from nerp.files.yaml_file import LARGEST

BACKBONE_KEY = "MODEL.BACKBONE.NAME"
DEFAULT_BACKBONE = "ViT-B/16"  # CoOp's; used if a request names no backbone
_STEM = "vit_b16"  # the beginning of its configurations' names
_LONGEST = 200  # characters of a name
# The line of MODEL.BACKBONE.NAME in a configuration as a run writes it. A table reads thousands of
# runs, so the rest of the file is not parsed for it.
_NAME = re.compile(r"^MODEL:\n(?:  .*\n)*?  BACKBONE:\n(?:    .*\n)*?    NAME: (.+)$", re.MULTILINE)


def folder_of(backbone: str) -> str:
    """A backbone's folder level in a run's path: ViT-B/32 -> ViT-B-32; "" for the default."""
    if backbone == DEFAULT_BACKBONE:
        return ""
    return re.sub(r"^\.+", "_", re.sub(r"[^\w.@+-]", "-", backbone.replace(":", "_")))


def backbone_in(file: Path) -> str:
    """The backbone of a run, from its saved configuration; "" if nothing says it."""
    try:
        return named(read_text(file, LARGEST))
    except NerpError:
        return ""


def named(text: str) -> str:
    """The backbone that a printed configuration somewhere in `text` names; "" for none."""
    found = _NAME.search(text)
    name = found[1].strip("'\"") if found else ""
    return name if len(name) <= _LONGEST and is_printable(name) else ""


def for_backbone(config: str, backbone: str, listed: Mapping[str, str]) -> list[str]:
    """Names that the configuration `config` may have for another backbone, the most likely first:
    vit_b16_ep50 -> vit_b32_ep50 for ViT-B/32.

    Args: listed: the default backbone's name -> the name, for names that break this pattern.
    """
    model = backbone.partition(":")[0].lower()
    stem = re.sub(r"(?<=[a-z])[-/](?=\d)", "", model).replace("-", "_")
    names = [listed[config]] if config in listed else []
    return [*names, stem + config.removeprefix(_STEM)] if config.startswith(_STEM) else names
