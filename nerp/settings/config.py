"""A run's configuration: how the layers above the defaults are put together.

Later layers win: defaults, dataset card, method configuration (then its PER_DATASET row),
NeRP's settings for that method, protocol and dataset, command-line flags, KEY VALUE pairs.
Key names are those of CoOp's family of repositories wherever those have one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from yacs.config import CfgNode as CN

from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.base.paths import shipped
from nerp.base.printable import brief
from nerp.base.registry import TRAINERS, unknown
from nerp.files.yaml_file import load_yaml, mapping
from nerp.settings.defaults import KEYS, dataset_defaults, default_config, key
from nerp.settings.protocols import NERP_SUFFIX, SAR_SUFFIX, plain_name, protocol, trained_name

# Keys of CoOp's family of repositories that nothing here reads, and where what they ask for is.
_ELSEWHERE = {
    "TEST.PER_CLASS_RESULT": "result.json of every run has the accuracy of each class "
                             "(per_class_accuracy)",
    "TEST.COMPUTE_CMAT": "nerp test --save-confusion writes the confusion matrix to confusion.csv",
}
# What the NeRP release calls its settings -> what they are called here.
_RELEASE_NAMES = {
    **{f"TEST.{name}": f"NERP.{name}" for name in (
        "TAU", "THRES", "RESIDUAL_TEXT_PRIOR", "RESIDUAL_IMAGE_PRIOR", "FLIP_RULE",
        "FLIP_BY_PROB", "FLIP_BY_ENTROPY", "ENTROPY_THRES",
    )},
    "TEST.TEXT_PRIOR_COE": "NERP.C_TEXT",
    "TEST.IMAGE_PRIOR_COE": "NERP.C_IMAGE",
}
# Keys that only one rule reads: to give one is to ask for that rule.
_OF_THE_FLIP = {*_RELEASE_NAMES.values(), "NERP.THRESHOLDS"}
_OF_A_SHIFT = {"NERP.REFERENCES", "NERP.STRENGTH", "NERP.SCOPE"}
_OF_PAIRS = {"NERP.PAIRS", "NERP.PAIRS_FILE", "NERP.PAIRS_NEIGHBOURS", "NERP.PAIRS_QUANTILE"}
# What the name of a key begins with.
_NODES = {name.partition(".")[0] for name in KEYS}
# What is settled before the rest of a command line counts.
_CHOICES = ("TASK", "NERP.RULE", "NERP.THRESHOLDS")
# λ of SAR: the key, the file with the values by method and dataset, what they were chosen with.
_SAR_WEIGHT = "TRAINER.SAR.WEIGHT"
_SAR_FILE = "sar.yaml"
_SAR_SHOTS = 16


def keys(node: Mapping, prefix: str = "") -> Iterable[str]:
    """The full name of every key of a configuration, in order."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def get(cfg: CN, name: str):
    """The value at a key's full name."""
    node = cfg
    for part in name.split("."):
        node = node[part]
    return node


def put(cfg: CN, name: str, value, source: str) -> None:
    """Set one key, by its full name, to what `nerp.settings.defaults` says it takes.

    Raises NerpError, naming `source`, where the key does not exist or does not take the value.
    """
    name = _RELEASE_NAMES.get(name, name)
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
    node[leaf] = key(name).read(value, f"{source}: {name}")


def merge(cfg: CN, layer: object, source: str) -> None:
    """Put every leaf of the nested mapping `layer` into `cfg`. Raises NerpError as `put` does."""
    for name, value in mapping(layer, source).items():
        _merge(cfg, str(name), value, source)


def _merge(cfg: CN, name: str, value, source: str) -> None:
    if isinstance(value, Mapping):
        for leaf, inner in value.items():
            _merge(cfg, f"{name}.{leaf}", inner, source)
    else:
        put(cfg, name, value, source)


def _unknown_key(name: str, node: CN, path: str, source: str) -> NerpError:
    if name in _ELSEWHERE:
        return NerpError(f"{source}: {name}: leave it out; {_ELSEWHERE[name]}")
    known = [path + leaf for leaf in node]
    known += [other for other in _RELEASE_NAMES if path and other.startswith(path)]
    error = unknown("configuration key", name, known)
    return NerpError(f"{source}: {error}")


def shipped_cards() -> dict[str, Path]:
    """Card name (eurosat) -> file, for every card in `datasets/`."""
    return {path.stem: path for path in sorted(shipped("datasets").glob("*.yaml"))}


def find_card(name: str) -> Path:
    """The card called `name` by file or registry name (eurosat, EuroSAT), or the file of a card of
    one's own (mine.yaml).

    Raises NerpError, listing the cards, if there is none.
    """
    return find_card_file(name) if name.endswith((".yaml", ".yml")) else _find_shipped(name)


