"""configs/experiments.yaml: datasets, shots, seeds, and each method's configuration."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TypedDict, cast

from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.base.paths import shipped
from nerp.base.registry import REGISTERED, TRAINERS, unknown
from nerp.files.yaml_file import load_yaml
from nerp.settings.backbones import BACKBONE_KEY, for_backbone
from nerp.settings.cards import card_name, find_card
from nerp.settings.protocols import (
    CONFIG_FILE,
    DEPT_SUFFIX,
    NERP_SUFFIX,
    SAR_SUFFIX,
    bare_name,
    plain_name,
    protocol,
    trained_name,
    training_task,
)

# Protocol -> the dataset trained on, shots_<k> or default -> a configuration's name.
_Configs = dict[str, dict[str, str]]


class _Source(TypedDict, total=False):
    source: str  # the dataset that is trained on; other datasets are tested


class ProtocolRow(_Source):
    """The published part of a protocol."""

    shots: list[int]
    datasets: list[str]


class _Drawn(TypedDict):
    datasets: list[str]
    backbones: list[str]
    config: str


class OtherTraining(TypedDict):
    """The data of a training that another training builds on, if the two trainings' data differ."""

    trained_on: str  # a card
    shots: int


class _OwnTraining(TypedDict, total=False):
    configs: _Configs  # for a training that another method builds on
    drawn: str  # the configuration on the drawn benchmarks
    of_dataset: dict[str, OtherTraining]  # by protocol


class _Foundation(_OwnTraining):
    method: str
    setting: str


class Catalogue(TypedDict):
    """configs/experiments.yaml; comments in the file explain each part."""

    seeds: list[int]
    protocols: dict[str, ProtocolRow]
    benchmarks: dict[str, list[str]]
    drawn: _Drawn
    with_sar: dict[str, _Configs]
    with_dept: dict[str, _Configs]
    without_labels: list[str]
    on_outputs: list[str]
    on_all_classes: list[str]
    own_classes: dict[str, list[str]]  # method -> the other cards that it can be tested on
    not_in: dict[str, list[str]]  # protocol -> methods
    other_backbones: dict[str, dict[str, dict[str, str]]]  # method, backbone, published -> its name
    builds_on: dict[str, _Foundation]
    methods: dict[str, _Configs]


@cache
def catalogue() -> Catalogue:
    """The content of configs/experiments.yaml."""
    # The file ships with the package, and the tests read every row of it.
    return cast(Catalogue, load_yaml(shipped("configs") / "experiments.yaml"))


def methods() -> list[str]:
    """The methods that ship, in the order of tables. This list needs no import of the trainers."""
    return list(catalogue()["methods"])


def published_methods() -> list[str]:
    """The methods of a whole sweep: every method, and every trained method with NeRP as well."""
    both = [(name, name + NERP_SUFFIX) if learns(name) else (name,) for name in methods()]
    return [name for pair in both for name in pair]


def check_method(name: str) -> None:
    """Raise NerpError, listing the methods, if `name` is not a method that ships or is registered.
    The name may end in _SAR or _DePT, and in _NeRP. Raises it too if a suffix does not fit."""
    plain = bare_name(name)
    if plain not in methods() and plain not in (registered := TRAINERS.names()):
        raise unknown("method", plain, {*methods(), *registered}, own=REGISTERED)
    if trained_name(name) != plain:
        TRAINERS[trained_name(name)]


def learns(name: str) -> bool:
    """Whether a method is trained. A method that is not trained has no configuration."""
    plain = bare_name(name)
    if plain in methods():
        return bool(catalogue()["methods"][plain])
    return bool(TRAINERS[plain].folder)


def trains_without_labels(name: str) -> bool:
    """Whether a method is trained once for all seeds and shots, on the whole training split of all
    classes, without labels."""
    return bare_name(name) in catalogue()["without_labels"]


def learns_on_outputs(name: str) -> bool:
    """Whether a method, with or without SAR or DePT, trains on the frozen image encoder's outputs
    for augmented images. All such methods share these outputs."""
    return bare_name(name) in catalogue()["on_outputs"]


def trains_on_all_classes(name: str) -> bool:
    """Whether a method is trained for each seed on the whole training split of all classes, without
    labels."""
    return plain_name(name) in catalogue()["on_all_classes"]


def serves(name: str, trained_on: str, dataset: str, classes: str) -> bool:
    """Whether a model trained on the base classes ("base") or on all classes ("all") of a card can
    be tested on those classes of another card."""
    own = catalogue()["own_classes"].get(plain_name(name))
    if own is None:
        return True
    return classes != "new" and (dataset == trained_on or trained_on == "imagenet"
                                 and dataset in own)


def has_place(name: str, protocol_name: str) -> bool:
    """Whether a sweep of a protocol includes a method. protocol_name: `Protocol.name`."""
    return plain_name(name) not in catalogue()["not_in"].get(protocol_name, ())


@dataclass(frozen=True)
class Foundation:
    """The method whose training another method starts from, and the setting that names its folder.

    Attributes:
        config: its configuration on the drawn benchmarks.
        of_dataset: protocol -> the card trained on and the shots, if these differ from those of the
            method that builds on it.
    """

    method: str
    setting: str
    config: str
    of_dataset: Mapping[str, OtherTraining]


def foundation(name: str) -> Foundation | None:
    """The foundation of a method, which may have SAR or DePT, and NeRP; None if it has none."""
    row = catalogue()["builds_on"].get(bare_name(name))
    if not row:
        return None
    config = row.get("drawn", catalogue()["drawn"]["config"])
    return Foundation(row["method"], row["setting"], config, row.get("of_dataset", {}))


