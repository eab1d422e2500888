"""What is published of the benchmarks besides their files: class names and digests of draws.

`datasets/published.json` has them by registry name: class names as published logs print them, and
for few-shot draws (training and validation list separately) the first 16 hex digits of the sha256
of the lines "<path below the image folder><tab><label>", in order.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import TypedDict, cast

from yacs.config import CfgNode

from nerp.base.paths import shipped
from nerp.data.benchmark import Benchmark, Item
from nerp.data.selection import few_shot
from nerp.files.json_file import read_json

FILE = "published.json"


def differences(card: CfgNode, bench: Benchmark) -> tuple[list[str], list[str]]:
    """Lines about class names and lists that differ from the published ones. There are none for a
    dataset without published ones, or with another number of classes."""
    known = published().get(card.NAME)
    if not known or len(known["classnames"]) != len(bench.classnames):
        return [], []
    pairs = zip(bench.classnames, known["classnames"], strict=True)
    names = [f"class {label} is {ours!r}, published {theirs!r}"
             for label, (ours, theirs) in enumerate(pairs) if ours != theirs]
    lists = [draw for draw, digests in known.get("draws", {}).items()
             if (text := re.fullmatch(r"shot_(\d+)-seed_(\d+)", draw))
             and digests != _digests(few_shot(bench, int(text[1]), int(text[2])))]
    if lists:
        lists = [f"{len(lists)} of {len(known['draws'])} few-shot draws are not the published "
                 "ones, so the lists are others, or in another order"]
    return names, lists


class _Draws(TypedDict, total=False):
    draws: dict[str, list[str]]  # shot_1-seed_1 -> the digests of its training and validation list


class Published(_Draws):
    """What is published of one benchmark."""

    classnames: list[str]


def published() -> dict[str, Published]:
    """The content of the file."""
    return cast(dict[str, Published], read_json(shipped("datasets") / FILE))  # which ships


def _digests(draw: Benchmark) -> list[str]:
    return [_digest(draw.train), _digest(draw.val)]


def _digest(items: Iterable[Item]) -> str:
    lines = "".join(f"{item.path}\t{item.label}\n" for item in items)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]
