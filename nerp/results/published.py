"""Published numbers, as the papers named in `source` print them (published.csv), and users' own.

Base-to-novel rows have base, novel and H, or H alone; other rows have one accuracy. Rows called
Average are the papers' own. Brackets after a method name the paper's variant of it.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from nerp.base.errors import NerpError
from nerp.base.printable import brief, is_printable
from nerp.base.registry import unknown
from nerp.files.opening import read_text
from nerp.results.names import method_name
from nerp.settings.backbones import DEFAULT_BACKBONE

AVERAGE = "Average"
MEDICAL_AVERAGE = "Average (biomedical)"
_SHIFTS_AVERAGE = "Average (V2; Sketch; R)"
# The datasets of these averages; the medical one in base-to-novel is without BUSI (three classes).
_MEDICAL = ("BTMRI", "BUSI", "CHMNIST", "COVID_19", "CTKidney", "DermaMNIST", "KneeXray", "Kvasir",
            "LungColon", "OCTMNIST", "RETINA")
_SHIFTS = ("ImageNet", "ImageNetV2", "ImageNetSketch", "ImageNetR")
AVERAGES = (AVERAGE, MEDICAL_AVERAGE, _SHIFTS_AVERAGE)
# The papers whose short names the file's sources begin with.
_PAPERS = {"ANPrompt": "arXiv 2508.04677, 2025", "SAR": "arXiv 2502.11969, 2025",
           "BiomedCoOp": "arXiv 2411.15232, 2025",
           "CasPL": "arXiv 2409.17805, 2024", "Tip-Adapter": "arXiv 2207.09519, 2022",
           "TFUP": "arXiv 2404.16339, 2024", "DePT": "arXiv 2309.07439, 2024",
           "PromptKD": "arXiv 2403.02781, 2024", "KgCoOp": "arXiv 2303.13283, 2023",
           "PLOT++": "arXiv 2210.01253, 2023"}
_SHOTS = 16  # in all published trainings, except where `_PROTOCOLS` gives another number
# A protocol of a file -> its name and shots. The shipped file has more, which no table shows.
_PROTOCOLS = {**{name: (name, _SHOTS) for name in ("base_to_novel", "cross_dataset",
                                                   "domain_generalisation")},
              **{f"base_to_novel_{shots}_shot": ("base_to_novel", shots) for shots in (4, 8)},
              **{f"few_shot_{shots}": ("few_shot", shots) for shots in (1, 2, 4, 8, 16)}}
# Names of trainers in the file that differ from those in papers.
_NAMES = {"CasPL": "CLIP+boosting prompts"}
# The origin of a row: the method's own paper or repository, another paper, a user's file.
OWN_PAPER, OTHER_PAPER, OWN_FILE = "own paper", "other paper", "file"
_COLUMNS = ("protocol", "method", "dataset", "base_or_accuracy", "novel", "hm")
_NUMBERS = _COLUMNS[3:]
_MAY_HAVE = ("source", "backbone", "chosen_on_test")
_LARGEST = 2**22  # bytes of a user's file


@dataclass(frozen=True)
class Published:
    """One row: accuracies in percent, None if the paper does not give them. variant: how the method
    differed, in the paper's words, or "". origin: `OWN_PAPER`, `OTHER_PAPER` or `OWN_FILE`.
    chosen_on_test: whether the number was selected on its own test images. others: its rows with
    other shots."""

    protocol: str
    shots: int
    method: str
    variant: str
    dataset: str
    base_or_accuracy: float | None
    novel: float | None
    hm: float | None
    source: str
    backbone: str
    origin: str
    chosen_on_test: bool
    others: tuple["Published", ...] = ()

    def accuracy(self, part: str) -> float | None:
        """The number for the column `part` of a table."""
        own = {f"{row.shots}-shot": row.base_or_accuracy for row in (*self.others, self)}
        own |= dict.fromkeys(("Base", ""), self.base_or_accuracy)
        return (own | {"Novel": self.novel, "H": self.hm}).get(part)

    @property
    def label(self) -> str:
        """Its source, its variant if it is one, and whether the number was selected on its own test
        images."""
        said = f"{self.source} ({self.variant})" if self.variant else self.source
        mark = ": published number chosen on test labels ‡"
        return f"{said}{mark if self.chosen_on_test else ''}"


@cache
def published() -> tuple[Published, ...]:
    """Every row that ships, in the order of the file."""
    return _read(Path(__file__).with_name("published.csv"), ships=True)


def read_published(file: str | Path) -> tuple[Published, ...]:
    """The rows of a CSV file, in its order. Columns: protocol (base_to_novel, cross_dataset,
    domain_generalisation, few_shot_16, ...), method (by registry name or as papers write it),
    dataset (registry name, or Average), base_or_accuracy, novel, hm, and optionally source
    (default: the file's name), backbone (default: ViT-B/16) and chosen_on_test (yes if the number
    was selected on its own test images).

    Raises NerpError, naming the file and the line, for a file of another form or an unknown
    protocol.
    """
    return _read(file)


def _read(file: str | Path, ships: bool = False) -> tuple[Published, ...]:
    lines = csv.DictReader(read_text(file, _LARGEST).splitlines(), strict=True)
    try:
        if lacking := [name for name in _COLUMNS if name not in (lines.fieldnames or ())]:
            raise NerpError(f"{file}: it lacks the column {lacking[0]}; it takes "
                            f"{','.join(_COLUMNS)} and may have {','.join(_MAY_HAVE)}")
        return tuple(_row(row, f"{file}, line {lines.line_num}", Path(file).name, ships)
                     for row in lines)
    except csv.Error as error:
        raise NerpError(f"{file}, line {lines.line_num}: {error}") from None


def _row(row: dict[str, str | None], where: str, file: str, ships: bool) -> Published:
    texts = {name: (text or "").strip() for name, text in row.items()
             if isinstance(name, str) and not isinstance(text, list)}
    if len(texts) < len(row) or not all(map(is_printable, texts.values())):
        raise NerpError(f"{where}: more cells than columns, or control characters")
    if texts.get("chosen_on_test", "") not in ("", "yes"):
        raise NerpError(f"{where}: chosen_on_test is {brief(texts['chosen_on_test'])}; it takes "
                        "yes, or nothing")
    if missing := [name for name in _COLUMNS[:3] if not texts[name]]:
        raise NerpError(f"{where}: {missing[0]} is empty")
    base, novel, hm = (_percent(texts[name], f"{where}: {name}") for name in _NUMBERS)
    if base is None and hm is None:
        raise NerpError(f"{where}: it has no number")
    if not ships and texts["protocol"] not in _PROTOCOLS:
        raise NerpError(f"{where}: {unknown('protocol', texts['protocol'], _PROTOCOLS)}")
    name, shots = _PROTOCOLS.get(texts["protocol"], (texts["protocol"], _SHOTS))
    method, _, variant = texts["method"].removesuffix(")").partition(" (")
    source = texts.get("source") or file
    origin = OWN_FILE if not ships else OWN_PAPER if _is_of(source, method) else OTHER_PAPER
    return Published(name, shots, method, variant, texts["dataset"], base, novel, hm, source,
                     texts.get("backbone") or DEFAULT_BACKBONE, origin,
                     texts.get("chosen_on_test") == "yes")


def _is_of(source: str, method: str) -> bool:
    """Whether a source, which begins with the method, is the method's own paper or repository."""
    paper = source.split(" ")[0]
    return _NAMES.get(paper) == method or any(
        part == paper or part.startswith(f"{paper}-") for part in (method, *method.split("+")))


