"""One module per command: `add_arguments(parser)` and `main(args)`; heavy imports are in `main`."""

import argparse
import importlib
import re
from collections.abc import Sequence
from types import ModuleType

from nerp.base.printable import broken

_OPTION = re.compile(r"-(?!\.?\d|$)")  # neither a number nor -, which is standard input


class HelpFormatter(argparse.HelpFormatter):
    """Fills a command's description paragraph by paragraph. Indented lines, and lines with a name
    and its text after two or more spaces, stay separate. An indented command line is not broken,
    because a broken one cannot be pasted."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(_filled(paragraph, width) for paragraph in text.strip().split("\n\n"))


def _filled(paragraph: str, width: int) -> str:
    lines: list[tuple[str, int, bool]] = []  # text, its second line's indent, whether more follows
    for line in paragraph.split("\n"):
        indented = len(line) - len(line.lstrip())
        listed = re.match(r" *\S+(?: \S+)*?  +(?=\S)", line)
        if lines and lines[-1][1:] == (indented, True) and not listed:
            lines[-1] = (f"{lines[-1][0]} {line.strip()}", indented, True)
        else:
            lines.append((line, listed.end() if listed else indented, bool(listed or not indented)))
    return "\n".join(text if hang and text.startswith(" " * hang + "nerp ")
                     else broken(text, width, hang) for text, hang, _ in lines)


def command_module(name: str) -> ModuleType:
    """The module of a command such as sweep-nerp."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def add_arguments(parser: argparse.ArgumentParser, command: ModuleType) -> None:
    """Put a command's arguments, and those that all commands have, into its parser."""
    command.add_arguments(parser)
    parser.add_argument("--import", action="append", dest="imports", metavar="MODULE",
                        help="a module, or .py file, of your own that registers a method or the "
                             "like; may be given several times (NERP_IMPORT names them too)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line whose positional words may be anywhere.

    A list, such as that of --seeds, ends at the first word that its `type` or `choices` refuse, so
    that KEY VALUE pairs or a folder may follow it. (In argparse a list extends to the next option.)
    """
    end = words.index("--") if "--" in words else len(words)
    others: list[str] = []
    lists: list[str] = []
    taking: argparse.Action | None = None
    for word in words[:end]:
        if _OPTION.match(word):
            taking = _list_option(parser, word)
        elif taking and not _OPTION.match(lists[-1]) and not _takes(taking, word):
            taking = None
        (lists if taking else others).append(word)
    return parser.parse_intermixed_args([*others, *lists, *words[end:]])


def _list_option(parser: argparse.ArgumentParser, word: str) -> argparse.Action | None:
    """The list option that `word` is or abbreviates; None if it is no such option."""
    options = {string: action for action in parser._actions for string in action.option_strings}
    meant = {options[word]} if word in options else {
        action for string, action in options.items() if string.startswith(word)}
    action = meant.pop() if len(meant) == 1 else None
    return action if action and action.nargs == "+" else None


def _takes(action: argparse.Action, word: str) -> bool:
    if action.choices is not None:
        return word in action.choices
    try:
        return not callable(action.type) or action.type(word) is not None
    except argparse.ArgumentTypeError:
        return False
