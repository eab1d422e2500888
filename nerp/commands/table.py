"""Put the results of runs into tables, one row per method and one block per backbone. A folder's
runs decide which tables there are: base-to-novel (base, novel and their harmonic mean H), open
world, cross-dataset, domain generalisation, few-shot.

  nerp table output
  nerp table output --against published
  nerp table output --metric ece
  nerp table output --latex --rows datasets --output table.tex

Folders of published log.txt files (Dassl's) are read too, and marked as such.

A run that is missing is shown as missing; no average is taken over a set that lacks one."""

import argparse
from typing import TYPE_CHECKING

from nerp.commands.common import SEED, add_old_name, argument, terminal_width
from nerp.engine.measures import METRICS

if TYPE_CHECKING:
    from nerp.results.published import Published

FORMATS = ("terminal", "markdown", "csv", "latex")
ROWS = ("methods", "datasets")
BACKBONES = ("blocks", "rows", "columns")
PUBLISHED = "published"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="*", default=["output"], metavar="DIR",
                        help="where the runs are, at any depth (default: output)")
    parser.add_argument("--protocol", nargs="+", type=_protocol, default=[], metavar="NAME",
                        help="base_to_novel, open_world, cross_dataset, domain_generalisation, "
                             "few_shot")
    parser.add_argument("--metric", choices=METRICS, default="accuracy",
                        help="what the numbers are (default: accuracy)")
    parser.add_argument("--seeds", nargs="+", type=argument(SEED), default=[], metavar="N",
                        help="the seeds that every number needs (default: all that occur)")
    parser.add_argument("--by-config", action="store_true",
                        help="one row per method and configuration, if a method has several")
    parser.add_argument("--rows", choices=ROWS, default=ROWS[0],
                        help="what the rows are (default: methods)")
    parser.add_argument("--backbones", choices=BACKBONES, default=BACKBONES[0],
                        help="where there are several: a block of rows each (default), rows below "
                             "each method, or columns side by side")
    parser.add_argument("--against", action="append", default=[], metavar="published|FILE.csv",
                        help="put published numbers, or those of a file of your own, and the "
                             "differences from them beside ours (docs/outputs.md)")
    parser.add_argument("--delta", action=argparse.BooleanOptionalAction,
                        help="what a correction adds to its baseline (default: in LaTeX)")
    parser.add_argument("--std", action=argparse.BooleanOptionalAction,
                        help="± standard deviations over seeds (default: except in LaTeX)")
    parser.add_argument("--format", choices=FORMATS, default="terminal")
    parser.add_argument("--latex", dest="format", action="store_const", const="latex",
                        help="--format latex: for a paper of two columns")
    parser.add_argument("--caption", default="", help="of the one table in LaTeX")
    parser.add_argument("--label", default="", help="of the one table in LaTeX")
    parser.add_argument("--output", metavar="FILE", help="instead of the terminal")
    add_old_name(parser, "--write-to", "output")


def _protocol(text: str) -> str:
    from nerp.base.registry import unknown
    from nerp.results.tables import TITLES

    if text not in TITLES:
        raise argparse.ArgumentTypeError(str(unknown("table", text, TITLES)))
    return text


def main(args: argparse.Namespace) -> None:
    from nerp.base.errors import NerpError
    from nerp.results import render
    from nerp.results.latex import latex
    from nerp.results.layout import arranged, without_spread
    from nerp.results.output import write
    from nerp.results.records import collect
    from nerp.results.tables import build_tables

    if args.against and args.metric != "accuracy":
        raise NerpError(f"--against {' '.join(args.against)}: papers give accuracies; leave out "
                        f"--metric {args.metric}")
    in_latex = args.format == "latex"
    tables = build_tables(
        collect(args.folders, args.metric), seeds=args.seeds, protocols=args.protocol,
        by_config=args.by_config, against=_published(args.against),
        gains=in_latex if args.delta is None else args.delta,
    )
    if not tables:
        raise NerpError(f"no runs for {', '.join(args.protocol)} below {', '.join(args.folders)}")
    if (args.caption or args.label) and (not in_latex or len(tables) > 1):
        raise NerpError("--caption and --label are of one table in LaTeX, --latex; there are: "
                        f"{'; '.join(table.title for table in tables)} (--protocol chooses)")
    if args.format != "csv":  # CSV has one line per number
        tables = [arranged(table, args.rows, args.backbones) for table in tables]
    spread = not in_latex if args.std is None else args.std
    if not spread:
        tables = [without_spread(table) for table in tables]
    text = {
        "terminal": lambda: render.terminal(tables, terminal_width()),
        "markdown": lambda: render.markdown(tables),
        "csv": lambda: render.comma_separated(tables),
        "latex": lambda: latex(tables, args.caption, args.label),
    }[args.format]()
    if args.output:
        print(f"written: {write(args.output, text)}")
    else:
        print(text, end="")


def _published(against: list[str]) -> "list[Published]":
    """The published rows that are asked for."""
    from nerp.results.published import published, read_published

    return [row for name in against
            for row in (published() if name == PUBLISHED else read_published(name))]
