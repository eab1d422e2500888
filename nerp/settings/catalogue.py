"""What configs/experiments.yaml says: datasets, shots, seeds, and each method's configuration."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.base.paths import shipped
from nerp.base.registry import REGISTERED, TRAINERS, unknown
from nerp.files.yaml_file import load_yaml
from nerp.settings.cards import find_card
from nerp.settings.protocols import (
    CONFIG_FILE,
    NERP_SUFFIX,
    method_name,
    plain_name,
    protocol,
    trained_name,
    training_task,
)

_BACKBONE = "MODEL.BACKBONE.NAME"


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
    """Raise NerpError, listing the methods, if `name` is none, with or without SAR or DePT, and
    NeRP: neither one that ships nor one that is registered; or if they do not fit it."""
    plain = method_name(name)
    if plain not in methods() and plain not in (registered := TRAINERS.names()):
        raise unknown("method", plain, {*methods(), *registered}, own=REGISTERED)
    if trained_name(name) != plain:
        TRAINERS[trained_name(name)]


def learns(name: str) -> bool:
    """Whether a method is trained; one that is not has no configuration either."""
    plain = method_name(name)
    if plain in methods():
        return bool(catalogue()["methods"][plain])
    return bool(TRAINERS[plain].folder)


def trains_without_labels(name: str) -> bool:
    """Whether a method is trained once for all seeds and shots: on the whole training split of all
    classes, without labels."""
    return method_name(name) in catalogue()["without_labels"]


@dataclass(frozen=True)
class Foundation:
    """The method whose training another one starts from, and the setting that names its folder.
    seed: of that training, where it is one for all; config: its configuration on the drawn
    benchmarks."""

    method: str
    setting: str
    seed: int | None = None
    config: str = ""


def foundation(name: str) -> Foundation | None:
    """What a method, with or without SAR or DePT, and NeRP, builds on."""
    row = catalogue()["builds_on"].get(method_name(name))
    if not row:
        return None
    config = row.get("configs", {}).get("drawn", catalogue()["drawn"]["config"])
    return Foundation(row["method"], row["setting"], row.get("seed"), config)


def is_drawn(dataset: str) -> bool:
    """Whether a dataset is one of those that the package draws on first use."""
    return dataset in catalogue()["drawn"]["datasets"]


def by_benchmark(cards: Iterable[str]) -> dict[str, list[str]]:
    """Cards by name, or by the file of one's own, under the headings of `nerp data list`."""
    headings = {name: heading for heading, names in catalogue()["benchmarks"].items()
                for name in names} | dict.fromkeys(catalogue()["drawn"]["datasets"], "drawn")
    groups: dict[str, list[str]] = {heading: [] for heading in headings.values()}
    for card in cards:
        groups.setdefault(headings.get(card, "one's own"), []).append(card)
    return {heading: names for heading, names in groups.items() if names}


def drawn_names() -> set[str]:
    """The registry names (DemoObjects) of the drawn datasets."""
    return {load_yaml(find_card(name))["DATASET"]["NAME"]
            for name in catalogue()["drawn"]["datasets"]}


def config_name(
    name: str, task: str, trained_on: str, shots: int,
    options: Mapping[str, str] = MappingProxyType({}), below: str = "",
) -> str:
    """The configuration's name, such as vit_b16, of a method, with or without SAR or DePT; "" for
    zero-shot CLIP on a downloaded dataset.

    Args: trained_on: a card by name, or the file of one. options: KEY VALUE pairs beside it.
        below: the method that builds on this one, "" for none.

    Raises NerpError for a method that has no row in configs/experiments.yaml.
    """
    ships = method_name(name) in methods()
    above = foundation(below) if below else None
    drawn = catalogue()["drawn"]
    if ships and (is_drawn(trained_on) or options.get(_BACKBONE) in drawn["backbones"]):
        return above.config if above else drawn["config"]
    if not learns(name):
        return ""
    if not ships:
        raise NerpError(f"{name} does not ship, so no configuration of it is known: --config "
                        f"{name}=FILE.yaml")
    wanted = catalogue()["builds_on"].get(method_name(below), {}).get("configs", {})
    protocols = {**catalogue()["methods"][method_name(name)], **_otherwise(name), **wanted}
    rows = protocols[protocol(training_task(task)).name]
    return rows.get(trained_on) or rows.get(f"shots_{shots}") or rows["default"]


def _otherwise(name: str) -> dict[str, dict[str, str]]:
    """By protocol the configurations of a method with SAR or DePT, where they are not its own."""
    suffix = trained_name(name).removeprefix(method_name(name))
    rows = catalogue()[f"with{suffix.lower()}"] if suffix else {}
    return dict(rows.get(method_name(name), {}))


def config_file(name: str, config: str) -> str:
    """What --config-file takes for a method's configuration of that name. With DePT a method has
    files of its own where it is published."""
    own = any(config in rows.values() for rows in _otherwise(name).values())
    return f"configs/trainers/{plain_name(name) if own else method_name(name)}/{config}.yaml"


def shipped_config(
    name: str, task: str, shots: int, options: Mapping[str, str], card: Path, model_dir: str = "",
) -> str:
    """What --config-file would say for a run that names none: the configuration of its method,
    protocol, shots and the dataset trained on; "" for none. Which one is said.

    Args:
        name: the method's own, with or without SAR or DePT. options: KEY VALUE pairs beside it.
        card: of the dataset. model_dir: of the tested checkpoint, whose run says what it was
            trained on.
    """
    if method_name(name) not in methods():
        say(f"no --config-file, and configs/experiments.yaml has none for {name}: the defaults")
        return ""
    config = config_name(name, task, _trained_on(card, task, model_dir), shots, options)
    if not config:
        return ""
    file = config_file(name, config)
    say(f"configuration: {file}, which configs/experiments.yaml has for this run")
    return file


def _trained_on(card: Path, task: str, model_dir: str) -> str:
    """The card of the dataset trained on: as the run in `model_dir` says, else by the protocol."""
    if not model_dir:
        return card.stem
    there = Path(model_dir).expanduser()
    for folder in (there, *there.parents[:2]):  # a run's, its checkpoints', or one of these
        if (folder / CONFIG_FILE).is_file():
            node = load_yaml(folder / CONFIG_FILE).get("DATASET")
            try:
                return find_card(str(node.get("NAME"))).stem if isinstance(node, Mapping) else ""
            except NerpError:  # a card of one's own
                return ""
    crossing = protocol(task).task == "CD" and not is_drawn(card.stem)
    return catalogue()["protocols"]["cross_dataset"]["source"] if crossing else card.stem
