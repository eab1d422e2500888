"""Pair bundles: the published `class_pairs.json.gz`, read and written.

A bundle is a JSON object, gzipped or plain. A key is `<Dataset>_sub` for base-to-novel, `<Dataset>`
for cross-dataset; its value is a list of [class name, class name]. A bundle that nerp writes also
has the key `_provenance`: for each entry, the source of its pairs and what that source looked at.
Readers of the published format ignore this key.
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nerp.base.errors import NerpError
from nerp.base.paths import write_bytes
from nerp.base.printable import brief
from nerp.correction.looked_at import ORDER, UNKNOWN
from nerp.data.benchmark import comparable, distinct
from nerp.files.json_file import read_json

PROVENANCE = "_provenance"
_SHOWN = 20  # entries, in a message


def bundle_key(dataset: str, task: str) -> str:
    """The key of a dataset's entry: `<Dataset>_sub` for base-to-novel."""
    return f"{dataset}_sub" if task == "B2N" else dataset


def read_bundle(file: str | Path) -> dict[str, object]:
    """A bundle's whole content. Raises NerpError, naming the file, if it cannot be read."""
    file = Path(file).expanduser()
    if not file.exists():
        raise NerpError(f"NERP.PAIRS_FILE: no file {file}")
    return read_json(file)


def bundle_pairs(
    content: Mapping[str, object], key: str, file: str | Path
) -> list[tuple[str, str]]:
    """The pairs of class names under `key`. Raises NerpError if there are none."""
    if key not in content:
        raise NerpError(f"{file}: no entry {key}, which TASK and the dataset ask for; "
                        f"{entries(content)}")
    try:
        return _listed(content[key])
    except (TypeError, ValueError):
        raise NerpError(f"{file}: {key} must be a list of [class name, class name], such as "
                        '[["River", "Lake"]]') from None


def _listed(value: object) -> list[tuple[str, str]]:
    """The pairs of an entry. Raises TypeError or ValueError if it is not a list of pairs."""
    if not isinstance(value, list):
        raise TypeError
    pairs = [(a, b) for a, b in value]
    if not all(isinstance(name, str) for pair in pairs for name in pair):
        raise TypeError
    return pairs


def entries(content: Mapping[str, object]) -> str:
    """The entries of a bundle and the number of pairs in each, in words."""
    said = []
    for key, value in content.items():
        if key != PROVENANCE:
            said.append(f"{brief(key)} ({counted(len(value) if isinstance(value, list) else 0)})")
    shown = ", ".join(said[:_SHOWN]) + (f" and {len(said) - _SHOWN} more" * (len(said) > _SHOWN))
    return f"it has {shown}" if said else "it has no entries"


def counted(pairs: int) -> str:
    """A number of pairs in words."""
    return f"{pairs} pair{'' if pairs == 1 else 's'}"


def looked_at(content: Mapping[str, object], key: str) -> str:
    """What the source of the pairs under `key` looked at, as the bundle says."""
    origin = _origins(content).get(key)
    said = origin.get("looked_at") if isinstance(origin, dict) else None
    return said if isinstance(said, str) and said in ORDER else UNKNOWN


def _origins(content: Mapping[str, object]) -> dict[str, object]:
    origins = content.get(PROVENANCE)
    return origins if isinstance(origins, dict) else {}


def write_bundle(file: str | Path, content: Mapping[str, object]) -> None:
    """Write a bundle, gzipped if the name ends in .gz. Equal contents give equal bytes."""
    data = json.dumps(dict(content), indent=1).encode()
    write_bytes(file, gzip.compress(data, mtime=0) if str(file).endswith(".gz") else data)


def add_entry(
    file: str | Path, key: str, pairs: Sequence[Sequence[str]], source: str, looked_at: str
) -> None:
    """Put `pairs` and what they have looked at under `key`; other entries of the file stay."""
    content = read_bundle(file) if Path(file).expanduser().exists() else {}
    content[key] = [list(pair) for pair in pairs]
    origin = {"source": source, "looked_at": looked_at}
    content[PROVENANCE] = {**_origins(content), key: origin}
    write_bundle(Path(file).expanduser(), content)


@dataclass(frozen=True)
class MatchedPairs:
    """Pairs of class indices [n][2], and the names that match no class."""

    pairs: list[tuple[int, int]]
    unknown: list[str]


def match_names(pairs: Sequence[tuple[str, str]], classnames: Sequence[str]) -> MatchedPairs:
    """The class indices of pairs of names. Case does not matter, and underscores are spaces. If two
    classes have one name, they match the names that `distinct` gives them.

    A pair with an unknown name is left out.
    """
    index = {comparable(name): i
             for names in (classnames, distinct(classnames)) for i, name in enumerate(names)}
    matched: list[tuple[int, int]] = []
    missing: dict[str, None] = {}
    for pair in pairs:
        found = [index.get(comparable(name)) for name in pair]
        missing.update((name, None) for name, i in zip(pair, found, strict=True) if i is None)
        first, second = found
        if first is not None and second is not None:
            matched.append((first, second))
    return MatchedPairs(matched, list(missing))
