"""A configuration as a tree of keys: reading one, setting one, putting a file's layer on top."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from yacs.config import CfgNode as CN

from nerp.base.errors import NerpError
from nerp.base.log import command_line, say
from nerp.base.paths import shipped_name
from nerp.base.printable import brief
from nerp.base.registry import unknown
from nerp.files.yaml_file import key_lines
from nerp.settings.defaults import common_config, default_config, key
from nerp.settings.options import RELEASE_NAMES, own_name
from nerp.settings.published import Reader, is_methods, is_settled, own_setting


@dataclass(frozen=True)
class Origin:
    """Where a key's value comes from. As a text: what a message or a listing says about it.

    Attributes:
        kind: one of the constants below. file: the YAML file or checkpoint; "" for none.
        entry: the entry in that file that the key's name is below (PER_DATASET.EuroSAT).
        key: the key's full name, as it is written there.
    """

    kind: str
    file: str = ""
    entry: str = ""
    key: str = ""

    def __str__(self) -> str:
        if not self.file:
            asked_from_python = self.kind == COMMAND_LINE and not command_line.get()
            return "options" if asked_from_python else self.kind
        name = shipped_name(self.file)
        if self.kind == CHECKPOINT:
            return f"{name} (checkpoint)"
        lines = key_lines(self.file)
        line = lines.get(f"{self.entry}.{self.key}".strip(".")) or lines.get(self.entry)
        return f"{name}, line {line}" if line else name

    @property
    def is_asked(self) -> bool:
        """Whether the user gave the value: on the command line or in a method configuration."""
        return self.kind in (COMMAND_LINE, METHOD)


DEFAULT, CARD, METHOD, PUBLISHED = "default", "card", "method configuration", "published row"
AUTOMATIC, BACKBONE, CHECKPOINT = "automatic", "backbone", "checkpoint"
COMMAND_LINE = "command line"


class Draft:
    """A configuration under construction.

    Attributes:
        cfg: the configuration. origins: by key, for every key that is not at its default.
    """

    def __init__(self, method: type[Reader]) -> None:
        """Args: method: whose configuration it is."""
        self.method = method
        self.cfg = default_config()
        self.origins: dict[str, Origin] = {}

    def put(self, name: str, value: object, origin: Origin) -> None:
        """Set one key. Raises NerpError, naming the origin, as the function `put` does."""
        origin = Origin(origin.kind, origin.file, origin.entry, name)
        said = self.method.disregards(name, value)
        if said is not None:
            if said:
                say(f"{origin}: {said}")
            return
        if is_settled(self.method, name, value, origin):
            return
        means = own_setting(self.method, name, value, origin, origin.kind != COMMAND_LINE)
        if means is not None:
            put(self.cfg, *means, origin)
            self.origins[own_name(means[0])] = origin

    def merge(self, layer: Mapping[str, object], origin: Origin) -> None:
        """Put every leaf of the nested mapping `layer` on top. Raises NerpError as `put` does."""
        for name, value in leaves(layer):
            self.put(name, value, origin)

    def origin(self, name: str) -> Origin:
        """Where a key's value comes from."""
        return self.origins.get(name, Origin(DEFAULT))


def keys(node: Mapping[str, object], prefix: str = "") -> Iterable[str]:
    """The full name of every key of a configuration, in order."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def get(cfg: CN, name: str) -> object:
    """The value at a key's full name."""
    node = cfg
    for part in name.split("."):
        node = node[part]
    return node


def put(cfg: CN, name: str, value: object, source: object) -> None:
    """Set one key, by its full name, to what `nerp.settings.defaults` says it takes.

    Raises NerpError, beginning with `source`, where the key does not exist or does not take the
    value.
    """
    name = own_name(name)
    *parents, leaf = name.split(".")
    node, path = cfg, ""
    for part in parents:
        if part not in node or not isinstance(node[part], CN):
            raise _unknown_key(name, node, path, source)
        node, path = node[part], f"{path}{part}."
    if leaf not in node:
        raise _unknown_key(name, node, path, source)
    if isinstance(node[leaf], CN):
        raise NerpError(f"{source}: {name} is {brief(value)}; it takes "
                        f"{', '.join(node[leaf])} with a value each")
    node[leaf] = key(name).read(value, _Place(source, name))


def check_options(options: Mapping[str, str]) -> None:
    """Raise NerpError, as `put` does, for a command line's keys and values that are wrong for every
    method. No method is imported, so this is fast. The keys of a method are checked later."""
    cfg, origin = common_config(), Origin(COMMAND_LINE)
    for name, value in options.items():
        if not is_methods(name) and not is_settled(None, name, value, origin):
            put(cfg, name, value, origin)


@dataclass(frozen=True)
class _Place:
    """The beginning of a message about a key. It is put into words only if there is a message."""

    source: object
    name: str

    def __str__(self) -> str:
        return f"{self.source}: {self.name}"


def merge(cfg: CN, layer: Mapping[str, object], source: str) -> None:
    """Put every leaf of the nested mapping `layer` into `cfg`. Raises NerpError as `put` does."""
    for name, value in leaves(layer):
        put(cfg, name, value, source)


def leaves(layer: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """(full name, value) of every leaf of a nested mapping."""
    for name, value in layer.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _unknown_key(name: str, node: CN, path: str, source: object) -> NerpError:
    known = [path + leaf for leaf in node]
    known += [other for other in RELEASE_NAMES if path and other.startswith(path)]
    error = unknown("configuration key", name, known)
    return NerpError(f"{source}: {error}")