def epoch_key(setting: str) -> str:
    """The setting that says which epoch's checkpoint `setting` means."""
    return f"{setting.removesuffix('_CHECKPOINT')}_EPOCH"


def is_drawn(dataset: str) -> bool:
    """Whether a dataset is one of those that the package draws on first use."""
    return dataset in catalogue()["drawn"]["datasets"]


def by_benchmark(cards: Iterable[str]) -> dict[str, list[str]]:
    """Cards, by name or by a user's own file, under the headings of `nerp data list`."""
    headings = {name: heading for heading, names in catalogue()["benchmarks"].items()
                for name in names} | dict.fromkeys(catalogue()["drawn"]["datasets"], "drawn")
    groups: dict[str, list[str]] = {heading: [] for heading in headings.values()}
    for card in cards:
        groups.setdefault(headings.get(card, "one's own"), []).append(card)
    return {heading: names for heading, names in groups.items() if names}


def drawn_names() -> set[str]:
    """The registry names (DemoObjects) of the drawn datasets."""
    return {card_name(find_card(name)) for name in catalogue()["drawn"]["datasets"]}


def config_name(
    name: str, task: str, trained_on: str, shots: int,
    options: Mapping[str, str] = MappingProxyType({}), below: str = "",
) -> str:
    """The name, such as vit_b16, of a method's configuration, with or without SAR or DePT; "" for
    zero-shot CLIP on a downloaded dataset.

    Args: trained_on: a card's name or file. options: KEY VALUE pairs of the request. If they name a
        backbone that has a configuration of its own, that configuration is meant.
        below: the method that builds on this one, "" for none.

    Raises NerpError for a method that has no row in configs/experiments.yaml.
    """
    ships = bare_name(name) in methods()
    drawn, backbone = catalogue()["drawn"], options.get(BACKBONE_KEY, "")
    above = foundation(below) if below else None
    if ships and (backbone in drawn["backbones"] or is_drawn(trained_on) and not backbone):
        return above.config if above else drawn["config"]
    if not learns(name):
        return ""
    if not ships:
        raise NerpError(f"{name} does not ship, so no configuration of it is known: --config "
                        f"{name}=FILE.yaml")
    built = catalogue()["builds_on"].get(bare_name(below))
    wanted = built.get("configs", {}) if built else {}
    protocols = {**catalogue()["methods"][bare_name(name)], **_otherwise(name), **wanted}
    rows = protocols[protocol(training_task(task)).name]
    config: str = rows.get(trained_on) or rows.get(f"shots_{shots}") or rows["default"]
    return _following(bare_name(name), config, backbone)


def _following(method: str, config: str, backbone: str) -> str:
    """The configuration that replaces `config` for another backbone; `config` if none ships."""
    listed = catalogue()["other_backbones"].get(method, {}).get(backbone, {})
    names = for_backbone(config, backbone, listed) if backbone else []
    there = (name for name in names if _config_path(method, name).is_file())
    return next(there, config)


def _config_path(method: str, config: str) -> Path:
    return shipped("configs") / "trainers" / method / f"{config}.yaml"


def _otherwise(name: str) -> dict[str, dict[str, str]]:
    """A method's own configurations with SAR or DePT, by protocol; {} if it has none."""
    rows: dict[str, _Configs] = {
        SAR_SUFFIX: catalogue()["with_sar"], DEPT_SUFFIX: catalogue()["with_dept"],
    }.get(trained_name(name).removeprefix(bare_name(name)), {})
    return rows.get(bare_name(name), {})


def config_file(name: str, config: str) -> str:
    """The value of --config-file for the configuration of that name. A method with DePT has files
    of its own if its settings with DePT are published."""
    own = any(config in rows.values() for rows in _otherwise(name).values())
    return f"configs/trainers/{plain_name(name) if own else bare_name(name)}/{config}.yaml"


def shipped_config(
    name: str, task: str, shots: int, options: Mapping[str, str], card: Path, model_dir: str = "",
) -> str:
    """The value of --config-file for a run that gives none: the configuration for its method,
    protocol, shots and training dataset; "" for none. The choice is printed.

    Args:
        name: the method, with or without SAR or DePT. options: KEY VALUE pairs of the request.
        card: of the dataset. model_dir: of the tested checkpoint; its run's configuration says
            which dataset it was trained on.
    """
    if bare_name(name) not in methods():
        say(f"no --config-file, and configs/experiments.yaml has none for {name}: the defaults")
        return ""
    config = config_name(name, task, _trained_on(card, task, model_dir), shots, options)
    if not config:
        return ""
    file = config_file(name, config)
    say(f"configuration: {file}, which configs/experiments.yaml has for this run")
    return file


def _trained_on(card: Path, task: str, model_dir: str) -> str:
    """The card of the training dataset, from the run in `model_dir` or else from the protocol."""
    if not model_dir:
        return card.stem
    if file := trained_file(model_dir):
        node = load_yaml(file).get("DATASET")
        try:
            return find_card(str(node.get("NAME"))).stem if isinstance(node, Mapping) else ""
        except NerpError:  # the name is of a user's own card
            return ""
    crossing = protocol(task).task == "CD" and not is_drawn(card.stem)
    return catalogue()["protocols"]["cross_dataset"]["source"] if crossing else card.stem


def trained_file(model_dir: str) -> Path | None:
    """The configuration that a training kept, None for none. `model_dir` may be the run's folder,
    the folder of its checkpoints, or one checkpoint."""
    there = Path(model_dir).expanduser()
    files = (folder / CONFIG_FILE for folder in (there, *there.parents[:2]))
    return next((file for file in files if file.is_file()), None)
