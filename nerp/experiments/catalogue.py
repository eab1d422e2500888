"""What configs/experiments.yaml says: datasets, shots, seeds, and each method's configuration."""

from functools import cache
from pathlib import Path

from nerp.config import find_card, is_shipped, load_yaml
from nerp.errors import NerpError
from nerp.paths import shipped
from nerp.protocols import NERP_SUFFIX, plain_name, protocol
from nerp.registry import TRAINERS, unknown


@cache
def catalogue() -> dict:
    """The content of configs/experiments.yaml."""
    return load_yaml(shipped("configs") / "experiments.yaml")


def methods() -> list[str]:
    """The methods that ship, in the order of tables. The one list that needs no trainer to be
    imported."""
    return list(catalogue()["methods"])


def published_methods() -> list[str]:
    """What a whole sweep runs: every method, and with NeRP each that learns something."""
    both = [(name, name + NERP_SUFFIX) if learns(name) else (name,) for name in methods()]
    return [name for pair in both for name in pair]


def check_method(name: str) -> None:
    """Raise NerpError, listing the methods, if `name` is none, with or without NeRP: neither one
    that ships nor one that is registered."""
    plain = plain_name(name)
    if plain not in methods() and plain not in (registered := TRAINERS.names()):
        raise unknown("method", plain, {*methods(), *registered})


def learns(plain: str) -> bool:
    """Whether a method is trained; one that is not has no configuration either."""
    if plain in methods():
        return bool(catalogue()["methods"][plain])
    return bool(TRAINERS[plain].folder)


def is_drawn(card: Path) -> bool:
    """Whether a card is of those datasets that the package draws on first use."""
    return is_shipped(card) and card.stem in catalogue()["drawn"]["datasets"]


def drawn_names() -> set[str]:
    """The registry names (DemoObjects) of the drawn datasets."""
    return {load_yaml(find_card(name))["DATASET"]["NAME"]
            for name in catalogue()["drawn"]["datasets"]}


def config_name(plain: str, task: str, trained_on: str, shots: int) -> str:
    """The configuration's name, such as vit_b16; "" for zero-shot CLIP on a downloaded dataset.

    Args: trained_on: a card by name, or the file of one.

    Raises NerpError for a method that has no row in configs/experiments.yaml.
    """
    if not learns(plain) and not (plain in methods() and is_drawn(find_card(trained_on))):
        return ""
    if plain not in methods():
        raise NerpError(f"{plain} does not ship, so no configuration of it is known: --config "
                        f"{plain}=FILE.yaml")
    if is_drawn(find_card(trained_on)):
        return catalogue()["drawn"]["config"]
    rows = catalogue()["methods"][plain][protocol(task).name]
    return rows.get(trained_on) or rows.get(f"shots_{shots}") or rows["default"]
