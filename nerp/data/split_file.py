"""split.json: which image of a folder is in which split, and how that was drawn."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nerp.base.errors import NerpError
from nerp.base.paths import write_text
from nerp.data.benchmark import Item
from nerp.files.json_file import read_json
from nerp.files.opening import read_text

SPLIT_FILE = "split.json"
_NOTE = "made"


@dataclass(frozen=True)
class Made:
    """How a split file came about.

    Attributes:
        layout: of the images it was made from. fractions, seed: of the draw; () if the images had
            splits. left_out: images that it does not list, and why.
    """

    layout: str
    fractions: tuple[float, ...] = ()
    seed: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)


def write_split(
    file: Path, splits: Mapping[str, Sequence[Item]], made: Made, overwrite: bool
) -> None:
    """Write a split file. Raises NerpError if another one is there already."""
    text = json.dumps({**splits, _NOTE: asdict(made)}) + "\n"
    replace_text(file, text, overwrite, "and with it what runs on it were trained and tested on")


def replace_text(file: Path, text: str, overwrite: bool, loss: str) -> None:
    """Write a file. Raises NerpError, saying what would be lost, if it exists and differs."""
    if file.exists() and not overwrite and read_text(file) != text:
        raise NerpError(f"{file} is there already and differs; --overwrite replaces it, {loss}")
    write_text(file, text)


def made_by(file: Path) -> Made | None:
    """How a split file came about; None if it does not say, so that somebody else made it."""
    try:
        note: Any = read_json(file)[_NOTE]  # of another type it raises one of the below
        left_out = {str(path): str(why) for path, why in note["left_out"].items()}
        return Made(str(note["layout"]), tuple(map(float, note["fractions"])), int(note["seed"]),
                    left_out)
    except (NerpError, LookupError, TypeError, ValueError, AttributeError):
        return None
