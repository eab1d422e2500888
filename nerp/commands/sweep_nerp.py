"""Apply NeRP with many settings to a run's saved logits (nerp test --save-logits); no model needed.

The best setting of such a sweep has been chosen on test labels: an upper bound, not a result.
"""

import argparse

from nerp.commands.common import argument, tell
from nerp.settings.keys import whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a folder with predictions.npz of a NeRP test")
    parser.add_argument("--grid", nargs="+", type=_setting, required=True, metavar="KEY=VALUES",
                        help="such as TAU=-1,0,1 THRES=0:2:9 FLIP_RULE=OR,AND for the flip; "
                             "gap=0:1:11 image=0,0.05 SCOPE=all,pairs for a shift")
    parser.add_argument("--most", type=argument(whole(15, 0)), default=15, metavar="N",
                        help="settings shown, best first (default: 15); the file has all")
    parser.add_argument("--output-dir", default="", metavar="DIR",
                        help="for sweep.csv and sweep.png (default: the run's folder)")


def _setting(text: str) -> str:
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no KEY=VALUES, such as TAU=-1,0,1")
    return text


def main(args: argparse.Namespace) -> None:
    from pathlib import Path

    from nerp.correction.sweep import Sweep, parse_grid, rule_of_grid
    from nerp.engine.saved import load_run
    from nerp.results.sweeps import draw_heat_map, outcome_table, write_outcomes

    grid = parse_grid(args.grid)
    run = load_run(args.run)
    rule = rule_of_grid(grid, run.rule)
    sweep = Sweep(run.saved)
    outcomes = list(sweep.run(rule, grid))
    directory = Path(args.output_dir or args.run)
    csv = write_outcomes(directory / "sweep.csv", outcomes, grid)
    tell(f"{len(outcomes)} settings on {len(run.saved.labels)} images; without NeRP "
         f"{sweep.plain_accuracy:.2f}%; the rule: {rule.name}\n")
    print(outcome_table(outcomes, grid, args.most))
    tell("\nupper bound: these settings were compared on test labels, so the best of them is not "
         f"a result\nall settings: {csv}")
    if len([values for values in grid.values() if len(values) > 1]) == 2:
        png = draw_heat_map(directory / "sweep.png", outcomes, grid, sweep.plain_accuracy)
        print(f"heat map: {png}")
