"""The text of the user's own code: of a module, and of the user's own modules that it imports.

A run's identity contains it, so that an edit makes another run. Installed packages, Python and nerp
are not included; their versions are in the record. Imports are found in the text, also inside
functions, and also `import_module("name")` with a literal name. Files that code reads by itself are
not included.
"""

import ast
import hashlib
import inspect
import linecache
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

_INSTALLED = {"site-packages", "dist-packages"}
_BROUGHT = [Path(sysconfig.get_paths()[name]) for name in ("stdlib", "platstdlib")]
_BROUGHT.append(Path(__file__).resolve().parents[1])
_IMPORTERS = {"import_module", "importlib.import_module", "__import__"}


def own_code(entry: object) -> str:
    """16 hex digits that identify the text of all user code that a class or function consists of,
    in files or in a notebook's cells; "" for a class or function of nerp's own."""
    name = getattr(entry, "__module__", "")
    if name.partition(".")[0] == "nerp":
        return ""
    members = vars(entry).values() if inspect.isclass(entry) else [entry]
    files = {member.__code__.co_filename for member in members if inspect.isfunction(member)}
    files.add(getattr(sys.modules.get(name), "__file__", None) or "")
    content = hashlib.sha256()
    for text in sorted(map(_text, with_imported(files, name))):  # wherever the files are
        content.update(text.encode())
    return content.hexdigest()[:16]


def with_imported(files: Iterable[str], module: str = "") -> set[str]:
    """These files and those of all own modules that they import, directly or indirectly.

    Args: module: the module that the files belong to. If it is part of an installed package, all
    modules of that package are own code.
    """
    package = module.partition(".")[0]
    found = dict.fromkeys(files, module)
    waiting = list(found)
    while waiting:
        file = waiting.pop()
        for name in _imported_by(_text(file), found[file]):
            place = _file(name)
            if place and place not in found and _is_own(place, name.partition(".")[0] == package):
                found[place] = name
                waiting.append(place)
    return set(found)


def _text(file: str) -> str:
    linecache.checkcache(file)
    return "".join(linecache.getlines(file))


def _imported_by(text: str, module: str) -> Iterator[str]:
    """The names that a module's text imports, with those of their packages. Some may not be
    modules."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = _above(module, node.level) if node.level else ""
            base = ".".join(filter(None, (above, node.module)))
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in _IMPORTERS and node.args:
            first = node.args[0]
            names = [first.value] if isinstance(first, ast.Constant) and \
                isinstance(first.value, str) else []
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[: i + 1]) for i in range(len(parts)) if all(parts))


def _above(module: str, level: int) -> str:
    """The package that a relative import with this many dots starts from."""
    there = sys.modules.get(module)
    package = module if hasattr(there, "__path__") else module.rpartition(".")[0]
    parts = package.split(".")
    return ".".join(parts[: max(0, len(parts) - level + 1)])


def _file(name: str) -> str | None:
    """The file with the text of a module, imported or not; nothing is imported."""
    there = sys.modules.get(name)
    if there is not None:
        return getattr(there, "__file__", None)
    try:
        spec = _spec(name)
    except (ImportError, ValueError, OSError):
        return None
    return spec.origin if spec is not None and spec.has_location else None


def _spec(name: str) -> ModuleSpec | None:
    parent = name.rpartition(".")[0]
    if not parent:
        return PathFinder.find_spec(name)
    above = _spec(parent)
    if above is None or above.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(name, list(above.submodule_search_locations))


def _is_own(file: str, same_package: bool) -> bool:
    path = Path(file).resolve()
    if path.suffix != ".py":
        return False
    installed = not _INSTALLED.isdisjoint(path.parts)
    if same_package or installed:
        return same_package
    return not any(path.is_relative_to(folder) for folder in _BROUGHT)
