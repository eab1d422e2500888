"""Draw what a folder has runs of, each figure as PNG and SVG: few-shot curves; base against novel
accuracy of the methods; what NeRP gains on each dataset.

  nerp plot output --output-dir figures"""


def add_arguments(parser):
    parser.add_argument("folders", nargs="*", default=["output"], metavar="DIR",
                        help="where the runs are, at any depth (default: output)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], metavar="N",
                        help="only these seeds (default: all that occur)")
    parser.add_argument("--output-dir", default="figures", metavar="DIR", help="default: figures")


def main(args):
    from pathlib import Path

    from nerp.paths import replacing
    from nerp.results.grid import split
    from nerp.results.plots import figures
    from nerp.results.records import collect

    for stem, figure in figures(split(collect(args.folders), args.seeds, False)).items():
        for kind in ("png", "svg"):
            path = Path(args.output_dir) / f"{stem}.{kind}"
            with replacing(path) as partial:
                figure.savefig(partial, format=kind)
            print(path)
