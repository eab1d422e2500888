"""The datasets: which there are, getting them, checking them, their reference images.

  nerp data list             the datasets that have a card, and which of them are there
  nerp data prepare NAME     download and unpack it, and say what has to be done by hand
  nerp data check [NAME ...] compare the disk with the card and decode every image
  nerp data reference NAME   compute the reference image, once, and say where it is

A NAME is a card in datasets/, such as eurosat, or the file of a card of your own.
"""

from pathlib import Path


def add_arguments(parser):
    parser.add_argument("action", choices=list(_ACTIONS), metavar="ACTION",
                        help=", ".join(_ACTIONS))
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help="one or more; check: by default all that are there")
    parser.add_argument("--root", default="data", metavar="DIR",
                        help="the folder that holds the datasets' folders (default: data)")
    parser.add_argument("--dry-run", action="store_true",
                        help="prepare: say what would be done, and do nothing")


def main(args):
    from nerp.config import find_card, find_card_file, open_card, shipped_cards
    from nerp.errors import NerpError

    if not args.names and args.action in ("prepare", "reference"):
        raise NerpError(f"nerp data {args.action}: of which dataset? There are: "
                        f"{', '.join(shipped_cards())}")
    cards = {}
    for name in args.names or shipped_cards():
        is_file = name.endswith((".yaml", ".yml"))
        cards[name] = open_card(find_card_file(name) if is_file else find_card(name), args.root)
    return _ACTIONS[args.action](args, cards)


def _list(args, cards):
    from tabulate import tabulate

    rows = []
    for name, cfg in cards.items():
        sizes = [size or "-" for size in cfg.DATASET.SPLIT_SIZES]
        rows.append([name, cfg.DATASET.NAME, cfg.DATASET.NUM_CLASSES, *sizes, _state(cfg)])
    headers = ["name", "dataset", "classes", "train", "val", "test", f"in {args.root}"]
    print(tabulate(rows, headers=headers, colalign=("left", "left", *["right"] * 4, "left")))


def _state(cfg):
    """found, missing, which part is missing, or that it is drawn."""
    from nerp.data.benchmark import dataset_folder
    from nerp.demo.world import WORLDS

    card, directory = cfg.DATASET, dataset_folder(cfg)
    if not directory.is_dir():
        return "drawn on first use" if card.DIRECTORY in WORLDS else "missing"
    parts = (card.IMAGE_FOLDER, card.SPLIT_FILE.format("train"))
    lacking = [part for part in parts if not (directory / part).exists()]
    return f"no {lacking[0]}" if lacking else "found"


def _check(args, cards):
    from nerp.data.benchmark import dataset_folder
    from nerp.data.check import check
    from nerp.errors import NerpError
    from nerp.log import say_on_terminal

    chosen = [cfg for cfg in cards.values() if args.names or dataset_folder(cfg).is_dir()]
    if not chosen:
        raise NerpError(f"{args.root} holds none of the datasets; nerp data list shows them")
    say_on_terminal()
    reports = []
    for cfg in chosen:
        reports.append(check(cfg))
        print("\n".join(reports[-1].lines()))
    return int(any(report.problems for report in reports))


def _prepare(args, cards):
    from nerp.data.benchmark import dataset_folder
    from nerp.data.prepare import plan, prepare
    from nerp.log import say_on_terminal

    say_on_terminal()
    complete = True
    for name, cfg in cards.items():
        print(f"{cfg.DATASET.NAME} in {dataset_folder(cfg)}, licence: {cfg.DATASET.LICENCE}")
        if args.dry_run:
            for line in plan(cfg):
                print(line)
        elif prepare(cfg):
            print(f"Complete. nerp data check {name} --root {args.root} looks at every image.")
        else:
            complete = False
    return int(not complete)


def _reference(args, cards):
    from nerp.config import find_card, open_card
    from nerp.data.benchmark import open_benchmark
    from nerp.data.reference import SIZE, cached_mean_image

    for cfg in cards.values():
        name = cfg.DATASET.REFERENCE or cfg.DATASET.NAME
        if name != cfg.DATASET.NAME:
            cfg = open_card(find_card(name), args.root)
        bench = open_benchmark(cfg)
        _, file = cached_mean_image(
            bench.train, bench.image_dir, name, [bench.directory, Path("output")]
        )
        print(file)
        print(f"{SIZE}x{SIZE} pixels, the mean of the {len(bench.train)} training images of "
              f"{name}, each of them squeezed to that size first")


_ACTIONS = {"list": _list, "prepare": _prepare, "check": _check, "reference": _reference}
