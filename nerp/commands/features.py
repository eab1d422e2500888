"""Write a model's features of a split as npz: image_features [N, D], class_features and
frozen_class_features [C, D], all of length 1, labels, paths and classnames; for probes and plots.

  nerp features eurosat.npz --trainer MMRL --model-dir RUN --dataset eurosat \\
    --config-file configs/trainers/MMRL/vit_b16.yaml TEST.SPLIT test"""

import argparse

from nerp.commands.common import add_model_arguments, add_run_arguments, request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the npz")
    add_run_arguments(parser)
    add_model_arguments(parser)


def main(args: argparse.Namespace) -> None:
    from pathlib import Path

    wanted = request(args)
    from nerp.base.log import say_on_terminal
    from nerp.engine.features import save_features
    from nerp.settings.resolve import resolve

    say_on_terminal()
    save_features(Path(args.file), resolve(wanted))
