"""One module a command: `add_arguments(parser)` and `main(args)`; heavy imports inside `main`."""

import argparse
import importlib
from types import ModuleType


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
