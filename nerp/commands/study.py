"""A controlled study of NeRP on the drawn world, where every class's pre-training frequency is
known: how priors, frequency, over-prediction and one-sided confusion hang together, and what each
source of pairs and of thresholds gains, for six methods and both shipped backbones, beside two
controls. Writes a page with tables and figures; a second call goes on where the first one stopped.
"""

from nerp.commands.common import add_drawn_arguments

SEEDS = [1, 2, 3, 4, 5]
DATASETS = ["demo_landcover", "demo_textures", "demo_objects"]


def add_arguments(parser):
    add_drawn_arguments(parser, SEEDS, "output/study")
    parser.add_argument("--datasets", nargs="+", default=DATASETS, choices=DATASETS,
                        metavar="NAME", help=f"default: {' '.join(DATASETS)}")
    parser.add_argument("--page", default="output/study/page", metavar="DIR",
                        help="for the page and its figures (default: output/study/page)")


def main(args):
    from pathlib import Path

    from nerp.demo.study import Settings, run_study
    from nerp.demo.study_report import write_report

    settings = Settings(
        datasets=tuple(args.datasets), seeds=tuple(args.seeds), root=args.root,
        output=args.output_dir,
    )
    records = run_study(settings, tell=lambda line: print(line, flush=True))
    command = ["nerp study"]
    if args.datasets != DATASETS:
        command += ["--datasets", *args.datasets]
    if args.seeds != SEEDS:
        command += ["--seeds", *map(str, args.seeds)]
    print(f"\n{write_report(records, Path(args.page), ' '.join(command))}")
