"""The configuration keys, and the values that a run's keys get.

keys  lists every key with its default and what it takes, or only those below a NODE (OPTIM)
show  prints the configuration of a command line: each value with where it comes from

  nerp config keys OPTIM
  nerp config show --trainer MMRL_NeRP --dataset eurosat OPTIM.MAX_EPOCH 5
"""

import argparse

from nerp.base.errors import NerpError
from nerp.base.printable import brief
from nerp.base.registry import unknown
from nerp.commands.common import add_model_arguments, add_run_arguments, draw, request, tell

_LEAST = 24  # columns for the last column, however narrow the terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["keys", "show"])
    add_run_arguments(parser, trainer_required=False)
    add_model_arguments(parser)
    parser.add_argument("--all", action="store_true", help="keys at their defaults too")


def main(args: argparse.Namespace) -> None:
    if args.action == "keys":
        print(_keys(args.opts))
        return
    if not args.trainer:
        raise NerpError("show: which trainer? --trainer NAME; nerp methods lists them")
    wanted = request(args)
    from nerp.base.log import say_on_terminal
    from nerp.settings.resolve import resolve

    say_on_terminal()
    resolved = resolve(wanted, "test" if args.model_dir else "train")
    tell(f"{resolved.said(everything=args.all)}\n\nthe run's folder: {resolved.directory}")


def _keys(nodes: list[str]) -> str:
    from nerp.settings.defaults import all_keys

    keys = all_keys()
    tops = {name.rpartition(".")[0] or name for name in keys}
    tops |= {name.partition(".")[0] for name in keys}
    for node in nodes:
        if node not in tops and node not in keys:
            raise unknown("node of keys", node, tops)
    rows = [[name, brief(key.default), key.takes] for name, key in keys.items()
            if not nodes or any(name == node or name.startswith(f"{node}.") for node in nodes)]
    return draw(rows, ["key", "default", "takes"], _LEAST)
