"""Put every rule side by side on a run's saved logits (nerp test --save-logits); no model needed.

For each rule it shows what the rule has looked at, its accuracy, what it changed, a sign test of
what it helped and hurt, and how one-sided confusion was before and after. It also says whether the
test classes look equally frequent. `nerp plot RUN` draws it.

  nerp correct output/mine --rules all
  nerp correct output/mine --rules shift,anchored,match
"""

import argparse

from nerp.commands.common import draw, tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a folder with predictions.npz of a NeRP test")
    parser.add_argument("--rules", default="all", metavar="RULE,RULE",
                        help="rules, as NERP.RULE has them, or all (default)")


def main(args: argparse.Namespace) -> None:
    from nerp.base.registry import RULES
    from nerp.correction.comparison import compare
    from nerp.engine.saved import load_run
    from nerp.results.comparison import (
        HEADERS,
        LEAST_WIDTH,
        measured,
        notes,
        rows,
        write_comparison,
    )

    run = load_run(args.run)
    names = RULES.names() if args.rules == "all" else args.rules.split(",")
    compared = list(compare(run.saved, run.rule, names, run.looked_at))
    content = measured(run, compared)
    file = write_comparison(run.directory, content)
    tell(f"{content['images']:,} images, {content['classes']:,} classes; without a correction "
         f"{content['accuracy']:.2f}%, asymmetry {content['asymmetry']}\n")
    print(draw(rows(content), HEADERS, LEAST_WIDTH))
    for line in notes(content):
        tell(line)
    tell(f"\nall numbers: {file}")
