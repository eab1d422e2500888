"""Draw what a folder has runs of, each figure as PNG and SVG: few-shot curves; base against novel
accuracy of the methods; what NeRP gains on each dataset.

  nerp plot output --output-dir figures"""

from nerp.commands.common import SEED, argument


def add_arguments(parser):
    parser.add_argument("folders", nargs="*", default=["output"], metavar="DIR",
                        help="where the runs are, at any depth (default: output)")
    parser.add_argument("--seeds", nargs="+", type=argument(SEED), default=[], metavar="N",
                        help="only these seeds (default: all that occur)")
    parser.add_argument("--output-dir", default="figures", metavar="DIR", help="default: figures")


def main(args):
    from pathlib import Path

    from nerp.results.grid import split
    from nerp.results.plots import figures, save_figure
    from nerp.results.records import collect

    drawn = figures(split(collect(args.folders), args.seeds, False))
    for stem, figure in drawn.items():
        for path in save_figure(figure, Path(args.output_dir), stem):
            print(path)
