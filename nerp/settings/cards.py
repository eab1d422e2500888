"""Where dataset cards and method configurations are, and what a card may contain."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from yacs.config import CfgNode as CN

from nerp.base.errors import NerpError
from nerp.base.paths import shipped
from nerp.base.registry import unknown
from nerp.files.yaml_file import load_yaml, mapping
from nerp.settings.defaults import dataset_defaults
from nerp.settings.tree import keys, merge, put


def shipped_cards() -> dict[str, Path]:
    """Card name (eurosat) -> file, for every card in `datasets/`."""
    return {path.stem: path for path in sorted(shipped("datasets").glob("*.yaml"))}


def is_shipped(card: Path) -> bool:
    """Whether a card is one of those in `datasets/`."""
    return shipped_cards().get(card.stem) == card


def find_card(name: str) -> Path:
    """The card with the file or registry name `name` (eurosat, EuroSAT), or the file of a user's
    own card (mine.yaml).

    Raises NerpError, listing the cards, if there is none.
    """
    return find_card_file(name) if name.endswith((".yaml", ".yml")) else _find_shipped(name)


def _find_shipped(name: str) -> Path:
    path = shipped("datasets") / f"{name}.yaml"
    if Path(name).name == name and path.is_file():  # reads no other card: plans ask often
        return path
    cards = shipped_cards()
    for path in cards.values():
        if card_name(path) == name:
            return path
    raise unknown("dataset", name, cards, own="give the file of its card, such as mine.yaml")


def card_name(card: Path) -> str:
    """The registry name (EuroSAT) of the dataset of a card that ships."""
    return str(mapping(load_yaml(card).get("DATASET"), str(card)).get("NAME"))


def find_card_file(file: str) -> Path:
    """The card for `--dataset-config-file`.

    A file that only names a dataset, as in CoOp's repositories, means the shipped card of that
    name. So does a path such as configs/datasets/eurosat.yaml if there is no such file.
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
    return _find_shipped(str(node["NAME"])) if set(node) == {"NAME"} else path


def open_card(file: Path, root: str) -> CN:
    """A configuration with only the node DATASET: a card, and where its data are.

    It is cheaper than `resolve`, which needs every method. Raises NerpError as `resolve` does.
    """
    return card_config(read_card(file).get("DATASET", {}), root, str(file))


def card_config(said: object, root: str, source: str) -> CN:
    """`open_card` of `said`, the content of a card below DATASET. `source` names it in errors."""
    cfg = CN({"DATASET": dataset_defaults()})
    merge(cfg, {"DATASET": said}, source)
    put(cfg, "DATASET.ROOT", root, "command line")
    check_card(cfg, source)
    cfg.freeze()
    return cfg


def check_card(cfg: CN, source: str) -> None:
    """Raise NerpError for a card without a name. `source` says where the card is from."""
    if not cfg.DATASET.NAME:
        raise NerpError(f"{source}: a dataset card needs DATASET.NAME")


def read_card(file: Path) -> dict[str, object]:
    """A card's content. Raises NerpError as `refuse_places` does."""
    content = load_yaml(file)
    refuse_places(keys(content), str(file))
    return content


def refuse_places(names: Iterable[str], source: str) -> None:
    """Raise NerpError if a file sets keys that say where this machine has its files. Only the
    command line may set them."""
    given = set(names)
    for name, flag in (("OUTPUT_DIR", "--output-dir"), ("DATASET.ROOT", "--root"),
                       ("DATASET.FEW_SHOT_FILE", "the command line")):
        if name in given:
            raise NerpError(f"{source}: {name}: a file must not set this; {flag} does")


def find_method_file(file: str) -> Path:
    """The method configuration for `--config-file`: that path, or the same below the shipped
    `configs/`. Raises NerpError if neither exists, listing the folder's files."""
    path = Path(file)
    parts = path.parts[1:] if path.parts and path.parts[0] == "configs" else path.parts
    candidates = (path, shipped("configs").joinpath(*parts))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    there = sorted(p.name for p in candidates[-1].parent.glob("*.yaml"))
    listing = f" {candidates[-1].parent} has: {', '.join(there)}" if there else ""
    raise NerpError(f"{file}: no such method configuration.{listing}")


def read_method(
    file: Path, dataset: str, shots: object
) -> list[tuple[Mapping[str, object], str]]:
    """The layers of a method configuration: first the keys for every run, then its PER_SHOTS row
    and its PER_DATASET row. Each is (keys and values, the row's entry in the file or ""). Raises
    NerpError for a file that is not a method configuration."""
    layer = load_yaml(file)
    layers: list[tuple[Mapping[str, object], str]] = [(layer, "")]
    for table, wanted in (("PER_SHOTS", shots), ("PER_DATASET", dataset)):
        rows = mapping(layer.pop(table, {}), f"{file}, {table}")
        row = next((own for name, own in rows.items() if str(name) == str(wanted)), {})
        layers.append((mapping(row, f"{file}, {table}.{wanted}"), f"{table}.{wanted}"))
    refuse_places([name for own, _ in layers for name in keys(own)], str(file))
    return layers
