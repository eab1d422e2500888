#!/usr/bin/env python3
"""Train or test with the command lines of CoOp's family of repositories.

  python tools/train.py --root DATA --seed 1 --trainer MMRL \\
    --dataset-config-file configs/datasets/eurosat.yaml \\
    --config-file configs/trainers/MMRL/vit_b16.yaml --output-dir OUT \\
    DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base
  ... --model-dir OUT --load-epoch 10 --eval-only DATASET.SUBSAMPLE_CLASSES new

Each command line is translated to `nerp train` or `nerp test`, printed and run. An interrupted run
continues if it is started again with the same --output-dir.
"""

import argparse
import shlex
import sys

from nerp import cli
from nerp.base.errors import NerpError
from nerp.commands import parse
from nerp.commands.common import name

# Flags of CoOp's train.py that stand for nothing here, and why.
REFUSED = {
    "--source-domains": "datasets are named one at a time, by --dataset-config-file",
    "--target-domains": "datasets are named one at a time, by --dataset-config-file",
    "--head": "no method here has a classification head to choose",
}


def parser() -> argparse.ArgumentParser:
    """CoOp's flags."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flags.add_argument("--trainer", required=True, help="see `nerp methods`")
    for flag in ("root", "output-dir", "dataset-config-file", "config-file"):
        flags.add_argument(f"--{flag}", default="", help="as in `nerp train --help`")
    flags.add_argument("--seed", help="default: 1; -1: drawn, and recorded")
    flags.add_argument("--eval-only", action="store_true", help="test, do not train")
    flags.add_argument("--model-dir", default="", help="run directory to test")
    flags.add_argument("--load-epoch", help="epoch to test; default: the newest")
    flags.add_argument("--no-train", action="store_true",
                       help="read configuration and dataset, print the configuration, stop")
    flags.add_argument("--resume", default="", help="the --output-dir of an interrupted run")
    flags.add_argument("--train-epoch", type=int, help="OPTIM.MAX_EPOCH")
    flags.add_argument("--backbone", default="", help="MODEL.BACKBONE.NAME")
    flags.add_argument("--transforms", nargs="+", type=name, help="INPUT.TRANSFORMS")
    for flag in REFUSED:
        flags.add_argument(flag, nargs="+", type=name, help=argparse.SUPPRESS)
    flags.add_argument("opts", nargs="*", metavar="KEY VALUE", help="configuration values, last")
    return flags


def translate(args: argparse.Namespace) -> list[str]:
    """The equivalent arguments of `nerp`. Raises NerpError for flags that have no equivalent."""
    for flag, reason in REFUSED.items():
        if getattr(args, flag[2:].replace("-", "_")):
            raise NerpError(f"{flag}: {reason}")
    if args.resume and args.output_dir not in ("", args.resume):
        raise NerpError("--resume: a run goes on in its own folder; give that as --output-dir, "
                        "and nothing else is needed")
    if args.model_dir and not args.eval_only:
        raise NerpError("--model-dir is for --eval-only; training begins from the published CLIP")
    given = {
        "--root": args.root, "--seed": args.seed, "--trainer": args.trainer,
        "--dataset-config-file": args.dataset_config_file, "--config-file": args.config_file,
        "--output-dir": args.output_dir or args.resume,
    }
    if args.eval_only:
        given |= {"--model-dir": args.model_dir, "--load-epoch": args.load_epoch}
    given |= {
        "OPTIM.MAX_EPOCH": args.train_epoch, "MODEL.BACKBONE.NAME": args.backbone,
        "INPUT.TRANSFORMS": args.transforms,
    }
    argv = ["test" if args.eval_only else "train"]
    argv += [str(x) for pair in given.items() if pair[1] not in ("", None) for x in pair]
    return [*argv, *args.opts]


def describe(args: argparse.Namespace) -> None:
    """Read the configuration and the dataset, as --no-train asks, and print the configuration."""
    from nerp.data.benchmark import open_benchmark
    from nerp.settings.resolve import Request, resolve

    cfg = resolve(Request(
        trainer=args.trainer, dataset_config_file=args.dataset_config_file,
        config_file=args.config_file, root=args.root, seed=args.seed,
        output_dir=args.output_dir, opts=args.opts,
    )).cfg
    bench = open_benchmark(cfg)
    print(cfg.dump())
    print(f"{bench.name}: {len(bench.classnames)} classes; {len(bench.train)} training, "
          f"{len(bench.val)} validation and {len(bench.test)} test images")


def main() -> int:
    args = parse(parser(), sys.argv[1:])
    try:
        argv = translate(args)
        if args.no_train and not args.eval_only:
            describe(args)
            return 0
    except NerpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(shlex.join(["nerp", *argv]), flush=True)
    return cli.run(argv)


if __name__ == "__main__":
    sys.exit(main())
