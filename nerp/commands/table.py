"""Put the results of runs into tables, one row a method: base-to-novel (base, novel and their
harmonic mean H), open world, cross-dataset, domain generalisation, few-shot; whatever a folder has
runs of.

  nerp table output
  nerp table output --against published
  nerp table output --metric ece
  nerp table output --format latex --output table.tex

Folders of published log.txt files (Dassl's) are read, too, and marked as such.

A run that is missing is shown as missing; no average is taken over a set that lacks one."""

import argparse
from pathlib import Path

from nerp.commands.common import SEED, add_old_name, argument, terminal_width
from nerp.engine.measures import METRICS

FORMATS = ("terminal", "markdown", "csv", "latex")


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
                        help="one row a method and configuration, where a method has several")
    parser.add_argument("--against", choices=["published"],
                        help="put published numbers and the differences from them beside ours")
    parser.add_argument("--format", choices=FORMATS, default="terminal")
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
    from nerp.base.paths import write_text
    from nerp.results import render
    from nerp.results.records import collect
    from nerp.results.tables import build_tables

    if args.against and args.metric != "accuracy":
        raise NerpError(f"--against {args.against}: papers give accuracies; leave out --metric "
                        f"{args.metric}")
    tables = build_tables(
        collect(args.folders, args.metric), seeds=args.seeds, protocols=args.protocol,
        by_config=args.by_config, against_published=args.against == "published",
    )
    if not tables:
        raise NerpError(f"no runs for {', '.join(args.protocol)} below {', '.join(args.folders)}")
    text = {
        "terminal": lambda: render.terminal(tables, terminal_width()),
        "markdown": lambda: render.markdown(tables),
        "csv": lambda: render.comma_separated(tables),
        "latex": lambda: render.latex(tables),
    }[args.format]()
    if args.output:
        write_text(args.output, text)
        print(f"written: {Path(args.output)}")
    else:
        print(text, end="")
