"""Published numbers, as the papers named in `source` print them (published.csv).

Base-to-novel rows have base, novel and H; the others one accuracy. Rows called Average are the
papers' own.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nerp.protocols import SAR_SUFFIX

AVERAGE = "Average"
PUBLISHED_SHOTS = 16  # what all of them were trained with
# What a trainer is called in the papers, where that differs; SAR's tables write CoOp+SAR.
_NAMES = {"ZeroshotCLIP": "CLIP"}


@dataclass(frozen=True)
class Published:
    """One row: accuracies in percent; `novel` and `hm` are None but in base_to_novel."""

    protocol: str
    method: str
    dataset: str
    base_or_accuracy: float
    novel: float | None
    hm: float | None
    source: str

    def accuracy(self, part: str) -> float | None:
        """The number that stands in a table's column `part`."""
        return {"Novel": self.novel, "H": self.hm}.get(part, self.base_or_accuracy)


@cache
def published() -> tuple[Published, ...]:
    """Every row, in the order of the file."""
    with open(Path(__file__).with_name("published.csv"), newline="", encoding="utf-8") as file:
        return tuple(
            Published(**{
                key: float(value) if value and key in ("base_or_accuracy", "novel", "hm")
                else value or None
                for key, value in row.items()
            })
            for row in csv.DictReader(file)
        )


def rows_of(protocol: str, trainer: str) -> dict[str, dict[str, Published]]:
    """Source -> dataset -> the row of a trainer."""
    found: dict[str, dict[str, Published]] = {}
    for row in published():
        if row.protocol == protocol and row.method == _name(trainer):
            found.setdefault(row.source, {})[row.dataset] = row
    return found


def _name(trainer: str) -> str:
    method = trainer.removesuffix(SAR_SUFFIX)
    return _NAMES.get(method, method) + ("+SAR" if method != trainer else "")


def domain_shifts() -> list[str]:
    """The variants of a source that domain generalisation tests on."""
    return [name for name in _datasets("domain_generalisation") if name != "ImageNet"]


def in_published_order(names: Iterable[str]) -> list[str]:
    """Dataset names as the papers order them, others after them by name."""
    order = {name: i for i, name in enumerate(_datasets("cross_dataset") + domain_shifts())}
    return sorted(set(names), key=lambda name: (order.get(name, len(order)), name))


def _datasets(protocol: str) -> list[str]:
    names = dict.fromkeys(row.dataset for row in published() if row.protocol == protocol)
    return [name for name in names if name != AVERAGE]
