"""The user's own code that registers methods, layouts, pair sources, references or rules.

It is found in two ways. An installed package names its module under an entry-point group with the
name of the package whose registry it fills (`nerp.trainers` for methods). `--import NAME` or the
variable NERP_IMPORT names modules, or files that end in .py, separated by commas.
"""

import importlib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import CodeType

from nerp.base.errors import NerpError

VARIABLE = "NERP_IMPORT"
_imported: set[str] = set()


@cache
def load_installed(group: str) -> None:
    """Import the modules that installed packages have entered under `group`, once. Raises
    NerpError, naming the entry, if one fails."""
    for entry in entry_points(group=group):
        try:
            entry.load()
        except (Exception, SystemExit) as error:
            raise NerpError(f"the plug-in {entry.name} ({entry.value}) cannot be imported: "
                            f"{_reason(error)}; pip uninstall it, or mend it") from error


def load_named() -> None:
    """Import what NERP_IMPORT names. Raises NerpError as `import_modules` does."""
    import_modules(filter(None, os.environ.get(VARIABLE, "").split(",")))


def import_modules(names: Iterable[str]) -> None:
    """Import each module once, by name (also from the current folder) or by the path of a .py file.
    Raises NerpError, naming the module, if one fails."""
    for name in map(str.strip, names):
        if name in _imported:
            continue
        _imported.add(name)
        try:
            _import_file(Path(name)) if name.endswith(".py") else _import_module(name)
        except (Exception, SystemExit) as error:
            _imported.discard(name)
            raise NerpError(f"--import {name}: it cannot be imported: {_reason(error)}") from error


def imported() -> set[str]:
    """The names of what has been imported."""
    return {*_imported}


def named_files() -> list[Path]:
    """The files of the modules that have been imported by name, and of what they import."""
    from nerp.base.own_code import with_imported  # not at every start: see nerp.base.registry

    files: set[str] = set()
    for name in _imported:
        module = Path(name).stem if name.endswith(".py") else name
        if file := getattr(sys.modules.get(module), "__file__", None):
            files |= with_imported([file], module)
    return sorted(map(Path, files))


def _import_module(name: str) -> None:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: it hides nothing that is installed
    importlib.import_module(name)


class _AsItIs(importlib.machinery.SourceFileLoader):
    """Compiles a file at each import. Python's cache in __pycache__ identifies a file by its size
    and the second of its last change, so it would miss a second edit within one second."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


def _import_file(path: Path) -> None:
    there = getattr(sys.modules.get(path.stem), "__file__", None)
    if there is not None and path.exists() and path.samefile(there):
        return  # it has been imported by name
    if path.stem in sys.modules:
        raise ImportError(f"another module is called {path.stem}; rename the file")
    loader = _AsItIs(path.stem, str(path))
    spec = importlib.util.spec_from_file_location(path.stem, path, loader=loader)
    assert spec is not None and spec.loader is not None  # a file whose name ends in .py has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
