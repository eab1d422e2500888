"""Draw figures of the runs in a folder, each as PNG and SVG: few-shot curves, base against novel
accuracy of the methods, closed against open world, and what NeRP gains on each dataset.

If a folder is a training, also a running one, draw its loss and learning rate. If it is a test with
--save-logits, draw accuracy against confidence and, if nerp correct has compared the rules on it,
what each rule gains.

  nerp plot output --output-dir figures
  nerp plot output/mine/seed1 output/mine/seed2
  nerp plot RUN"""

import argparse

from nerp.commands.common import SEED, argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="*", default=["output"], metavar="DIR",
                        help="where the runs are, at any depth (default: output); or trainings")
    parser.add_argument("--seeds", nargs="+", type=argument(SEED), default=[], metavar="N",
                        help="only these seeds (default: all that occur)")
    parser.add_argument("--output-dir", default="figures", metavar="DIR", help="default: figures")


def main(args: argparse.Namespace) -> None:
    from pathlib import Path

    from nerp.engine.history import METRICS_FILE
    from nerp.results.grid import split
    from nerp.results.plots import figures, save_figure
    from nerp.results.records import collect
    from nerp.results.reliability import reliability_diagram
    from nerp.results.training import training_curves
    from nerp.settings.protocols import COMPARISON_FILE, PREDICTIONS_FILE

    folders = [Path(folder) for folder in args.folders]
    trainings = [folder for folder in folders if (folder / METRICS_FILE).is_file()]
    tests = [folder for folder in folders
             if folder not in trainings and (folder / PREDICTIONS_FILE).is_file()]
    others = [folder for folder in folders if folder not in (*trainings, *tests)]
    drawn = {"training": training_curves(trainings)} if trainings else {}
    for number, folder in enumerate(tests, 1):
        stem = "reliability" if len(tests) == 1 else f"reliability_{number}"
        drawn[stem] = reliability_diagram(folder / PREDICTIONS_FILE)
        if (folder / COMPARISON_FILE).is_file():
            from nerp.results.comparison import comparison_figure  # it imports torch

            drawn[stem.replace("reliability", "corrections")] = comparison_figure(folder)
    if others:
        drawn |= figures(split(collect(others), args.seeds, False))
    for stem, figure in drawn.items():
        for file in save_figure(figure, Path(args.output_dir), stem):
            print(file)
