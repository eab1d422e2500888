"""What commands share: arguments, the request that those of a run make, printing for people."""

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nerp.base.errors import NerpError
from nerp.base.printable import fitted
from nerp.files.opening import read_text
from nerp.settings.defaults import KEYS
from nerp.settings.keys import Key, whole
from nerp.settings.options import begins_pair, options_of
from nerp.settings.resolve import Request
from nerp.settings.tree import check_options

if TYPE_CHECKING:
    from nerp.engine.model import Model

SEED = whole(1, 0, 2**63 - 1)
_PARTS = ("base", "new", "novel", "all")


def argument(key: Key) -> Callable[[str], object]:
    """The `type` of an argument with the values of `key`."""

    def convert(text: str) -> object:
        try:
            return key.read(text, "the value")
        except NerpError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def name(text: str) -> str:
    """The `type` of a list of names, which KEY VALUE pairs may follow."""
    if begins_pair(text):
        raise argparse.ArgumentTypeError(f"{text!r} is a configuration key, and no name")
    return text


def add_run_arguments(parser: argparse.ArgumentParser, trainer_required: bool = True) -> None:
    """--trainer, --dataset, --root ... and KEY VALUE pairs."""
    parser.add_argument("--trainer", required=trainer_required, default="", metavar="NAME",
                        help="see `nerp methods`")
    parser.add_argument("--dataset", default="", metavar="NAME",
                        help="a card in datasets/, such as eurosat, or the file of your own, such "
                             "as mine.yaml")
    parser.add_argument("--dataset-config-file", default="", metavar="FILE",
                        help="the file of a dataset card, as CoOp's command lines have it")
    parser.add_argument("--config-file", default="", metavar="FILE",
                        help="method configuration; default: the one that configs/experiments.yaml "
                             "has for method, protocol, dataset and shots")
    _add_root_argument(parser, default="")
    parser.add_argument("--seed", type=argument(KEYS["SEED"]), default=None, metavar="N",
                        help="default: 1; -1: drawn, and recorded")
    parser.add_argument("--output-dir", default="", metavar="DIR",
                        help="default: the run's place below output/")
    parser.add_argument("--classes", type=_part, default=None, metavar="PART",
                        help="base, new (or novel) or all: DATASET.SUBSAMPLE_CLASSES")
    _add_short_arguments(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE",
                        help="configuration values, such as DATASET.NUM_SHOTS 16, or "
                             "DATASET.NUM_SHOTS=16")


def _add_root_argument(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--root", default=default, metavar="DIR",
                        help="the folder that holds the datasets' folders (default: data)")


def _add_short_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that are short for a configuration key (see `_short_options`)."""
    parser.add_argument("--shots", type=argument(KEYS["DATASET.NUM_SHOTS"]), default=None,
                        metavar="K", help="training images per class: DATASET.NUM_SHOTS")
    parser.add_argument("--task", type=argument(KEYS["TASK"]), default=None, metavar="NAME",
                        help="the protocol, by any of its names: TASK")
    parser.add_argument("--backbone", default=None, metavar="NAME",
                        help="see `nerp backbones`: MODEL.BACKBONE.NAME")


def _part(text: str) -> object:
    """The classes that are meant: papers and tables say novel where the key says new."""
    return argument(KEYS["DATASET.SUBSAMPLE_CLASSES"])("new" if text == "novel" else text)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--model-dir and --load-epoch."""
    parser.add_argument("--model-dir", default="", metavar="DIR",
                        help="the --output-dir of the training run")
    _add_epoch_argument(parser)
    parser.add_argument("--no-cache", action="store_true",
                        help="encode the images even if an earlier test of this checkpoint did")


