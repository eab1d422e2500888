"""Name -> class, with errors that list what exists.

Every start imports this module. So imports that few calls need are inside those calls; they would
take a fifth of the time of `nerp --help`.
"""

import importlib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from nerp.base.errors import NerpError
from nerp.base.plugins import load_installed, load_named
from nerp.base.printable import brief, printable

# How users make their own entries known, for messages; see docs/extending.md.
REGISTERED = "--import the module that registers it"
_LISTED = 60  # names, in a message
_COMPARED = 1000  # names, and characters of a name; an unknown name may come from a stranger


Entry = TypeVar("Entry")


class Registry:
    """A table that a package's modules fill when they are imported.

    Args:
        kind: what the entries are, for messages ("trainer").
        package: the package whose import registers nerp's own entries; it is imported at the first
            look-up. Installed packages register others under an entry-point group of this name
            (see `nerp.base.plugins`).
    """

    def __init__(self, kind: str, package: str):
        self.kind = kind
        self.package = package
        self._entries: dict[str, object] = {}
        self._canonical: dict[str, str] = {}
        self._suffixes: dict[str, Callable[..., Any]] = {}
        self._aliases: dict[str, str] = {}

    def register(self, *names: str) -> Callable[[Entry], Entry]:
        """Decorator: enter a class or function under `names`; the first one is its own name."""

        def enter(entry: Entry) -> Entry:
            for name in names:
                if not _is_again(self._entries.get(name, entry), entry):
                    raise ValueError(f"{self.kind} {name!r} is registered twice")
                self._entries[name] = entry
                self._canonical[name] = names[0]
            return entry

        return enter

    def suffix(self, suffix: str, **aliases: str) -> Callable[[Entry], Entry]:
        """Decorator: the function makes a new entry from an existing one; the new entry's name is
        the old name with `suffix` at its end. aliases: other name -> the entry's name."""

        def enter(make: Entry) -> Entry:
            self._suffixes[suffix] = make  # type: ignore[assignment]
            self._aliases |= aliases
            return make

        return enter

    def _fill(self) -> None:
        importlib.import_module(self.package)
        load_installed(self.package)
        load_named()

    def __getitem__(self, name: str) -> Any:
        """The entry called `name`. Raises NerpError, listing the names, if there is none."""
        self._fill()
        base, suffix = self._parts(name)
        if base not in self._entries:
            raise unknown(self.kind, name, self._entries, own=REGISTERED)
        entry = self._entries[base]
        return self._suffixes[suffix](entry) if suffix else entry

    def canonical(self, name: str) -> str:
        """The entry's own name for the name `name`: MultiModalAdapter -> MMA."""
        self[name]
        base, suffix = self._parts(name)
        return self._canonical[base] + suffix

    def taking(self, suffix: str) -> list[str]:
        """The names, with `suffix`, of all entries that the suffix fits."""
        self._fill()
        return [name + suffix for name in self.names() if self._fits(name, suffix)]

    def _fits(self, name: str, suffix: str) -> bool:
        try:
            return bool(self[name + suffix])
        except NerpError:
            return False

    def _parts(self, name: str) -> tuple[str, str]:
        """The entry's name and the suffix ("" for none) that `name` consists of. Raises NerpError
        for two suffixes."""
        name = self._aliases.get(name, name)
        found = [suffix for suffix in self._suffixes if name.endswith(suffix)]
        if not found:
            return name, ""
        base = name.removesuffix(found[0])
        if any(base.endswith(suffix) for suffix in self._suffixes):
            raise NerpError(f"there is no {brief(name)}: a {self.kind} takes only one of "
                            f"{', '.join(sorted(self._suffixes))}")
        return base, found[0]

    def code(self, name: str) -> str:
        """16 hex digits that identify the code of a user's own entry; "" for an entry of nerp's.
        For a name with a suffix, it is the code of the entry without the suffix."""
        from nerp.base.own_code import own_code

        return own_code(self[self._parts(name)[0]])

    def names(self) -> list[str]:
        """Every entry's own name, aliases left out."""
        self._fill()
        return sorted(set(self._canonical.values()))


def _is_again(old: Any, new: Any) -> bool:
    """Whether `new` redefines the entry `old`, as when a notebook's cell is run again."""
    old, new = ((entry.__module__, getattr(entry, "__qualname__", entry)) for entry in (old, new))
    return bool(old == new)


def unknown(kind: str, name: str, known: Iterable[str], own: str = "") -> NerpError:
    """The error for an unknown name: it says which name was probably meant, which names exist, and
    how to add `own` entries."""
    import difflib

    known = sorted(known)
    lowered = {entry.lower(): entry for entry in known[:_COMPARED]}
    near = difflib.get_close_matches(name.lower()[:_COMPARED], list(lowered), n=1)
    hint = f" Did you mean {lowered[near[0]]}?" if near else ""
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    listing = printable(", ".join(known[:_LISTED]))
    own = f"; for one of your own {own}" if own else ""
    return NerpError(f"unknown {kind} {brief(name)}.{hint} There are: {listing}{more}{own}")


TRAINERS = Registry("trainer", "nerp.trainers")
LAYOUTS = Registry("dataset layout", "nerp.data.layouts")
PAIR_SOURCES = Registry("pair source", "nerp.correction.pairs")
REFERENCES = Registry("neutral reference", "nerp.correction.references")
RULES = Registry("rule", "nerp.correction")
DRAWN = Registry("procedural benchmark", "nerp.demo.world")
