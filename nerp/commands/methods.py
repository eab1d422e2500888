"""List the registered methods by group, with learned parameters on a backbone and where each is
published. With names, show more about these, such as the paper's title and the checkpoint's folder.

  nerp methods
  nerp methods MMRL CoOp_DePT
"""

import argparse
import re
from itertools import groupby

from nerp.base.printable import broken
from nerp.commands.common import draw, terminal_width

_LEAST = 14  # columns for the papers, however narrow the terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: every method, in short")
    parser.add_argument("--backbone", default="ViT-B/16", metavar="NAME",
                        help="count parameters for this one: ViT-B/16 (default), ViT-B/32, "
                             "ViT-L/14, RN50, RN101, tiny or tiny-biased; no weights are needed")


def main(args: argparse.Namespace) -> None:
    from nerp.base.registry import TRAINERS
    from nerp.trainers.summary import method_rows

    wanted = {TRAINERS.canonical(name) for name in args.names}
    rows = []
    for group, methods in groupby(method_rows(args.backbone, wanted), key=lambda row: row[-1]):
        listed = []
        for name, count, folder, paper, _ in methods:
            learned = "–" if count is None else f"{count:,}"
            if not wanted:
                listed.append([name, learned, in_short(paper)])
            elif name in wanted:
                listed.append([name, learned, folder, paper])
        if listed:
            rows += [[f"{group}:", *[""] * (len(listed[0]) - 1)], *listed]
    headers = ["method", "learned\nparameters"] if wanted else ["method", "learned"]
    headers += ["checkpoint\nfolder", "paper"] if wanted else ["published"]
    align = ["left", "right", *["left"] * (len(headers) - 2)]
    print(draw(rows, headers, _LEAST, colalign=align))
    closing = (f"learned: parameters on {args.backbone}, default settings, 10 classes; –: does not "
               "fit it. Any method is tested with NeRP by _NeRP after its name, and trained with "
               "SAR by _SAR where classes have learned features, with DePT by _DePT where its loss "
               "has one cross entropy of cosines. nerp methods NAME says more.")
    print(f"\n{broken(closing, terminal_width(), 0)}")


def in_short(paper: str) -> str:
    """A publication without its title: authors, venue and year."""
    parts = paper.split(", ")
    authors = re.match(r".+? et al\.|.+? and [^,]+", paper)
    place = parts[-2:] if re.fullmatch(r"\d{4}", parts[-1]) and len(parts) > 2 else parts[-1:]
    if not authors or any(part in authors[0] for part in place):
        return paper
    venue = [part for part in place if re.match(r"arXiv|.*\d{4}", part)]
    return ", ".join([authors[0], *venue])
