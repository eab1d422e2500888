"""Print the code that teaches a shell to complete nerp's commands, options and names on Tab.

  eval "$(nerp completion bash)"     a line for ~/.bashrc
  eval "$(nerp completion zsh)"      a line for ~/.zshrc, after the one with compinit
"""

import argparse
import pkgutil

from nerp import commands

# Arguments for names of one kind, and arguments for paths, by their METAVAR.
_TRAINERS = ("trainer", "methods")
_DATASETS = ("dataset", "datasets", "source", "names")
_FILES, _FOLDERS = ("FILE",), ("DIR", "RUN")
_KEYS = "opts"
# Shell functions that complete a list with commas in it, and configuration keys. The methods' own
# keys would need an import of every method, and so seconds in each new shell.
_LISTS = {
    "bash": """
_nerp_{name}() {{
  local before=""
  [[ $1 != *,* ]] || before="${{1%,*}},"
  compgen -P "$before" -W "{words}" -- "${{1##*,}}"
}}
""",
    "zsh": """
_nerp_{name}() {{
  _values -s , {name} {words}
}}
""",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh"])


def main(args: argparse.Namespace) -> None:
    print(script(args.shell))


def script(shell: str) -> str:
    """The code that makes "bash" or "zsh" complete command lines."""
    import shtab

    from nerp.settings.defaults import KEYS

    words = {"trainers": _trainers(), "datasets": _datasets(), "keys": list(KEYS)}
    functions = [_LISTS[shell].format(name=name, words=" ".join(known))
                 for name, known in words.items()]
    text: str = shtab.complete(whole_parser(), shell, preamble="".join(functions))
    return text


def whole_parser() -> argparse.ArgumentParser:
    """All commands in one parser, each argument with its completion; it is not used for parsing."""
    parser = argparse.ArgumentParser(prog="nerp")
    parser.add_argument("--version", action="store_true")
    parsers = parser.add_subparsers()
    names = [module.name.replace("_", "-") for module in pkgutil.iter_modules(commands.__path__)
             if hasattr(commands.command_module(module.name), "main")]
    for name in names:
        command = commands.command_module(name)
        filled = parsers.add_parser(name, help=str(command.__doc__).splitlines()[0])
        commands.add_arguments(filled, command)
        for action in filled._actions:
            _say_what_completes(action)
    helper = parsers.add_parser("help", help="say what a command does")
    helper.add_argument("command", choices=names)
    return parser


def _say_what_completes(action: argparse.Action) -> None:
    import shtab

    from nerp.settings.protocols import PROTOCOLS

    if action.dest == _KEYS:
        _complete(action, "keys")
    elif action.dest in _TRAINERS:
        _complete(action, "trainers")
    elif action.dest in _DATASETS:
        _complete(action, "datasets")
    elif action.dest == "protocol":
        action.choices = [protocol.name for protocol in PROTOCOLS]
    elif action.metavar in _FILES:
        action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks for it
    elif action.metavar in _FOLDERS:
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # as above


def _complete(action: argparse.Action, name: str) -> None:
    """Let the function of `_LISTS` with that name complete an argument."""
    function = f"_nerp_{name}"
    bash_and_zsh = {"bash": function, "zsh": function}
    action.complete = bash_and_zsh  # type: ignore[attr-defined]  # where shtab looks for it


def _trainers() -> list[str]:
    from nerp.settings.catalogue import methods
    from nerp.settings.protocols import NERP_SUFFIX, TRAINING_SUFFIXES

    return [name + trained + nerp for name in methods()
            for trained in ("", *TRAINING_SUFFIXES) for nerp in ("", NERP_SUFFIX)]


def _datasets() -> list[str]:
    from nerp.settings.cards import shipped_cards

    return list(shipped_cards())
