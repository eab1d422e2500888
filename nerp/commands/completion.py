"""Print the code that teaches a shell to complete nerp's commands, options and names on Tab.

  eval "$(nerp completion bash)"     a line for ~/.bashrc
  eval "$(nerp completion zsh)"      a line for ~/.zshrc, after the one with compinit
"""

import argparse
import pkgutil

from nerp import commands

# Arguments that take a name of one kind, and those that take a path, by their METAVAR.
_TRAINERS = ("trainer", "methods")
_DATASETS = ("dataset", "datasets", "source", "names")
_FILES, _FOLDERS = ("FILE",), ("DIR", "RUN")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh"])


def main(args: argparse.Namespace) -> None:
    import shtab

    print(shtab.complete(whole_parser(), args.shell))


def whole_parser() -> argparse.ArgumentParser:
    """Every command in one parser, each argument with what completes it; it is not for parsing."""
    parser = argparse.ArgumentParser(prog="nerp")
    parser.add_argument("--version", action="store_true")
    parsers = parser.add_subparsers()
    names = [module.name.replace("_", "-") for module in pkgutil.iter_modules(commands.__path__)
             if hasattr(commands.command_module(module.name), "main")]
    for name in names:
        command = commands.command_module(name)
        filled = parsers.add_parser(name, help=command.__doc__.splitlines()[0])
        commands.add_arguments(filled, command)
        for action in filled._actions:
            _say_what_completes(action)
    helper = parsers.add_parser("help", help="say what a command does")
    helper.add_argument("command", choices=names)
    return parser


def _say_what_completes(action: argparse.Action) -> None:
    import shtab

    from nerp.settings.cards import shipped_cards
    from nerp.settings.catalogue import methods
    from nerp.settings.protocols import NERP_SUFFIX, PROTOCOLS, SAR_SUFFIX

    if action.dest in _TRAINERS:
        action.choices = [name + sar + nerp for name in methods()
                          for sar in ("", SAR_SUFFIX) for nerp in ("", NERP_SUFFIX)]
    elif action.dest in _DATASETS:
        action.choices = list(shipped_cards())
    elif action.dest == "protocol":
        action.choices = [protocol.name for protocol in PROTOCOLS]
    elif action.metavar in _FILES:
        action.complete = shtab.FILE
    elif action.metavar in _FOLDERS:
        action.complete = shtab.DIRECTORY
