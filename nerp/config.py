"""A run's configuration: how the layers above the defaults are put together.

Later layers win: defaults, dataset card, method configuration (then its PER_DATASET row),
NeRP's settings for that method, protocol and dataset, command-line flags, KEY VALUE pairs.
Key names are those of CoOp's family of repositories wherever those have one.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from yacs.config import CfgNode as CN

from nerp.defaults import dataset_defaults, default_config
from nerp.errors import NerpError
from nerp.log import say
from nerp.paths import shipped
from nerp.protocols import NERP_SUFFIX, plain_name, protocol
from nerp.registry import TRAINERS, unknown

# What does not change a run's numbers, and so is left out of its digest.
_VOLATILE = (
    "OUTPUT_DIR",
    "USE_CUDA",
    "DATASET.ROOT",
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.CACHE_MB",
    "TRAIN.PRINT_FREQ",
    "TRAIN.CHECKPOINT_FREQ",
    "DATASET.CITATION",
    "DATASET.LICENCE",
    "DATASET.SOURCES",
)


# Keys of CoOp's family of repositories that nothing here reads, and where what they ask for is.
_ELSEWHERE = {
    "TEST.PER_CLASS_RESULT": "result.json of every run has the accuracy of each class "
                             "(per_class_accuracy)",
    "TEST.COMPUTE_CMAT": "nerp test --save-confusion writes the confusion matrix to confusion.csv",
}


def keys(node: Mapping, prefix: str = "") -> Iterable[str]:
    """Every full key of a configuration, in order."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def get(cfg: CN, key: str):
    """The value at a full key."""
    node = cfg
    for part in key.split("."):
        node = node[part]
    return node


def put(cfg: CN, key: str, value, source: str) -> None:
    """Set one key, converted to the type of its default.

    Raises NerpError, naming `source`, where the key does not exist or the type does not fit.
    """
    *parents, leaf = key.split(".")
    node, path = cfg, ""
    for part in parents:
        if part not in node or not isinstance(node[part], CN):
            raise _unknown_key(key, node, path, source)
        node, path = node[part], f"{path}{part}."
    if leaf not in node or isinstance(node[leaf], CN):
        raise _unknown_key(key, node, path, source)
    node[leaf] = _coerce(value, node[leaf], key, source)


def merge(cfg: CN, layer: Mapping, source: str) -> None:
    """Put every leaf of the nested mapping `layer` into `cfg`. Raises NerpError as `put` does."""
    for name, value in layer.items():
        _merge(cfg, str(name), value, source)


def _merge(cfg: CN, key: str, value, source: str) -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _merge(cfg, f"{key}.{name}", inner, source)
    else:
        put(cfg, key, value, source)


def _unknown_key(key: str, node: CN, path: str, source: str) -> NerpError:
    if key in _ELSEWHERE:
        return NerpError(f"{source}: {key}: leave it out; {_ELSEWHERE[key]}")
    error = unknown("configuration key", key, [path + name for name in node])
    return NerpError(f"{source}: {error}")


def _coerce(value, default, key: str, source: str):
    if isinstance(value, str) and not isinstance(default, str):
        text = {"true": "True", "false": "False"}.get(value, value)
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            raise _mismatch(value, default, key, source) from None
    if isinstance(default, bool):
        fits = isinstance(value, bool)
    elif isinstance(default, float):
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        value = float(value) if fits else value
    elif isinstance(default, tuple | list):
        fits = isinstance(value, tuple | list)
        value = type(default)(value) if fits else value
    else:
        fits = type(value) is type(default)
    if not fits:
        raise _mismatch(value, default, key, source)
    return value


def _mismatch(value, default, key: str, source: str) -> NerpError:
    kinds = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
    wanted = kinds.get(type(default), "a list such as " + repr(default))
    return NerpError(f"{source}: {key} is {value!r}; it takes {wanted} (default {default!r})")


