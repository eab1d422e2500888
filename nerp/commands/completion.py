"""Print the code that teaches a shell to complete nerp's commands, options and names on Tab.

  eval "$(nerp completion bash)"     a line for ~/.bashrc
  eval "$(nerp completion zsh)"      a line for ~/.zshrc, after the one with compinit
"""

import argparse

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
    from nerp import cli

    parser = argparse.ArgumentParser(prog="nerp")
    parser.add_argument("--version", action="store_true")
    commands = parser.add_subparsers()
    for name, summary in cli.COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        cli.add_arguments(command, cli.command_module(name))
        for action in command._actions:
            _say_what_completes(action)
    helper = commands.add_parser("help", help="say what a command does")
    helper.add_argument("command", choices=list(cli.COMMANDS))
    return parser


def _say_what_completes(action: argparse.Action) -> None:
    import shtab

    from nerp.config import shipped_cards
    from nerp.experiments.catalogue import methods
    from nerp.protocols import NERP_SUFFIX, PROTOCOLS

    if action.dest in _TRAINERS:
        action.choices = [name + suffix for name in methods() for suffix in ("", NERP_SUFFIX)]
    elif action.dest in _DATASETS:
        action.choices = list(shipped_cards())
    elif action.dest == "protocol":
        action.choices = [protocol.name for protocol in PROTOCOLS]
    elif action.metavar in _FILES:
        action.complete = shtab.FILE
    elif action.metavar in _FOLDERS:
        action.complete = shtab.DIRECTORY