def _find_shipped(name: str) -> Path:
    cards = shipped_cards()
    if name in cards:
        return cards[name]
    for path in cards.values():
        if load_yaml(path)["DATASET"]["NAME"] == name:
            return path
    raise unknown("dataset", name, cards, own="give the file of its card, such as mine.yaml")


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
    return _find_shipped(node["NAME"]) if set(node) == {"NAME"} else path


def open_card(file: Path, root: str) -> CN:
    """A configuration that has the node DATASET alone: a card, and where its data are.

    Cheaper than `build_config`, which knows every method. Raises NerpError as that does.
    """
    return card_config(_read_card(file).get("DATASET", {}), root, str(file))


def card_config(keys: object, root: str, source: str) -> CN:
    """`open_card` of a card's keys below DATASET, that are from `source`."""
    cfg = CN({"DATASET": dataset_defaults()})
    merge(cfg, {"DATASET": keys}, source)
    put(cfg, "DATASET.ROOT", root, "command line")
    _check_card(cfg, source)
    cfg.freeze()
    return cfg


def _check_card(cfg: CN, source: str) -> None:
    if not cfg.DATASET.NAME:
        raise NerpError(f"{source}: a dataset card needs DATASET.NAME")


def _read_card(file: Path) -> dict:
    """A card's content. Raises NerpError for one that says where this machine has its files: that
    is for the command line, whoever wrote the card."""
    content = load_yaml(file)
    node = content.get("DATASET")
    said = {*content, *(f"DATASET.{name}" for name in node or () if isinstance(node, Mapping))}
    for name, flag in (("OUTPUT_DIR", "--output-dir"), ("DATASET.ROOT", "--root")):
        if name in said:
            raise NerpError(f"{file}: {name}: a dataset card does not say this; {flag} does")
    return content


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
    seed: int | str | None = None
    output_dir: str = ""
    opts: list[str] = field(default_factory=list)


def build_config(request: Request) -> CN:
    """The frozen configuration of a run.

    Raises NerpError for an unknown trainer, dataset, file or key, or a value that a key does not
    take.
    """
    trained = trained_name(request.trainer)
    canonical = TRAINERS.canonical(trained)
    cfg = default_config()
    options = options_of(request.opts)

    card = card_file(request)
    merge(cfg, _read_card(card), str(card))
    _check_card(cfg, str(card))
    given = set(options)
    if request.config_file:
        path = find_method_file(request.config_file)
        layer = load_yaml(path)
        rows = mapping(layer.pop("PER_DATASET", {}), f"{path}, PER_DATASET")
        row = mapping(rows.get(cfg.DATASET.NAME, {}), f"{path}, PER_DATASET.{cfg.DATASET.NAME}")
        merge(cfg, layer, str(path))
        merge(cfg, row, f"{path}, PER_DATASET.{cfg.DATASET.NAME}")
        given |= {_RELEASE_NAMES.get(name, name) for part in (layer, row) for name in keys(part)}

    settled = _CHOICES if request.trainer.endswith(NERP_SUFFIX) else ()
    merge_options(cfg, {k: v for k, v in options.items() if k in settled})
    if settled:
        _settle_rule(cfg, canonical, given)

    cfg.TRAINER.NAME = canonical + request.trainer[len(trained):]
    for name, value in (
        ("SEED", request.seed),
        ("OUTPUT_DIR", request.output_dir),
        ("DATASET.ROOT", request.root),
    ):
        if value not in (None, ""):
            put(cfg, name, value, "command line")
    merge_options(cfg, {k: v for k, v in options.items() if k not in settled})
    if canonical.endswith(SAR_SUFFIX) and _SAR_WEIGHT not in given:
        _settle_weight(cfg, plain_name(canonical))
    _follow_backbone(cfg)
    _check(cfg)
    cfg.freeze()
    return cfg


def _follow_backbone(cfg: CN) -> None:
    """Let INPUT say of the images what the backbone was trained with, where open_clip knows it."""
    if ":" not in cfg.MODEL.BACKBONE.NAME:
        return
    from nerp.clip.backbones import find_backbone

    backbone = find_backbone(cfg.MODEL.BACKBONE.NAME)
    for name, value in backbone.inputs.items():
        before = get(cfg, name)
        put(cfg, name, value, f"backbone {backbone.name}")
        if get(cfg, name) != before:
            say(f"{name} {before} gives way to {get(cfg, name)}, which {backbone.name} was trained "
                "with")


def merge_options(cfg: CN, options: Mapping[str, str]) -> None:
    """Put KEY VALUE pairs of the command line into `cfg`."""
    for name, value in options.items():
        put(cfg, name, value, "command line")