def _percent(text: str, where: str) -> float | None:
    try:
        number = float(text) if text else None
    except ValueError:
        number = math.nan
    if number is not None and not 0 <= number <= 100:
        raise NerpError(f"{where} is {brief(text)}; it takes a number from 0 to 100, or nothing")
    return number


def rows_of(
    protocol: str, trainer: str, shots: int = _SHOTS, backbone: str = DEFAULT_BACKBONE,
    rows: Iterable[Published] | None = None,
) -> dict[str, dict[str, Published]]:
    """Label -> dataset -> the row of a trainer; rows of its own paper come first. shots: 0 for any
    number. A row on another backbone than `backbone` is treated as a variant."""
    names = _names(trainer)
    chosen = [row for row in (published() if rows is None else rows)
              if row.protocol == protocol and row.method in names and shots in (0, row.shots)]
    found: dict[str, dict[str, Published]] = {}
    for row in sorted(chosen, key=lambda row: (row.backbone != backbone, row.origin != OWN_PAPER)):
        if row.backbone != backbone:
            said = row.backbone.rpartition("/")[2] if ":" in row.backbone else row.backbone
            row = replace(row, variant="; ".join(filter(None, (said, row.variant))))
        lines = found.setdefault(row.label, {})
        before = lines.get(row.dataset)
        lines[row.dataset] = replace(row, others=(*before.others, before)) if before else row
    return found


def with_papers(sources: Iterable[str]) -> list[str]:
    """Sources without repetitions, each paper with its arXiv number and year."""
    by_paper: dict[str, list[str]] = {}
    for source in dict.fromkeys(sources):
        paper = source.split(" ")[0]
        by_paper.setdefault(paper if paper in _PAPERS else source, []).append(source)
    return [", ".join(of_paper) + (f" ({_PAPERS[paper]})" if paper in _PAPERS else "")
            for paper, of_paper in by_paper.items()]


def _names(trainer: str) -> set[str]:
    """The names of a trainer in files of published numbers. SAR's tables write CoOp+SAR."""
    written = method_name(trainer)
    return {trainer, written, _NAMES.get(trainer, written.replace(" + ", "+"))}


def domain_shifts() -> list[str]:
    """The variants of the source that domain generalisation tests on."""
    return [name for name in datasets("domain_generalisation") if name != "ImageNet"]


def in_published_order(names: Iterable[str]) -> list[str]:
    """Dataset names in the papers' order, followed by others in alphabetical order."""
    order = {name: i for i, name in enumerate(datasets("cross_dataset") + domain_shifts())}
    return sorted(set(names), key=lambda name: (order.get(name, len(order)), name))


@cache
def datasets(protocol: str) -> list[str]:
    """The datasets of a protocol's published averages, and the source, in their order."""
    names = dict.fromkeys(row.dataset for row in published() if row.protocol == protocol)
    return [name for name in names if name not in AVERAGES]


def average_over(names: Iterable[str], protocol: str) -> str:
    """The published name of the average over exactly these datasets, and the source if the protocol
    has one; "" if none is published."""
    medical = set(_MEDICAL) - ({"BUSI"} if protocol == "base_to_novel" else set())
    published_sets = {AVERAGE: set(datasets(protocol)), MEDICAL_AVERAGE: medical,
                      _SHIFTS_AVERAGE: set(_SHIFTS)}
    return next((name for name, over in published_sets.items() if over == set(names)), "")
