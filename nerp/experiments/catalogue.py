"""What configs/experiments.yaml says: datasets, shots, seeds, and each method's configuration."""

from functools import cache

from nerp.config import find_card, load_yaml
from nerp.paths import shipped
from nerp.protocols import NERP_SUFFIX, SAR_SUFFIX, plain_name, protocol, trained_name
from nerp.registry import TRAINERS, unknown


@cache
def catalogue() -> dict:
    """The content of configs/experiments.yaml."""
    return load_yaml(shipped("configs") / "experiments.yaml")


def methods() -> list[str]:
    """The methods, in the order of tables. The one list that needs no trainer to be imported."""
    return list(catalogue()["methods"])


def published_methods() -> list[str]:
    """What a whole sweep runs: every method, and with NeRP each that learns something."""
    both = [(name, name + NERP_SUFFIX) if learns(name) else (name,) for name in methods()]
    return [name for pair in both for name in pair]


def check_method(name: str) -> None:
    """Raise NerpError, listing the methods, if `name` is none, with or without SAR and NeRP, or
    SAR does not fit it."""
    if plain_name(name) not in methods():
        raise unknown("method", plain_name(name), methods())
    if trained_name(name) != plain_name(name):
        TRAINERS[trained_name(name)]


def learns(name: str) -> bool:
    """Whether a method is trained; one that is not has no configuration either."""
    return bool(catalogue()["methods"][plain_name(name)])


def is_drawn(dataset: str) -> bool:
    """Whether a dataset is one of those that the package draws on first use."""
    return dataset in catalogue()["drawn"]["datasets"]


def drawn_names() -> set[str]:
    """The registry names (DemoObjects) of the drawn datasets."""
    return {load_yaml(find_card(name))["DATASET"]["NAME"]
            for name in catalogue()["drawn"]["datasets"]}


def config_name(name: str, task: str, trained_on: str, shots: int) -> str:
    """The configuration's name, such as vit_b16, of a method, with or without SAR; "" for
    zero-shot CLIP on a downloaded dataset."""
    if is_drawn(trained_on):
        return catalogue()["drawn"]["config"]
    if not learns(name):
        return ""
    own = catalogue()["with_sar"] if name.endswith(SAR_SUFFIX) else {}
    protocols = {**catalogue()["methods"][plain_name(name)], **own.get(plain_name(name), {})}
    rows = protocols[protocol(task).name]
    return rows.get(trained_on) or rows.get(f"shots_{shots}") or rows["default"]
