"""Published numbers, as the papers named in `source` print them (published.csv).

Base-to-novel rows have base, novel and H, or H alone; the others one accuracy. Rows called Average
are the papers' own. Brackets after a method say what of it a paper varied.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from nerp.settings.protocols import method_name

AVERAGE = "Average"
MEDICAL_AVERAGE = "Average (biomedical)"
# What that is over; in base-to-novel all but BUSI, whose three classes are too few.
_MEDICAL = ("BTMRI", "BUSI", "CHMNIST", "COVID_19", "CTKidney", "DermaMNIST", "KneeXray", "Kvasir",
            "LungColon", "OCTMNIST", "RETINA")
# The papers that the file's sources begin with.
_PAPERS = {"ANPrompt": "arXiv 2508.04677, 2025", "SAR": "arXiv 2502.11969, 2025",
           "BiomedCoOp": "arXiv 2411.15232, 2025",
           "CasPL": "arXiv 2409.17805, 2024", "Tip-Adapter": "arXiv 2207.09519, 2022",
           "TFUP": "arXiv 2404.16339, 2024", "DePT": "arXiv 2309.07439, 2024",
           "PLOT++": "arXiv 2210.01253, 2023"}
_SHOTS = 16  # what all of them were trained with, but those that `_PROTOCOLS` says
# A protocol of the file -> its name and shots.
_PROTOCOLS = {**{f"base_to_novel_{shots}_shot": ("base_to_novel", shots) for shots in (4, 8)},
              **{f"few_shot_{shots}": ("few_shot", shots) for shots in (1, 2, 4, 8, 16)}}
# What a trainer is called in the papers, where that differs; CoOp_SAR is CoOp+SAR there.
_NAMES = {"ZeroshotCLIP": "CLIP", "CasPL": "CLIP+boosting prompts", "TipAdapter": "Tip-Adapter",
          "TipAdapterF": "Tip-Adapter-F", "TFUP_T": "TFUP-T",
          **{f"CasPL_{name}": f"{name}+CasPL" for name in ("CoOp", "CoCoOp", "MaPLe", "PromptSRC")}}
# What sources and variants say of a number that was chosen on the images it is of.
_CHOSEN_ON_TEST = ("on test",)


@dataclass(frozen=True)
class Published:
    """One row: accuracies in percent, None where the paper does not say. variant: what of the
    method was varied, in the paper's words, or "". others: its rows with other shots."""

    protocol: str
    shots: int
    method: str
    variant: str
    dataset: str
    base_or_accuracy: float | None
    novel: float | None
    hm: float | None
    source: str
    others: tuple["Published", ...] = ()

    def accuracy(self, part: str) -> float | None:
        """The number that stands in a table's column `part`."""
        own = {f"{row.shots}-shot": row.base_or_accuracy for row in (*self.others, self)}
        own |= dict.fromkeys(("Base", ""), self.base_or_accuracy)
        return (own | {"Novel": self.novel, "H": self.hm}).get(part)

    @property
    def label(self) -> str:
        """Its source, the variant where it is one, and whether the number was chosen on the images
        that it is of."""
        said = f"{self.source} ({self.variant})" if self.variant else self.source
        chosen = any(words in said for words in _CHOSEN_ON_TEST)
        return f"{said}: published number chosen on test labels ‡" if chosen else said


@cache
def published() -> tuple[Published, ...]:
    """Every row, in the order of the file."""
    with open(Path(__file__).with_name("published.csv"), newline="", encoding="utf-8") as file:
        return tuple(map(_row, csv.DictReader(file)))


def _row(row: dict[str, str]) -> Published:
    name, shots = _PROTOCOLS.get(row["protocol"], (row["protocol"], _SHOTS))
    method, _, variant = row["method"].removesuffix(")").partition(" (")
    base, novel, hm = (float(row[key]) if row[key] else None
                       for key in ("base_or_accuracy", "novel", "hm"))
    return Published(name, shots, method, variant, row["dataset"], base, novel, hm, row["source"])


def rows_of(protocol: str, trainer: str, shots: int = _SHOTS) -> dict[str, dict[str, Published]]:
    """Label -> dataset -> the row of a trainer; of any number of shots where `shots` is 0."""
    found: dict[str, dict[str, Published]] = {}
    for row in published():
        if row.protocol == protocol and row.method == _name(trainer) and shots in (0, row.shots):
            lines = found.setdefault(row.label, {})
            before = lines.get(row.dataset)
            lines[row.dataset] = replace(row, others=(*before.others, before)) if before else row
    return found


def with_papers(shown: Iterable[Published]) -> list[str]:
    """The sources of rows, each paper's arXiv number and year behind its own."""
    sources = {row.source for row in shown}
    by_paper: dict[str, list[str]] = {}
    for source in dict.fromkeys(row.source for row in published() if row.source in sources):
        by_paper.setdefault(source.split(" ")[0], []).append(source)
    return [f"{', '.join(of_paper)} ({_PAPERS[paper]})" for paper, of_paper in by_paper.items()]


def _name(trainer: str) -> str:
    method = method_name(trainer)
    return _NAMES.get(method, method) + trainer.removeprefix(method).replace("_", "+")


def domain_shifts() -> list[str]:
    """The variants of a source that domain generalisation tests on."""
    return [name for name in datasets("domain_generalisation") if name != "ImageNet"]


def in_published_order(names: Iterable[str]) -> list[str]:
    """Dataset names as the papers order them, others after them by name."""
    order = {name: i for i, name in enumerate(datasets("cross_dataset") + domain_shifts())}
    return sorted(set(names), key=lambda name: (order.get(name, len(order)), name))


def datasets(protocol: str) -> list[str]:
    """Those that published averages of a protocol are over, and the source; in their order."""
    names = dict.fromkeys(row.dataset for row in published() if row.protocol == protocol)
    return [name for name in names if name not in (AVERAGE, MEDICAL_AVERAGE)]


def average_over(names: Iterable[str], protocol: str) -> str:
    """What published rows call the average over exactly these datasets, and the source where a
    protocol has one; "" where none is published."""
    medical = set(_MEDICAL) - ({"BUSI"} if protocol == "base_to_novel" else set())
    published_sets = {AVERAGE: set(datasets(protocol)), MEDICAL_AVERAGE: medical}
    return next((name for name, over in published_sets.items() if over == set(names)), "")
