"""From a selection (protocol, methods, datasets, seeds, shots) to the list of its runs."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from nerp.base.errors import NerpError
from nerp.base.paths import shipped
from nerp.base.plugins import import_modules, load_named, named_files
from nerp.base.registry import unknown
from nerp.data.benchmark import dataset_folder
from nerp.experiments.one_run import Run
from nerp.experiments.selection import Selection
from nerp.files.yaml_file import load_yaml
from nerp.settings.backbones import BACKBONE_KEY
from nerp.settings.cards import (
    find_card,
    find_method_file,
    is_shipped,
    open_card,
)
from nerp.settings.catalogue import (
    catalogue,
    check_method,
    config_file,
    config_name,
    epoch_key,
    foundation,
    has_place,
    is_drawn,
    learns,
    learns_on_outputs,
    published_methods,
    serves,
    trains_on_all_classes,
    trains_without_labels,
)
from nerp.settings.options import options_of
from nerp.settings.protocols import (
    NERP_SUFFIX,
    SAR_SUFFIX,
    SAVE_LOGITS,
    plain_name,
    protocol,
    run_dir,
    trained_name,
    training_task,
)
from nerp.settings.published import is_read
from nerp.settings.resolve import backbone_said_by
from nerp.settings.tree import check_options

PHASES = ("all", "train", "test")
_MOST_FILES = 1000  # of a folder
_EVERY_IMAGE, _WHOLE_SPLIT = -1, 0  # two published values of DATASET.NUM_SHOTS for all images


def plan(selection: Selection) -> list[Run]:
    """The runs of a selection; each comes after the runs it needs.

    Raises NerpError for an unknown protocol, method or dataset, a configuration that does not
    exist, or a selection that holds no run.
    """
    selection = _complete(selection)
    for known in (_files_said_by, _content):
        known.cache_clear()
    runs: dict[Path, Run] = {}
    for setting in _settings(selection):
        for run in setting.runs():
            runs.setdefault(run.directory, run)
    if not runs:
        names = ", ".join(selection.methods)
        raise NerpError(f"nothing to {selection.phase} for {names} in {selection.protocol}: NeRP "
                        "and zero-shot CLIP are not trained, and in few_shot training tests too")
    return list(runs.values())


def check_data(root: str, runs: Iterable[Run]) -> None:
    """Raise NerpError, naming them, if folders of datasets are missing below `root`; without them
    every run would fail by itself. Drawn benchmarks need none."""
    cards = dict.fromkeys(run.card for run in runs
                          if not (is_shipped(run.card) and is_drawn(run.card.stem)))
    folders = [dataset_folder(open_card(card, root)) for card in cards]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise NerpError(f"{len(missing)} of {len(folders)} datasets are not there: "
                        f"{', '.join(missing)}. DATASETS.md says how to get them; --root (DATA in "
                        "the scripts) names the folder that holds them, --datasets a choice")


def shared_epochs(runs: Iterable[Run]) -> str:
    """Which trainings read features that another training encodes, in words; "" for none."""
    trained = [run for run in runs if run.argv[0] == "train" and learns_on_outputs(run.trainer)]
    sets = {run.draws for run in trained}
    if len(sets) == len(trained):
        return ""
    return (f"{len(trained)} of the trainings learn on frozen features of augmented images; each "
            f"of {len(sets)} sets of features (the same images and backbone) is encoded by the "
            "first of them that trains on it, and read by the others as far as the transform is "
            "the same (DATALOADER.FEATURES_MB)")


def _complete(selection: Selection) -> Selection:
    """The selection, checked, with the published values for everything it leaves open. Its imports
    are carried out."""
    load_named()
    import_modules(selection.imports)
    options = options_of(selection.options)
    check_options(options)
    name = protocol(selection.protocol).name
    published = catalogue()["protocols"][name]
    if selection.phase not in PHASES:
        raise unknown("phase", selection.phase, PHASES)
    if selection.backbones and BACKBONE_KEY in options:
        raise NerpError(f"--backbones and {BACKBONE_KEY} both say the backbone: leave out one")
    methods = selection.methods or tuple(
        method for method in published_methods() if has_place(method, name))
    for method in methods:
        check_method(method)
        if not has_place(method, name):
            raise NerpError(f"{plain_name(method)} has no place in {name}: "
                            "configs/experiments.yaml says why (not_in)")
    datasets = [_card_name(dataset) for dataset in selection.datasets or published["datasets"]]
    source = selection.source or published.get("source")
    stems: dict[str, str] = {}
    for dataset in datasets:
        if stems.setdefault(Path(dataset).stem, dataset) != dataset:
            raise NerpError(f"{dataset} and {stems[Path(dataset).stem]} have one name, so their "
                            "runs would share a folder: call one card otherwise")
    return replace(
        selection,
        protocol=name,
        methods=methods,
        datasets=tuple(datasets),
        seeds=selection.seeds or tuple(catalogue()["seeds"]),
        shots=selection.shots or tuple(published["shots"]),
        source=_card_name(source) if source else "",
    )


def _card_name(dataset: str) -> str:
    """The name by which a run refers to a card: a shipped card's name, another card's file."""
    card = find_card(dataset)
    return card.stem if is_shipped(card) else str(card)


@dataclass(frozen=True)
class _Setting:
    """One method, trained on one dataset with one number of shots and one seed.

    Attributes:
        plain: the method's name without NeRP but with SAR.
        backbone: by name; "" for the backbone that its configuration names.
        below: the method that builds on this one, "" for none.
    """

    selection: Selection
    plain: str
    trained_on: str
    shots: int
    seed: int
    backbone: str = ""
    below: str = ""

    @property
    def tests(self) -> list[tuple[str, str]]:
        """The tests of the trained model: (dataset, classes)."""
        found = self._tests()
        if self.selection.protocol == "open_world":
            return [test for test in found if serves(self.plain, self.trained_on, test[0], "new")]
        return [test for test in found if serves(self.plain, self.trained_on, *test)]

    def _tests(self) -> list[tuple[str, str]]:
        chosen = self.selection
        if chosen.protocol == "base_to_novel":
            return [(self.trained_on, "base"), (self.trained_on, "new")]
        if chosen.protocol in ("few_shot", "open_world"):
            return [(self.trained_on, "all")]
        # A whole sweep also tests the source: it is the first column of the published tables.
        first = [self.trained_on] if chosen.phase == "all" else []
        return [(name, "all") for name in dict.fromkeys([*first, *chosen.datasets])]

    def runs(self) -> Iterator[Run]:
        """The training, then for each tested set of classes the plain test and NeRP's after it."""
        chosen, corrected = self.selection, self.plain + NERP_SUFFIX
        whole = chosen.phase == "all"
        training = None
        if learns(self.plain):
            first = self._foundation()
            if first and whole:
                yield first
            training = self.training(first)
            if whole or (chosen.phase == "train" and self.plain in chosen.methods):
                yield training
        if chosen.phase == "train":
            return
        for dataset, classes in self.tests:
            before = training
            # A few-shot training ends with its test, unless one training serves all shots.
            ends_with_test = training and chosen.protocol == "few_shot"
            apart = trains_without_labels(self.plain) or trains_on_all_classes(self.plain)
            if not ends_with_test or apart:
                before = self.run("test", self.plain, dataset, classes, training)
                if whole or self.plain in chosen.methods:
                    yield before
            if corrected in chosen.methods:
                yield self.run("test", corrected, dataset, classes, training, after=before)

    def training(self, first: Run | None = None) -> Run:
        """The training; `first` is the training that it builds on."""
        if trains_without_labels(self.plain):
            return replace(self, shots=_EVERY_IMAGE, seed=catalogue()["seeds"][0]).run(
                "train", self.plain, self.trained_on, "all"
            )
        if trains_on_all_classes(self.plain):
            setting = replace(self, shots=_WHOLE_SPLIT)
            return setting.run("train", self.plain, self.trained_on, "all", first=first)
        classes = "base" if training_task(self.selection.protocol) == "B2N" else "all"
        return self.run("train", self.plain, self.trained_on, classes, first=first)

    def _foundation(self) -> Run | None:
        """The training that this one builds on."""
        below = foundation(self.plain)
        if not below:
            return None
        setting = replace(self, plain=below.method, below=self.plain)
        if not trains_without_labels(below.method):
            setting = replace(setting, seed=catalogue()["seeds"][0])
            other = below.of_dataset.get(self.selection.protocol)
            if other and not is_drawn(self.trained_on):
                setting = replace(setting, trained_on=other["trained_on"], shots=other["shots"])
        return setting.training()

    def run(
        self, phase: str, trainer: str, dataset: str, classes: str,
        training: Run | None = None, after: Run | None = None, first: Run | None = None,
    ) -> Run:
        """One run. `training` made its checkpoint; `after` must have finished as well; a training
        builds on `first`."""
        chosen = self.selection
        task = protocol(chosen.protocol).task
        if phase == "train":
            task = training_task(task)
        config = self._config(task)
        card = find_card(dataset)
        once = phase == "train" and trains_without_labels(trainer)
        if once and task == "B2N":
            task = "FS"  # trains on all classes as well, so that both take one training
        own_file = config.endswith((".yaml", ".yml"))
        file = config if own_file else config and config_file(self.plain, config)
        method_file = find_method_file(file) if file else None
        options, said = self.options, backbone_said_by(card, method_file, _content)
        if self.backbone and self.backbone != said:
            options = {BACKBONE_KEY: self.backbone, **options}
        backbone = options.get(BACKBONE_KEY, said)
        directory = run_dir(
            chosen.output, task=task, phase=phase, classes=classes,
            dataset=Path(dataset).stem, shots=self.shots, trainer=trainer,
            config=(Path(config).stem if own_file else config) or "default", seed=self.seed,
            backbone=backbone,
        )
        inputs = [*named_files(), *_files_of(options.values())]
        argv = [phase, "--root", chosen.root, "--seed", self.seed, "--trainer", trainer,
                "--dataset", dataset]
        for module in chosen.imports:
            argv += ["--import", module]
        if method_file:
            inputs += _files_said_by(method_file)
            argv += ["--config-file", file]
        if training:
            argv += ["--model-dir", training.directory]
        if phase == "test" and chosen.save_logits:
            argv += [SAVE_LOGITS]
        argv += ["--output-dir", directory, "TASK", task, "DATASET.NUM_SHOTS", self.shots,
                 "DATASET.SUBSAMPLE_CLASSES", classes]
        if once or self.below == self.plain:  # a first stage is not a result of the method
            argv += ["TEST.NO_TEST", True]
        if first:
            below = foundation(self.plain)
            assert below is not None  # `first` is what it builds on
            argv += [below.setting, first.directory, epoch_key(below.setting), 0]
        if self.plain.endswith(SAR_SUFFIX):
            inputs.append(shipped("configs") / "sar.yaml")
        if trainer != self.plain:
            table = f"{chosen.protocol}.yaml"
            inputs.append(shipped("configs") / "nerp" / self.plain / table)
            if chosen.protocol == "few_shot":  # every class was trained on
                argv += ["NERP.ON_BASE", True]
        needs = dict.fromkeys(run.directory for run in (training, after, first) if run)
        return Run(
            directory=directory,
            argv=tuple(map(str, (*argv, *(w for pair in options.items() for w in pair)))),
            needs=tuple(needs) if chosen.phase == "all" else (),
            card=card,
            inputs=tuple(inputs),
            root=chosen.root,
            output=chosen.output,
            label=f"{phase} {trainer}, {dataset} {classes}, {self.shots} shots, seed {self.seed}"
            + (f", {self.backbone}" if self.backbone else ""),
            trainer=trainer,
            draws=(card, self.shots, self.seed, classes, backbone),
        )

    @property
    def options(self) -> dict[str, str]:
        """The user's options, for every run whose method reads them."""
        return {name: value for name, value in options_of(self.selection.options).items()
                if is_read(plain_name(self.plain), name)}

    def _config(self, task: str) -> str:
        """The configuration's name or file; "" for none."""
        for entry in reversed(self.selection.config):
            method, _, config = entry.rpartition("=")
            if method in ("", self.plain, plain_name(self.plain)) and learns(self.plain):
                return config
        asked = {BACKBONE_KEY: self.backbone} if self.backbone else {}
        return config_name(
            self.plain, task, self.trained_on, self.shots, self.options | asked, self.below
        )


