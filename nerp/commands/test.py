"""Test a checkpoint on a dataset; a trainer called <method>_NeRP also corrects the predictions."""

import argparse

from nerp.commands.common import (
    add_model_arguments,
    add_overwrite_argument,
    add_run_arguments,
    request,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    add_model_arguments(parser)
    parser.add_argument("--save-logits", action="store_true", help="write predictions.npz")
    parser.add_argument("--save-confusion", action="store_true",
                        help="write the confusion matrix to confusion.csv")
    add_overwrite_argument(parser)


def main(args: argparse.Namespace) -> None:
    wanted = request(args)
    from nerp.base.distributed import processes
    from nerp.base.log import say_on_terminal
    from nerp.engine.run import run_test

    with processes():
        say_on_terminal()
        run_test(
            wanted, save_logits=args.save_logits, save_confusion=args.save_confusion,
            overwrite=args.overwrite,
        )
