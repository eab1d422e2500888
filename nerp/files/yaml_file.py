"""YAML files: only plain values, and no more of them than fit into the file."""

from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path

import yaml

from nerp.base.errors import NerpError
from nerp.base.printable import brief
from nerp.files.opening import read_text, reading

LARGEST = 2**18  # bytes; the largest file that ships has a fortieth of it
_MOST_VALUES = 100_000  # with every alias written out
_DEEPEST = 50
_MOST_KEPT = 100  # files whose lines are remembered


def load_yaml(path: str | Path) -> dict[str, object]:
    """The KEY: value lines of a YAML file: names, numbers, truth values, texts, lists of them.

    Raises NerpError, naming the file, if it is missing or is no such file, or if its aliases stand
    for more values than a configuration can have.
    """
    text = read_text(path, LARGEST)
    with reading(path, "a readable YAML file"):
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            _check(node)
            content = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
        return dict(mapping(_plain(content), str(path)))


@lru_cache(maxsize=_MOST_KEPT)
def key_lines(path: str | Path) -> Mapping[str, int]:
    """Full name (OPTIM.LR) -> its line number, for every key of a YAML file that `load_yaml` reads;
    {} if it can no longer be read."""
    try:
        text = read_text(path, LARGEST)
        with reading(path, "a readable YAML file"):
            root = yaml.compose(text, yaml.SafeLoader)
            _check(root)
    except NerpError:
        return {}
    return dict(_lines(root, ""))


def _lines(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield f"{prefix}{name.value}", name.start_mark.line + 1
            yield from _lines(value, f"{prefix}{name.value}.")


def mapping(value: object, source: str) -> Mapping[str, object]:
    """`value`, which must be a mapping. Raises NerpError, beginning with `source`, if it is not."""
    if not isinstance(value, Mapping):
        raise NerpError(f"{source}: expected KEY: value lines, found {brief(value)}")
    return value


def _check(root: yaml.Node | None) -> None:
    """Raise ValueError for a tree that is too large with every alias written out, or that contains
    itself."""
    open_nodes: set[int] = set()

    @cache  # a node that aliases lead to is counted again, but not walked again
    def size(node: yaml.Node | None) -> int:
        if not isinstance(node, yaml.CollectionNode):
            return 1
        if id(node) in open_nodes or len(open_nodes) >= _DEEPEST:
            raise ValueError("it is nested too deeply, or holds itself")
        open_nodes.add(id(node))
        total = 1
        for child in node.value:
            total += sum(map(size, child)) if isinstance(child, tuple) else size(child)
            if total > _MOST_VALUES:
                raise ValueError(f"more than {_MOST_VALUES:,} values, aliases written out")
        open_nodes.discard(id(node))
        return total

    size(root)


def _plain(value: object) -> object:
    """`value`, which must consist of plain types. Raises ValueError for other types, and for names
    that are not text."""
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                raise ValueError(f"{brief(name)} is no name; put it in quotes")
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{brief(value)} is neither a number nor a text; put it in quotes")
