"""A selection of runs: protocol, methods, datasets, seeds and so on, from options or a file."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nerp.base.errors import NerpError
from nerp.base.plugins import imported, load_named
from nerp.base.registry import unknown
from nerp.files.yaml_file import load_yaml
from nerp.settings.cards import refuse_places
from nerp.settings.defaults import KEYS
from nerp.settings.keys import flag
from nerp.settings.options import options_of

_RANGES = {"seeds": "SEED", "shots": "DATASET.NUM_SHOTS"}  # keys with the same range


@dataclass(frozen=True)
class Selection:
    """The runs to do. An empty list stands for the published one (configs/experiments.yaml).

    Attributes:
        protocol: by any of its names. methods: with or without _SAR and _NeRP. datasets: cards, by
            name or file; in cross_dataset the ones tested on. seeds, shots: whole numbers.
        backbones: names; all runs are done on each. Empty: those that the configurations name.
        source: the card that cross_dataset trains on; "" for the published one.
        phase: "all": everything the methods need, baselines included; "train" or "test": only
            those runs of the named methods.
        config: configurations to use instead of the published ones: by name or file, for every
            method, or METHOD=NAME or METHOD=FILE for one.
        imports: modules that register methods or the like, for every run (see `nerp.base.plugins`).
        root, output: the folders of the data and of the runs.
        options: KEY VALUE pairs for every run.
        save_logits: whether each test leaves predictions.npz.
    """

    protocol: str
    methods: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    shots: tuple[int, ...] = ()
    backbones: tuple[str, ...] = ()
    source: str = ""
    phase: str = "all"
    config: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    root: str = "data"
    output: str = "output"
    options: tuple[str, ...] = ()
    save_logits: bool = False


def read_selection(path: str | Path, imports: Iterable[str] = ()) -> dict[str, Any]:
    """The attributes of a `Selection` that a YAML file sets.

    Raises NerpError as `parse` does, for a file that says where this machine has its files, and for
    one that names modules which are not among the `imports` of the command line: nothing is
    imported because a file says so.
    """
    load_named()
    chosen = parse(load_yaml(Path(path)), str(path))
    for name in ("output", "root"):
        if name in chosen:
            raise NerpError(f"{path}: {name}: a selection does not say this; --{name} does")
    refuse_places(options_of(chosen.get("options", ())), f"{path}: options")
    missing = [name for name in chosen.pop("imports", ()) if name not in {*imports, *imported()}]
    if missing:
        words = " ".join(f"--import {shlex.quote(name)}" for name in missing)
        raise NerpError(f"{path}: imports: code that a file names is not run; if you trust it, add "
                        f"{words}")
    return chosen


def parse(values: Mapping[str, object], where: str) -> dict[str, Any]:
    """Attributes of a `Selection`, from YAML or from the command line.

    A list may be written as [a, b], "a,b" or "a b", `options` as [KEY, VALUE] or {KEY: VALUE}. A
    file's name may hold commas and spaces.
    Raises NerpError, naming `where`, for an unknown attribute or a value of the wrong kind.
    """
    kinds = {field.name: field.type for field in fields(Selection)}
    parsed: dict[str, Any] = {}  # each value has the type of its field
    for name, value in values.items():
        if name not in kinds:
            raise NerpError(f"{where}: {unknown('key', name, kinds)}")
        if isinstance(value, Mapping) and name == "config":
            value = [f"{method}={file}" for method, file in value.items()]
        elif isinstance(value, Mapping):
            value = [part for pair in value.items() for part in pair]
        parts = [str(part) for part in value] if isinstance(value, list) else [str(value)]
        if name == "options":
            options_of(parts, f"{where}: options")
        else:
            parts = [word for part in parts for word in _words(part)]
            if not parts and value != [] and kinds[name] not in (str, bool):
                raise NerpError(f"{where}: {name} is empty; leave it out for the published choice")
        if kinds[name] is bool:
            parsed[name] = flag(False).read(value, f"{where}: {name}")
        elif kinds[name] is str:
            parsed[name] = str(value)
        elif kinds[name] == tuple[str, ...]:
            parsed[name] = tuple(parts)
        elif all(part.isdecimal() for part in parts):
            range_of = KEYS[_RANGES[name]]
            parsed[name] = tuple(range_of.read(part.lstrip("0") or "0", f"{where}: {name}")
                                 for part in parts)
        else:
            raise NerpError(f"{where}: {name} is {value!r}; it takes whole numbers, such as 1,2,3")
    return parsed


def _words(part: str) -> list[str]:
    _, _, file = part.rpartition("=")  # of METHOD=FILE
    return [part] if Path(file).is_file() else part.replace(",", " ").split()