def load_yaml(path: Path) -> dict:
    """The mapping in a YAML file. Raises NerpError for a file that is missing or is not one."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NerpError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise NerpError(f"{path}: not a readable YAML file: {reason}") from None
    if not isinstance(content, Mapping):
        raise NerpError(f"{path}: expected KEY: value lines, found {type(content).__name__}")
    return dict(content)


def shipped_cards() -> dict[str, Path]:
    """Card name (eurosat) -> file, for every card in `datasets/`."""
    return {path.stem: path for path in sorted(shipped("datasets").glob("*.yaml"))}


def find_card(name: str) -> Path:
    """The card called `name` by file or registry name (eurosat, EuroSAT).

    Raises NerpError, listing the cards, if there is none.
    """
    cards = shipped_cards()
    if name in cards:
        return cards[name]
    for path in cards.values():
        if load_yaml(path)["DATASET"]["NAME"] == name:
            return path
    raise unknown("dataset", name, cards)


def find_card_file(file: str) -> Path:
    """The card behind `--dataset-config-file`.

    A file that only names a dataset, as in CoOp's repositories, stands for the shipped card of
    that name; so does a path such as configs/datasets/eurosat.yaml where no such file is.
    """
    path = Path(file)
    if not path.exists():
        if path.stem in shipped_cards():
            return shipped_cards()[path.stem]
        raise NerpError(f"{file}: no such dataset card, and none called {path.stem} ships: "
                        f"{', '.join(shipped_cards())}")
    node = load_yaml(path).get("DATASET")
    if not isinstance(node, Mapping) or "NAME" not in node:
        raise NerpError(f"{file}: a dataset card needs DATASET.NAME")
    return find_card(node["NAME"]) if set(node) == {"NAME"} else path


def open_card(file: Path, root: str) -> CN:
    """A configuration that has the node DATASET alone: a card, and where its data are.

    Cheaper than `build_config`, which knows every method. Raises NerpError as that does.
    """
    cfg = CN({"DATASET": dataset_defaults()})
    merge(cfg, {"DATASET": load_yaml(file).get("DATASET", {})}, str(file))
    put(cfg, "DATASET.ROOT", root, "command line")
    _check_card(cfg, file)
    cfg.freeze()
    return cfg


def _check_card(cfg: CN, file: Path) -> None:
    if cfg.DATASET.TEMPLATE.count("{}") != 1:
        raise NerpError(f"{file}: DATASET.TEMPLATE needs one {{}} for the class name: "
                        f"{cfg.DATASET.TEMPLATE!r}")


def find_method_file(file: str) -> Path:
    """The method configuration behind `--config-file`: that path, or the same below the shipped
    `configs/`. Raises NerpError where neither exists, listing what the folder has."""
    path = Path(file)
    parts = path.parts[1:] if path.parts and path.parts[0] == "configs" else path.parts
    candidates = (path, shipped("configs").joinpath(*parts))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    there = sorted(p.name for p in candidates[-1].parent.glob("*.yaml"))
    listing = f" {candidates[-1].parent} has: {', '.join(there)}" if there else ""
    raise NerpError(f"{file}: no such method configuration.{listing}")


@dataclass
class Request:
    """What a command line asks for; `build_config` makes the configuration of it."""

    trainer: str
    dataset: str = ""
    dataset_config_file: str = ""
    config_file: str = ""
    root: str = ""
    seed: int | None = None
    output_dir: str = ""
    opts: list[str] = field(default_factory=list)


def build_config(request: Request) -> CN:
    """The frozen configuration of a run.

    Raises NerpError for an unknown trainer, dataset, file or key, or a value of the wrong type.
    """
    plain = plain_name(request.trainer)
    canonical = TRAINERS.canonical(plain)
    cfg = default_config()
    options = _pairs(request.opts)

    card = card_file(request)
    merge(cfg, load_yaml(card), str(card))
    _check_card(cfg, card)
    if request.config_file:
        path = find_method_file(request.config_file)
        layer = load_yaml(path)
        rows = layer.pop("PER_DATASET", {})
        merge(cfg, layer, str(path))
        merge(cfg, rows.get(cfg.DATASET.NAME, {}), f"{path}, PER_DATASET.{cfg.DATASET.NAME}")

    # These decide whether and which settings table applies.
    merge_options(cfg, {k: v for k, v in options.items() if k in ("TASK", "NERP.THRESHOLDS")})
    if request.trainer.endswith(NERP_SUFFIX) and cfg.NERP.THRESHOLDS == "published":
        _merge_nerp_settings(cfg, canonical)

    cfg.TRAINER.NAME = canonical + request.trainer[len(plain):]
    for key, value in (
        ("SEED", request.seed),
        ("OUTPUT_DIR", request.output_dir),
        ("DATASET.ROOT", request.root),
    ):
        if value not in (None, ""):
            put(cfg, key, value, "command line")
    merge_options(cfg, {k: v for k, v in options.items() if k != "NERP.THRESHOLDS"})
    _check(cfg)
    cfg.freeze()
    return cfg


def merge_options(cfg: CN, options: Mapping[str, str]) -> None:
    """Put KEY VALUE pairs of the command line into `cfg`."""
    for key, value in options.items():
        put(cfg, key, value, "command line")


def _pairs(opts: list[str]) -> dict[str, str]:
    if len(opts) % 2:
        raise NerpError(f"command line: expected KEY VALUE pairs, found {' '.join(opts)!r}")
    return dict(zip(opts[::2], opts[1::2], strict=True))


def card_file(request: Request) -> Path:
    """The dataset card a command line asks for. Raises NerpError if it asks for none."""
    if request.dataset_config_file:
        return find_card_file(request.dataset_config_file)
    if request.dataset:
        return find_card(request.dataset)
    raise NerpError("which dataset? --dataset NAME or --dataset-config-file FILE; there are: "
                    + ", ".join(shipped_cards()))


def _merge_nerp_settings(cfg: CN, trainer: str) -> None:
    table = shipped("configs").joinpath("nerp", trainer, f"{protocol(cfg.TASK).name}.yaml")
    name = cfg.DATASET.NAME
    rows = load_yaml(table) if table.is_file() else {}
    if name in rows:
        merge(cfg, rows[name], f"{table}, {name}")
        say(f"NeRP: the published settings for {trainer} on {name} ({protocol(cfg.TASK).name})")
    else:
        cfg.NERP.THRESHOLDS = "default"
        say(f"NeRP: no published settings for {trainer} on {name} ({protocol(cfg.TASK).name}); "
            "the defaults apply")


def _check(cfg: CN) -> None:
    protocol(cfg.TASK)
    choices = {
        "DATASET.SUBSAMPLE_CLASSES": ("all", "base", "new"),
        "TEST.SPLIT": ("test", "val"),
        "OPTIM.NAME": ("sgd", "adamw"),
        "OPTIM.LR_SCHEDULER": ("cosine",),
        "MODEL.BACKBONE.ACTIVATION": ("auto", "quick_gelu", "gelu"),
        "NERP.FLIP_RULE": ("OR", "AND"),
        "NERP.THRESHOLDS": ("published", "default", "calibrated"),
        "INPUT.INTERPOLATION": ("bicubic", "bilinear", "nearest"),
    }
    for key, allowed in choices.items():
        if get(cfg, key) not in allowed:
            raise NerpError(f"{key} is {get(cfg, key)!r}; it is one of {', '.join(allowed)}")
    if cfg.OPTIM.WARMUP_EPOCH and cfg.OPTIM.WARMUP_TYPE != "constant":
        raise NerpError("OPTIM.WARMUP_TYPE: only a constant warm-up is implemented")
    for key in ("DATALOADER.TRAIN_X.BATCH_SIZE", "DATALOADER.TEST.BATCH_SIZE", "OPTIM.MAX_EPOCH"):
        if get(cfg, key) < 1:
            raise NerpError(f"{key} is {get(cfg, key)}; it must be at least 1")


def digest(cfg: CN) -> str:
    """16 hex digits that two configurations share when they ask for the same numbers."""
    text = json.dumps(_decisive(cfg), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def difference(old: Mapping, new: Mapping) -> list[str]:
    """`KEY: old -> new` for every key by which two configurations ask for other numbers."""
    before, after = _decisive(old), _decisive(new)
    return [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _decisive(cfg: Mapping) -> dict[str, object]:
    """The keys that a run's numbers depend on; NeRP's do not decide about a run without it."""
    corrected = get(cfg, "TRAINER.NAME").endswith(NERP_SUFFIX)
    return {
        key: get(cfg, key)
        for key in keys(cfg)
        if key not in _VOLATILE and (corrected or not key.startswith("NERP."))
    }