def add_trained_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, --classes, --trainer, --dataset, --root, --shots, --task, --backbone and --load-epoch
    of a command on a trained model by itself, which `open_trained` opens."""
    parser.add_argument("model", metavar="MODEL",
                        help="a run's folder, a checkpoint's folder or a checkpoint file")
    parser.add_argument("--classes", default="", metavar="A,B,C",
                        help="names to tell apart, or a text file with a name per line; with "
                             "--dataset also base, new (or novel) or all of its classes (default: "
                             "those that the model was trained on)")
    parser.add_argument("--trainer", default="", metavar="NAME",
                        help="the method's name with _NeRP corrects the predictions")
    parser.add_argument("--dataset", default="", metavar="NAME",
                        help="the card whose prompts a published checkpoint was trained with, and "
                             "whose images a correction or calibration looks at")
    _add_root_argument(parser, default="data")
    _add_short_arguments(parser)
    _add_epoch_argument(parser)


def _add_epoch_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--load-epoch", type=argument(whole(1, 0)), default=None, metavar="N",
                        help="default: model-best.pth.tar (TEST.FINAL_MODEL best_val) where "
                             "there is one, else the newest checkpoint")


def open_trained(args: argparse.Namespace, opts: Sequence[str], precision: str = "") -> "Model":
    """The model that `add_trained_arguments` and KEY VALUE pairs ask for; precision: as in
    `nerp.load`."""
    given = options_of([*_short_options(args), *opts])
    check_options(given)
    from nerp.engine.model import load

    return load(args.model, _names(args.classes, args.dataset, args.root), trainer=args.trainer,
                dataset=args.dataset, root=args.root, epoch=args.load_epoch, options=given,
                precision=precision)


def _names(text: str, dataset: str, root: str) -> tuple[str, ...]:
    """--classes: a part of a dataset's classes, or the lines of a text file, or names separated by
    commas."""
    if not text:
        return ()
    if text in _PARTS and not Path(text).is_file():
        return _names_of(dataset, root, text)
    lines = read_text(text).splitlines() if Path(text).is_file() else text.split(",")
    return tuple(name for line in lines if (name := line.strip()))


def _names_of(dataset: str, root: str, part: str) -> tuple[str, ...]:
    """The names of a dataset's base, new or all classes. Raises NerpError if it is missing."""
    from nerp.data.benchmark import distinct, open_benchmark
    from nerp.data.selection import class_half
    from nerp.settings.cards import find_card, open_card

    if not dataset:
        raise NerpError(f"--classes {part}: of which dataset? --dataset NAME, or names with commas "
                        "between them")
    names = distinct(open_benchmark(open_card(find_card(dataset), root)).classnames)
    return tuple(names[i] for i in class_half(len(names), str(_part(part))))


def add_old_name(parser: argparse.ArgumentParser, old: str, dest: str) -> None:
    """An option's former name, which help leaves out."""
    parser.add_argument(old, dest=dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def add_overwrite_argument(parser: argparse.ArgumentParser) -> None:
    """--overwrite."""
    parser.add_argument("--overwrite", action="store_true",
                        help="replace what the output folder holds of another run")


def add_drawn_arguments(parser: argparse.ArgumentParser, seeds: list[int], output: str) -> None:
    """--seeds, --root and --output-dir of a command that runs on the drawn world."""
    parser.add_argument("--seeds", type=argument(SEED), nargs="+", default=seeds, metavar="SEED",
                        help=f"default: {' '.join(map(str, seeds))}; one seed makes it quick")
    parser.add_argument("--root", default="data", metavar="DIR",
                        help="where the benchmarks are drawn on first use (default: data)")
    parser.add_argument("--output-dir", default=output, metavar="DIR",
                        help=f"for the runs (default: {output})")


def terminal_width() -> int:
    """The columns that a table may use; 100 if the output is not a terminal."""
    return shutil.get_terminal_size((100, 0)).columns


def tell(text: str) -> None:
    """Print a text for the user at once."""
    print(fitted(text, sys.stdout), flush=True)


def draw(rows: list[list[str]], headers: list[str], least: int, **options: object) -> str:
    """A table by tabulate. If it is too wide for the terminal, its last column is wrapped, to at
    least `least` columns."""
    from tabulate import tabulate

    def drawn(most: int | None = None) -> str:
        widths = [*[None] * (len(headers) - 1), most]
        return str(
            tabulate(rows, headers, disable_numparse=True, maxcolwidths=widths, **options)
        )

    text = drawn()
    excess = max(map(len, text.splitlines())) - terminal_width()
    if excess <= 0:
        return text
    return drawn(max(least, max(len(row[-1]) for row in rows) - excess))


def request(args: argparse.Namespace) -> Request:
    """The request that the parsed arguments make. Unknown keys raise NerpError at once, before a
    command imports what its work needs."""
    part = ["DATASET.SUBSAMPLE_CLASSES", args.classes] if args.classes else []
    opts = [*part, *_short_options(args), *args.opts]
    check_options(options_of(opts))
    model = {} if "model_dir" not in args else {
        "model_dir": args.model_dir, "load_epoch": args.load_epoch, "use_cache": not args.no_cache,
    }
    return Request(
        **model,
        trainer=args.trainer,
        dataset=args.dataset,
        dataset_config_file=args.dataset_config_file,
        config_file=args.config_file,
        root=args.root,
        seed=args.seed,
        output_dir=args.output_dir,
        opts=opts,
    )


def _short_options(args: argparse.Namespace) -> list[str]:
    """The options that are short for a configuration key, as KEY VALUE pairs."""
    given = {"DATASET.NUM_SHOTS": args.shots, "TASK": args.task,
             "MODEL.BACKBONE.NAME": args.backbone}
    return [str(word) for pair in given.items() if pair[1] is not None for word in pair]