def options_of(opts: Sequence[str], where: str = "command line") -> dict[str, str]:
    """Key -> value of KEY VALUE and KEY=VALUE, by our names. Raises NerpError for half a pair."""
    found = {}
    rest = iter(opts)
    for word in rest:
        name, equals, value = word.partition("=")
        if not equals:
            value = next(rest, None)
        if value is None:
            raise NerpError(f"{where}: expected KEY VALUE pairs, found {' '.join(opts)!r}")
        found[_RELEASE_NAMES.get(name, name)] = value
    return found


def begins_pair(word: str) -> bool:
    """Whether a word of a command line is KEY or KEY=VALUE, and no name, file or number."""
    top, *rest = word.partition("=")[0].split(".")
    return top in _NODES and all(part[:1].isupper() for part in rest)


def is_shipped(card: Path) -> bool:
    """Whether a card is one of those in `datasets/`."""
    return shipped_cards().get(card.stem) == card


def card_file(request: Request) -> Path:
    """The dataset card a command line asks for. Raises NerpError if it asks for none."""
    if request.dataset_config_file:
        return find_card_file(request.dataset_config_file)
    if request.dataset:
        return find_card(request.dataset)
    raise NerpError("which dataset? --dataset NAME, or the FILE of a card of your own; there are: "
                    + ", ".join(shipped_cards()))


def _settle_rule(cfg: CN, trainer: str, given: set[str]) -> None:
    """Turn NERP.RULE auto into the rule it stands for, and fill in a flip's published settings.

    Auto is the flip where one of its own keys is `given`, or where its settings are published for
    this method, dataset and protocol and asked for; else the shift.
    """
    nerp, where = cfg.NERP, f"{trainer} on {cfg.DATASET.NAME} ({protocol(cfg.TASK).name})"
    file = shipped("configs").joinpath("nerp", trainer, f"{protocol(cfg.TASK).name}.yaml")
    row = (load_yaml(file) if file.is_file() else {}).get(cfg.DATASET.NAME)
    published = nerp.THRESHOLDS == "published"
    if nerp.RULE == "auto":
        shifts, flips = given & _OF_A_SHIFT, given & (_OF_THE_FLIP | _OF_PAIRS)
        if nerp.THRESHOLDS == "calibrated":
            flips -= {"NERP.THRESHOLDS"}  # a shift can be calibrated too
        if shifts:
            flips -= _OF_PAIRS  # NERP.SCOPE pairs reads them too
        if shifts and flips:
            raise NerpError(f"{min(flips)} is the flip's and {min(shifts)} a shift's: say which is "
                            "meant, NERP.RULE flip or NERP.RULE shift")
        nerp.RULE = "flip" if flips or published and row and not shifts else "shift"
        if flips:
            say(f"NeRP: {min(flips)} is a key of the flip, so the rule is the flip (NERP.RULE)")
        elif nerp.RULE == "shift" and published:
            say(f"NeRP: no published settings for {where}; the rule is the automatic shift")
    if nerp.RULE == "flip" and published:
        if row:
            before = {name: get(cfg, name) for name in keys(row)}
            merge(cfg, row, f"{file}, {cfg.DATASET.NAME}")
            say(f"NeRP: the published settings for {where}")
            for name, value in before.items():
                if value not in (key(name).default, get(cfg, name)):
                    say(f"{name} {value} gives way to {get(cfg, name)}, the published one "
                        "(NERP.THRESHOLDS default keeps it)")
        else:
            nerp.THRESHOLDS = "default"
            say(f"NeRP: no published settings for {where}; the defaults apply")


def _settle_weight(cfg: CN, method: str) -> None:
    """Fill in SAR's weight for this method, dataset and number of training images."""
    file = shipped("configs") / _SAR_FILE
    tables = load_yaml(file)
    row = tables.get(method, tables["default"])
    few = 0 < cfg.DATASET.NUM_SHOTS < _SAR_SHOTS and row.get("fewer_shots")
    weight = few or row.get(cfg.DATASET.NAME)
    if weight:
        put(cfg, _SAR_WEIGHT, weight, str(file))


def _check(cfg: CN) -> None:
    """What keys must be to each other; what each takes by itself is in `nerp.settings.defaults`."""
    optim = cfg.OPTIM
    if optim.WARMUP_EPOCH > optim.MAX_EPOCH:
        raise NerpError(f"OPTIM.WARMUP_EPOCH is {optim.WARMUP_EPOCH}; it takes at most the number "
                        f"of epochs, OPTIM.MAX_EPOCH {optim.MAX_EPOCH}")
    if optim.WARMUP_EPOCH > 0 and optim.WARMUP_TYPE != "constant":
        raise NerpError("OPTIM.WARMUP_TYPE: only a constant warm-up is implemented")
    low, high = cfg.INPUT.RRCROP_SCALE
    if low > high:
        raise NerpError(f"INPUT.RRCROP_SCALE is {cfg.INPUT.RRCROP_SCALE}; the smaller share of the "
                        "image comes first")
