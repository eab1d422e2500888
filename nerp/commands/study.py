"""A controlled study of NeRP on the drawn world, where every class's pre-training frequency is
known. It measures the oracle gain of a class bias, how well each neutral reference predicts that
bias, and what each rule gains, beside a shuffled control. It writes a page with tables and figures.
A second call continues where the first one stopped.
"""

import argparse

from nerp.commands.common import add_drawn_arguments, name

SEEDS = [1, 2, 3, 4, 5]
DATASETS = ["demo_landcover", "demo_textures", "demo_objects"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_drawn_arguments(parser, SEEDS, "output/study")
    parser.add_argument("--datasets", nargs="+", default=DATASETS, choices=DATASETS,
                        metavar="NAME", help=f"default: {' '.join(DATASETS)}")
    parser.add_argument("--methods", nargs="+", type=name, metavar="NAME",
                        help="default: six of them; any method of `nerp methods`")
    parser.add_argument("--backbones", nargs="+", type=name, metavar="NAME",
                        help="default: every one that ships")
    parser.add_argument("--world-seed", type=int, metavar="N",
                        help="on other images of the same classes, drawn and kept in folders "
                             "world<N> below --root and --output-dir")
    parser.add_argument("--page", default="output/study/page", metavar="DIR",
                        help="for the page and its figures (default: output/study/page)")


def main(args: argparse.Namespace) -> None:
    from pathlib import Path

    from nerp.base.registry import TRAINERS, unknown
    from nerp.demo.study import BACKBONES, METHODS, Settings, run_study
    from nerp.demo.study_report import write_report

    chosen = {
        "methods": tuple(map(TRAINERS.canonical, args.methods or METHODS)),
        "backbones": tuple(args.backbones or BACKBONES),
    }
    for backbone in chosen["backbones"]:
        if backbone not in BACKBONES:
            raise unknown("shipped backbone", backbone, BACKBONES)
    settings = Settings(
        datasets=tuple(args.datasets), seeds=tuple(args.seeds), root=args.root,
        output=args.output_dir, world_seed=args.world_seed, **chosen,
    )
    records = run_study(settings, tell=lambda line: print(line, flush=True))
    command = ["nerp study"]
    for flag, given, default in (
        ("--datasets", args.datasets, DATASETS), ("--seeds", args.seeds, SEEDS),
        ("--methods", args.methods, None), ("--backbones", args.backbones, None),
        ("--world-seed", args.world_seed, None),
    ):
        if given != default:
            command += [flag, *map(str, given if isinstance(given, list) else [given])]
    print(f"\n{write_report(records, Path(args.page), ' '.join(command))}")
