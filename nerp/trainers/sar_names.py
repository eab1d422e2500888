"""The names of novel classes that SAR's term uses besides the trained ones."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.base.printable import brief, is_printable
from nerp.data.benchmark import comparable
from nerp.data.sentences import read_named
from nerp.files.opening import MIB, read_bytes, reading

SHIPPED = Path(__file__).with_name("sar_novel_classes.json")
_KEY = "TRAINER.SAR.NOVEL_FILE"
_LARGEST = MIB  # the largest size of a text file of names


@dataclass(frozen=True)
class NovelNames:
    """Class names related to the trained ones.

    Attributes: names: the used names, without trained classes. source: the list, in words.
    """

    names: tuple[str, ...]
    source: str

    def equal_to(self, classnames: Collection[str]) -> int:
        """The number of used names that are also in `classnames`."""
        return len({*map(_compared, self.names)} & {*map(_compared, classnames)})


def novel_names(cfg: CfgNode, trained: Sequence[str]) -> NovelNames:
    """The first TRAINER.SAR.N_NOVEL names of the dataset's list that are not trained classes.

    Raises NerpError if TRAINER.SAR.NOVEL_FILE is missing or not a list of names.
    """
    settings, dataset = cfg.TRAINER.SAR, cfg.DATASET.NAME
    path = Path(settings.NOVEL_FILE).expanduser() if settings.NOVEL_FILE else SHIPPED
    source = f"{settings.NOVEL_FILE or 'the shipped list'}, {dataset}"
    listed = _read_names(path, dataset)
    if listed is None:
        say(f"SAR: {path.name} has no novel names for {dataset}; its term runs over the trained "
            "classes alone")
        return NovelNames((), f"none for {dataset}")
    known = set(map(_compared, trained))
    left: dict[str, str] = {}
    for name in listed:
        if _compared(name) not in known:
            left.setdefault(_compared(name), name)
    return NovelNames(tuple(left.values())[: settings.N_NOVEL], source)


def _read_names(path: Path, dataset: str) -> list[str] | None:
    """The names for a dataset, from a JSON object (dataset -> names) or a text file with one name
    per line. None if the object does not have the dataset."""
    listed: object
    if path.suffix == ".json":
        listed = read_named(path, _KEY).get(dataset)
        if listed is None:
            return None
    else:
        with reading(path, "a readable text file"):
            text = read_bytes(path, _LARGEST).decode()
        listed = [line.strip() for line in text.splitlines() if line.strip()]
    if not isinstance(listed, list) or not listed or not all(
            isinstance(name, str) and name.strip() and is_printable(name) for name in listed):
        raise NerpError(f"{_KEY}: {path} has {brief(listed)} for {dataset}; it takes a list of "
                        "class names (.json: dataset -> names; else one name per line)")
    return [name.replace("_", " ") for name in listed]


def _compared(name: str) -> str:
    return comparable(name.replace("-", " "))
