"""Readers, one a layout on disk: card and folder -> image folder and the three lists of items."""

import json
from pathlib import Path

from yacs.config import CfgNode

from nerp.data.benchmark import SPLITS, Item
from nerp.errors import NerpError
from nerp.registry import LAYOUTS

Lists = dict[str, list[Item]]


@LAYOUTS.register("json_split")
def json_split(card: CfgNode, directory: Path) -> tuple[Path, Lists]:
    """`SPLIT_FILE` holds train, val and test: lists of [path, label, class name]."""
    file = directory / card.SPLIT_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NerpError(f"{card.NAME}: no split file {file}; DATASETS.md says where it is from "
                        f"(nerp data prepare)") from None
    except (OSError, ValueError) as error:
        raise NerpError(f"{file}: not a readable JSON file ({error})") from None
    return directory / card.IMAGE_FOLDER, {name: _items(content, name, file) for name in SPLITS}


def _items(content, name: str, file: Path) -> list[Item]:
    try:
        items = [Item(path, label, classname) for path, label, classname in content[name]]
    except (KeyError, TypeError, ValueError):
        items = None
    if items is None or not all(
        isinstance(i.path, str) and type(i.label) is int and isinstance(i.classname, str)
        for i in items
    ):
        raise NerpError(f"{file}: {name!r} must be a list of [path, label, class name]")
    return items
