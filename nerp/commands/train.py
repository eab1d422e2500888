"""Train a method on a dataset, save its checkpoint, and test it on the same classes."""

import argparse

from nerp.commands.common import add_overwrite_argument, add_run_arguments, request
from nerp.settings.resolve import Request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    add_overwrite_argument(parser)
    parser.add_argument("--dry-run", action="store_true",
                        help="say what would be trained, each value with where it comes from")


def main(args: argparse.Namespace) -> None:
    wanted = request(args)
    if args.dry_run:
        describe(wanted)
        return
    from nerp.base.distributed import processes
    from nerp.base.log import say_on_terminal
    from nerp.engine.run import run_training

    with processes():
        say_on_terminal()
        run_training(wanted, overwrite=args.overwrite)


def describe(wanted: Request) -> None:
    """Print what would be trained, on which images and where. Nothing is written."""
    from nerp.commands.common import tell
    from nerp.data.benchmark import open_benchmark
    from nerp.settings.resolve import resolve

    resolved = resolve(wanted, "train")
    tell(resolved.said())
    bench = open_benchmark(resolved.cfg)
    tell(f"\n{bench.name}: {len(bench.classnames)} classes; {len(bench.train)} training, "
         f"{len(bench.val)} validation and {len(bench.test)} test images\n"
         f"the run's folder: {resolved.directory}")
