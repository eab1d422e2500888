"""Few-shot draws as Dassl's code keeps them: pickles of its Datum, read without running them."""

from pathlib import Path, PurePosixPath

from nerp.base.errors import NerpError
from nerp.data.benchmark import Benchmark, Item
from nerp.files.opening import MIB, opened, reading

_MOST = 256 * MIB
_PATH = "_impath"
_SHOWN = 3


def published_draw(bench: Benchmark, shots: int, seed: int) -> Path:
    """Where CoOp's code keeps a draw in the dataset's folder, whether or not it exists."""
    return bench.directory / "split_fewshot" / f"shot_{shots}-seed_{seed}.pkl"


def read_draw(file: str | Path, bench: Benchmark) -> tuple[list[Item], list[Item]]:
    """The training and validation items of `bench` that a pickle lists, in its order. Older pickles
    have no validation items.

    The paths in the pickle are those of another machine, so an item is identified by the end of its
    path. Raises NerpError for a file that is no draw, or that lists an image missing from the
    benchmark's lists.
    """
    from nerp.files.unpickle import unpickle  # it brings torch

    path = Path(file).expanduser()
    with opened(path) as content, reading(path, "a few-shot draw {train, val} as CoOp keeps it"):
        if path.stat().st_size > _MOST:
            raise ValueError(f"more than {_MOST:,} bytes")
        found = unpickle(content)
        if not isinstance(found, dict) or not isinstance(found.get("train"), list):
            raise ValueError("there is no list train")
        listed = [[_path(datum) for datum in found.get(split) or ()] for split in ("train", "val")]
    known = {item.path: item for item in (*bench.train, *bench.val)}
    items = [[_item(name, known) or name for name in names] for names in listed]
    lost = [name for names in items for name in names if isinstance(name, str)]
    if lost:
        raise NerpError(f"{path}: {len(lost)} of its images are not in the training and validation "
                        f"lists of {bench.name} ({', '.join(lost[:_SHOWN])}): another dataset or "
                        "another split file")
    train, val = ([item for item in part if isinstance(item, Item)] for part in items)
    return train, val


def _path(datum: object) -> str:
    state = getattr(datum, "state", None)
    path = state.get(_PATH) if isinstance(state, dict) else None
    if not isinstance(path, str):
        raise ValueError("an entry has no path of an image")
    return path.replace("\\", "/")


def _item(path: str, known: dict[str, Item]) -> Item | None:
    parts = PurePosixPath(path).parts
    ends = ("/".join(parts[first:]) for first in range(len(parts)))
    return next((known[end] for end in ends if end in known), None)
