"""The card that is written for a user's own folder, and the lines printed about it."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

import yaml
from yacs.config import CfgNode

from nerp.data.benchmark import SPLITS, Benchmark
from nerp.data.doubts import doubts, some
from nerp.data.left_over import left_over
from nerp.data.split_file import SPLIT_FILE, Made, replace_text
from nerp.files.yaml_file import load_yaml

_MOST = 10  # examples of one kind

_CARD = """\
# Written by nerp data; edit what does not fit. DATASETS.md explains the keys.
DATASET:
{keys}
  SPLIT_SIZES: {sizes}  # train, val, test
  # What the prompts say of the pictures: "a satellite photo of {{}}.", "a photo of a {{}}, a bird."
  TEMPLATE: {TEMPLATE}
  NEUTRAL: {NEUTRAL}  # the same with no class named
  LICENCE: {LICENCE}
"""
_TEXTS = {"TEMPLATE": "a photo of a {}.", "NEUTRAL": "a photo of an object.", "LICENCE": ""}


def write_card(
    file: Path, keys: Mapping[str, object], bench: Benchmark, licence: str, overwrite: bool
) -> None:
    """Write a card with `keys` and the counts of `bench`, which was read by them. If a card is
    overwritten, the prompts and the licence keep the values that the user edited.

    Raises NerpError if another card is there already.
    """
    texts = _TEXTS | {"LICENCE": licence}
    if overwrite and file.exists():
        before = load_yaml(file).get("DATASET")
        texts |= {key: before[key] for key in _TEXTS if key in before} \
            if isinstance(before, Mapping) else {}
    keys = {**keys, "NUM_CLASSES": len(bench.classnames)}
    sizes = [len(getattr(bench, split)) for split in SPLITS]
    lines = [f"  {key}: {_scalar(value)}" for key, value in keys.items()]
    said = {key: json.dumps(text, ensure_ascii=False) for key, text in texts.items()}
    text = _CARD.format(keys="\n".join(lines), sizes=sizes, **said)
    replace_text(file, text, overwrite, "and the counts in it; what was edited stays")


def _scalar(value: object) -> str:
    """A value as YAML on one line."""
    text: str = yaml.safe_dump(value, width=10**6, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def describe(bench: Benchmark, card: Path, node: CfgNode, made: Made | None) -> list[str]:
    """Lines about a dataset: its classes, its images, files that are not read, likely mistakes, and
    the next step.

    Args: node: the card's keys. made: how its split file was drawn, if it was.
    """
    names = bench.classnames
    images = ", ".join(f"{split} {len(getattr(bench, split))}" for split in SPLITS)
    root = shlex.quote(str(card.parent))
    protocol = "base_to_novel" if len(names) > 3 and bench.train else "few_shot"
    methods = "ZeroshotCLIP,CoOp,MMRL,MMRL_NeRP" if bench.train else "ZeroshotCLIP"
    lines = []
    if made and made.fractions:
        shares = " ".join(f"{fraction:g}" for fraction in made.fractions)
        lines.append(f"{bench.directory / SPLIT_FILE}: each class's images split {shares} into "
                     f"train, val and test, seed {made.seed}")
    lines.append(f"{len(names)} classes ({some(names)}); images: {images}")
    for kind, found in left_over(node, bench).items():
        lines.append(f"{kind}: {len(found)}")
        lines += [f"  {text}" for text in found[:_MOST]]
        if len(found) > _MOST:
            lines.append(f"  ... and {len(found) - _MOST} more; nerp data check "
                         f"{shlex.quote(str(card))} --root {root}")
    return [
        *lines,
        *doubts(bench),
        f"\nThe card is {card}; its TEMPLATE is worth an edit. Then:",
        f"  nerp sweep --protocol {protocol} --methods {methods} "
        f"--datasets {shlex.quote(str(card))} --root {root}",
        "  nerp table output",
        "(--options MODEL.BACKBONE.NAME tiny tries whether all of it runs, without a download: "
        "tiny knows the drawn benchmarks alone, and next to nothing of other class names)",
    ]
