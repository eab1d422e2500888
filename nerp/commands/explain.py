"""Write one HTML page about a corrected run: accuracy before and after, the confusion matrix,
priors, which pairs were flipped, and flipped images with the reason for each. The page fetches
nothing and can be sent as it is.

  nerp test --trainer MMRL_NeRP ... --save-logits --output-dir RUN
  nerp explain RUN"""

import argparse

from nerp.commands.common import argument, tell
from nerp.settings.keys import whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the folder of a NeRP test with --save-logits")
    parser.add_argument("--output", default="", metavar="FILE",
                        help="the page (default: explain.html in the run's folder)")
    parser.add_argument("--root", default="", metavar="DIR",
                        help="the folder that holds the dataset's folder now (default: as in the "
                             "run)")
    parser.add_argument("--most", type=argument(whole(60, 0)), default=60, metavar="N",
                        help="flipped images shown (default: 60)")


def main(args: argparse.Namespace) -> None:
    from pathlib import Path

    from nerp.results.explain import Explanation
    from nerp.results.explain_page import explain_page, summary
    from nerp.results.output import write

    facts = Explanation(args.run, args.root)
    flips = facts.sample(args.most)
    page = write(args.output or Path(args.run) / "explain.html", explain_page(facts, flips))
    tell(summary(facts))
    missing = sum(not flip.picture for flip in flips)
    if missing:
        tell(f"{missing} of {len(flips)} images were not found, or not readable, below "
             f"{facts.image_dir}; --root says where the data are")
    print(f"{page}: {page.size / 2**10:,.0f} KiB")
