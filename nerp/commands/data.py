"""The datasets: list them, download them, check them, compute their reference images.

  nerp data list             the datasets that have a card, and which of them are there
  nerp data prepare NAME     download and unpack it, and say what has to be done by hand
  nerp data prepare hf:OWNER/NAME
                             the same for a dataset of the Hugging Face hub, with a card for it
  nerp data check [NAME ...]
                             compare the disk with the card and decode every image
  nerp data reference NAME   compute the reference image, once, and say where it is

A NAME is a card in datasets/, such as eurosat, or the file of a card of your own. For a folder DIR
of your own images:

  nerp data new DIR          look at it and write a card, DIR.yaml; split it if it is not split
  nerp data split DIR        write only the split: which images are for training and for testing
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nerp.commands.common import SEED as _SEED
from nerp.commands.common import argument, tell
from nerp.settings.keys import number

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from nerp.data.split_file import Made

Cards = dict[str, "CfgNode"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=[*_ACTIONS, *_OWN], metavar="ACTION",
                        help=", ".join([*_ACTIONS, *_OWN]))
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help="one or more; check: by default all that are there")
    parser.add_argument("--root", default="data", metavar="DIR",
                        help="the folder that holds the datasets' folders (default: data)")
    parser.add_argument("--dry-run", action="store_true",
                        help="prepare: say what would be done, and do nothing")
    parser.add_argument("--fractions", type=argument(number(0.5, 0, 1)), nargs=3,
                        default=(), metavar=("TRAIN", "VAL", "TEST"),
                        help="new, split: of each class's images (default: 0.5 0.2 0.3)")
    parser.add_argument("--seed", type=argument(_SEED), default=None, metavar="N",
                        help="new, split: of the draw (default: 1)")
    parser.add_argument("--overwrite", action="store_true",
                        help="new, split: replace a card or split that differs")


def main(args: argparse.Namespace) -> int:
    from nerp.base.errors import NerpError
    from nerp.data.hub import PREFIX
    from nerp.settings.cards import find_card, open_card, shipped_cards

    if not args.names and args.action in ("prepare", "reference", *_OWN):
        what = "folder" if args.action in _OWN else "dataset"
        there = "" if args.action in _OWN else f" There are: {', '.join(shipped_cards())}"
        raise NerpError(f"nerp data {args.action}: of which {what}?{there}")
    if args.action in _OWN:
        for name in args.names:
            _OWN[args.action](args, _folder(name))
        return 0
    cards = {}
    for name in args.names or shipped_cards():
        if args.action == "prepare" and name.startswith(PREFIX):
            _fetch(args, name.removeprefix(PREFIX))
        else:
            cards[name] = open_card(find_card(name), args.root)
    action: Callable[[argparse.Namespace, Cards], int | None] = _ACTIONS[args.action]
    return action(args, cards) or 0


def _folder(name: str) -> Path:
    path = Path(name).expanduser()
    return path if path.name not in ("", "..") else path.resolve()


def _new(args: argparse.Namespace, directory: Path) -> None:
    from nerp.base.log import say_on_terminal
    from nerp.data.own import make

    say_on_terminal()
    keys, made = make(directory, args.fractions, args.seed, args.overwrite)
    _write_card(args, directory, keys, "", made)


def _split(args: argparse.Namespace, directory: Path) -> None:
    import shlex

    from nerp.base.errors import NerpError
    from nerp.data.own import look, make
    from nerp.data.split_file import SPLIT_FILE

    if look(directory)[1]:
        raise NerpError(f"{directory}: its images have splits already; nerp data new "
                        f"{shlex.quote(str(directory))}")
    _, made = make(directory, args.fractions, args.seed, args.overwrite)
    assert made is not None  # the images had no splits
    fractions = " ".join(f"{fraction:g}" for fraction in made.fractions)
    again = " --overwrite" if _card_file(directory).exists() else ""
    tell(f"{directory / SPLIT_FILE}: each class's images split {fractions} into train, val and "
         f"test, seed {made.seed}\nNext: nerp data new {shlex.quote(str(directory))}{again}")


def _fetch(args: argparse.Namespace, name: str) -> None:
    from nerp.base.log import say_on_terminal
    from nerp.data.hub import fetch
    from nerp.data.own import FRACTIONS, SEED, look

    if args.dry_run:
        print(f"{name}: load it with the package datasets, write its images below {args.root}")
        return
    say_on_terminal()
    directory, licence = fetch(name, Path(args.root), args.fractions or FRACTIONS,
                               SEED if args.seed is None else args.seed)
    _write_card(args, directory, look(directory)[0], licence, None)


def _card_file(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.yaml")


def _write_card(
    args: argparse.Namespace, directory: Path, keys: Mapping[str, object], licence: str,
    made: "Made | None",
) -> None:
    from nerp.data.benchmark import open_benchmark
    from nerp.data.card_file import describe, write_card
    from nerp.settings.cards import card_config

    card = _card_file(directory)
    keys = {"NAME": directory.name, "DIRECTORY": directory.name, **keys}
    cfg = card_config(keys, str(directory.parent), str(directory))
    bench = open_benchmark(cfg)
    write_card(card, keys, bench, licence, args.overwrite)
    print("\n".join(describe(bench, card, cfg.DATASET, made)))


def _list(args: argparse.Namespace, cards: Cards) -> None:
    from tabulate import tabulate

    from nerp.settings.catalogue import by_benchmark

    rows = []
    for heading, names in by_benchmark(cards).items():
        rows.append([f"{heading}:"])
        for name in names:
            card = cards[name].DATASET
            sizes = [size or "-" for size in card.SPLIT_SIZES]
            rows.append([name, card.NAME, card.NUM_CLASSES, *sizes, _state(cards[name])])
    headers = ["name", "dataset", "classes", "train", "val", "test", "there"]
    print(tabulate(rows, headers=headers, colalign=("left", "left", *["right"] * 4, "left")))
    tell(f"\nthere: in {args.root}; drawn: will be, on first use")


def _state(cfg: "CfgNode") -> str:
    """found, missing, which part is missing, or that it will be drawn."""
    from nerp.data.benchmark import dataset_folder
    from nerp.demo.world import WORLDS

    card, directory = cfg.DATASET, dataset_folder(cfg)
    if not directory.is_dir():
        return "drawn" if card.DIRECTORY in WORLDS else "missing"
    parts = (card.IMAGE_FOLDER, card.SPLIT_FILE.format("train"))
    lacking = [part for part in parts if not (directory / part).exists()]
    return f"no {lacking[0]}" if lacking else "found"


def _check(args: argparse.Namespace, cards: Cards) -> int:
    from nerp.base.errors import NerpError
    from nerp.base.log import say_on_terminal
    from nerp.data.benchmark import dataset_folder
    from nerp.data.check import check

    chosen = [cfg for cfg in cards.values() if args.names or dataset_folder(cfg).is_dir()]
    if not chosen:
        raise NerpError(f"{args.root} holds none of the datasets; nerp data list shows them")
    say_on_terminal()
    reports = []
    for cfg in chosen:
        reports.append(check(cfg))
        tell("\n".join(reports[-1].lines()))
    return int(any(report.problems for report in reports))


def _prepare(args: argparse.Namespace, cards: Cards) -> int:
    from nerp.base.log import say_on_terminal
    from nerp.data.benchmark import dataset_folder
    from nerp.data.prepare import plan, prepare

    say_on_terminal()
    complete = True
    for name, cfg in cards.items():
        tell(f"{cfg.DATASET.NAME} in {dataset_folder(cfg)}, licence: {cfg.DATASET.LICENCE}")
        if args.dry_run:
            for line in plan(cfg):
                tell(line)
        elif prepare(cfg):
            tell(f"Complete. nerp data check {name} --root {args.root} looks at every image.")
        else:
            complete = False
    return int(not complete)


def _reference(args: argparse.Namespace, cards: Cards) -> None:
    from nerp.data.benchmark import open_benchmark
    from nerp.data.reference import SIZE, cached_mean_image
    from nerp.settings.cards import find_card, open_card

    for cfg in cards.values():
        name = cfg.DATASET.REFERENCE or cfg.DATASET.NAME
        if name != cfg.DATASET.NAME:
            cfg = open_card(find_card(name), args.root)
        bench = open_benchmark(cfg)
        _, file = cached_mean_image(
            bench.train, bench.image_dir, name, [bench.directory, Path("output")]
        )
        print(file)
        tell(f"{SIZE}x{SIZE} pixels, the mean of the {len(bench.train)} training images of "
             f"{name}, each of them squeezed to that size first")


_ACTIONS = {"list": _list, "prepare": _prepare, "check": _check, "reference": _reference}
_OWN = {"new": _new, "split": _split}
