"""Classify images with a trained model: a name and a probability per image.

MODEL is a run's folder, a checkpoint's folder or a checkpoint file. Nothing else has to be on
disk: no dataset, no card. The classes are those that the model was trained on, or --classes.
With --trainer NAME_NeRP predictions for novel classes are corrected, and TEST.CALIBRATION
calibrates the probabilities; both look at images of the training dataset.

  nerp predict output/mine photo.jpg pictures/
  nerp predict output/mine - --json < list.txt
  nerp predict output/mine photo.jpg --classes forest,river,lake --top 3
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from nerp.base.errors import NerpError
from nerp.base.printable import complain, csv_cell
from nerp.commands.common import add_trained_arguments, argument, open_trained, tell
from nerp.settings.keys import whole
from nerp.settings.options import begins_pair

if TYPE_CHECKING:
    from torch import Tensor

Ranked = list[tuple[str, float]]  # names and probabilities, the most probable first


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_trained_arguments(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE",
                        help="image files, folders of them, or - for a list on standard input; "
                             "then KEY VALUE pairs, such as MODEL.BACKBONE.PATH FILE")
    parser.add_argument("--top", type=argument(whole(1, 1)), default=1, metavar="K",
                        help="number of names per image (default: 1)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object per image")
    form.add_argument("--csv", action="store_true", help="one row per image and name")


def main(args: argparse.Namespace) -> int:
    from nerp.engine.model import Failure

    words = list(takewhile(lambda word: not begins_pair(word), args.images))
    files = list(_files(words))
    model = open_trained(args, args.images[len(words):])
    if args.csv:
        csv.writer(sys.stdout).writerow(["file", "rank", "class", "probability"])
    show: Callable[[str, Ranked], None] = \
        _show_json if args.json else _show_csv if args.csv else _show
    failed = 0
    for file, found in zip(files, model.logits(files), strict=True):
        if isinstance(found, Failure):
            failed += 1
            complain(found.reason)
        else:
            show(str(file), _ranked(found, model.classes, args.top))
    if failed:
        complain(f"{failed} of {len(files)} files could not be read")
    return int(failed > 0)


def _ranked(logits: "Tensor", classes: tuple[str, ...], top: int) -> Ranked:
    values, places = logits.softmax(0).topk(min(top, len(classes)))
    return [(classes[i], p) for p, i in zip(values.tolist(), places.tolist(), strict=True)]


def _show(file: str, ranked: Ranked) -> None:
    tell(f"{file}: " + ", ".join(f"{name} {100 * p:.1f} %" for name, p in ranked))


def _show_json(file: str, ranked: Ranked) -> None:
    found = [{"class": name, "probability": round(p, 6)} for name, p in ranked]
    print(json.dumps({"file": file, "predictions": found}))


def _show_csv(file: str, ranked: Ranked) -> None:
    rows = ([csv_cell(file), rank, csv_cell(name), f"{p:.6f}"]
            for rank, (name, p) in enumerate(ranked, 1))
    csv.writer(sys.stdout).writerows(rows)


def _files(words: list[str]) -> Iterator[Path]:
    """The image files among the given files and folders. Raises NerpError for a folder without
    any."""
    from nerp.data.decode import is_image

    for word in words:
        if word == "-":
            yield from (Path(line) for line in sys.stdin.read().splitlines() if line.strip())
        elif Path(word).is_dir():
            there = sorted(p for p in Path(word).rglob("*") if p.is_file() and is_image(p))
            if not there:
                raise NerpError(f"{word}: a folder without images")
            yield from there
        else:
            yield Path(word)