@cache
def _files_said_by(file: Path) -> list[Path]:
    """A configuration's file, and all files that it names, under any key."""
    def texts(value: object) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping | list):
            for inner in value.values() if isinstance(value, Mapping) else value:
                yield from texts(inner)

    return [file, *_files_of(texts(_content(file)))]


@cache
def _content(file: Path) -> Mapping[str, object]:
    """The content of a YAML file, read once per plan."""
    return load_yaml(file)


def _files_of(texts: Iterable[str]) -> list[Path]:
    """The files that these texts name, and the sentence files in the folders that they name. (Only
    the methods know which keys name files, and importing them takes torch.)"""
    found: list[Path] = []
    for text in texts:
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # the text is not a path
            path = Path(text).expanduser()
            if text and path.is_dir():
                found += sorted(path.glob("*.json"))[:_MOST_FILES]
            elif text and path.is_file():
                found.append(path)
    return found


def _settings(selection: Selection) -> Iterator[_Setting]:
    crossing = selection.protocol == "cross_dataset"
    sources = (selection.source,) if crossing else selection.datasets
    # All methods on the same images follow each other, since the features are then still kept.
    for trained_on in sources:
        for shots in selection.shots:
            for seed in selection.seeds:
                for backbone in selection.backbones or ("",):
                    for plain in dict.fromkeys(map(trained_name, selection.methods)):
                        # A method that learns nothing is not random: one run serves every seed.
                        if learns(plain) or seed == selection.seeds[0]:
                            yield _Setting(selection, plain, trained_on, shots, seed, backbone)
