"""The whole job on the shipped world: train, test on base and novel classes, correct with NeRP."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tabulate import tabulate

from nerp.base.errors import OtherRunError
from nerp.correction.flipping import Rule
from nerp.correction.looked_at import most, with_caveat
from nerp.correction.sweep import Sweep
from nerp.engine.metrics import harmonic_mean
from nerp.engine.record_file import flips_of
from nerp.engine.run import run_test, run_training
from nerp.engine.saved import SavedRun, load_run
from nerp.files.yaml_file import load_yaml, mapping
from nerp.results.grid import BASE, NOVEL, Grid, is_seedless
from nerp.results.records import collect
from nerp.settings import catalogue
from nerp.settings.cards import find_method_file, shipped_cards
from nerp.settings.protocols import CONFIG_FILE, NERP_SUFFIX, plain_name, run_dir
from nerp.settings.resolve import Request

ZERO_SHOT = "ZeroshotCLIP"
_CONFIG = "tiny"


@dataclass(frozen=True)
class Settings:
    """Where the demo reads and writes, and what it runs."""

    dataset: str = "demo_landcover"
    backbone: str = "tiny"
    methods: tuple[str, ...] = ("MMRL",)
    seeds: tuple[int, ...] = (1, 2, 3)
    root: str = "data"
    output: str = "output/demo"
    options: tuple[str, ...] = ()


@dataclass
class Row:
    """One line of the table: accuracies in percent, one per seed."""

    name: str
    base: list[float] = field(default_factory=list)
    novel: list[float] = field(default_factory=list)
    flips: list[dict[str, int]] = field(default_factory=list)

    @property
    def harmonic(self) -> list[float]:
        return [harmonic_mean(b, n) for b, n in zip(self.base, self.novel, strict=True)]


class Demo:
    """Runs every method over every seed.

    Args:
        tell: called with a line before each run.
    """

    def __init__(self, settings: Settings, tell: Callable[[str], None]):
        self.settings = settings
        self.tell = tell
        self.done = 0
        # Runs: zero-shot CLIP on both halves, plain and corrected; for a method: train, test, test
        # corrected. A method trained once for all seeds is instead tested on base classes per seed.
        below = (catalogue.foundation(method) for method in settings.methods)
        once = {(of.method, of.config) for of in below if of}
        once |= {(method, _CONFIG)
                 for method in filter(catalogue.trains_without_labels, settings.methods)}
        self.total = 4 + 3 * len(settings.methods) * len(settings.seeds) + len(once)
        self.total += len(settings.seeds) * sum(  # separate tests on base classes
            map(catalogue.trains_on_all_classes, settings.methods))
        # Method and configuration -> the training that serves all seeds.
        self.once: dict[tuple[str, str], Path] = {}
        self.folders: list[Path] = []  # of the runs
        # Remarks on plain methods: what replaced their files, what else their training has seen.
        self.remarks: dict[str, str] = {}
        # Corrected trainer -> for each seed, the run on each half of the classes.
        self.corrected: dict[str, list[dict[str, SavedRun]]] = defaultdict(list)

    def rows(self) -> list[Row]:
        """The measured rows: zero-shot CLIP and each method; each plain, with NeRP as released, and
        with NeRP as run here (the shift, unless another rule was asked for)."""
        self._zero_shot()
        for method in self.settings.methods:
            for seed in self.settings.seeds:
                self._one_seed(method, seed)
        records = collect(self.folders)
        for record in records:
            seen = f"trained, too, with {record.also_seen}" if record.also_seen else ""
            if said := "; ".join(filter(None, (record.substitute, seen))):
                self.remarks[plain_name(record.trainer)] = said
        dataset = records[0].dataset
        grid = Grid(records, self.settings.seeds, [dataset], (BASE, NOVEL), by_config=False)
        rows = []
        for trainer in grid.rows:
            base, novel = (grid.series(trainer, dataset, part) for part in (BASE, NOVEL))
            name = trainer.replace(ZERO_SHOT, "zero-shot CLIP").removesuffix(NERP_SUFFIX)
            seeds = [seed for seed in self.settings.seeds if seed in novel]
            seeds = seeds[:1] if is_seedless(trainer) else seeds  # one run stands for all
            row = Row(name, [base[seed] for seed in seeds], [novel[seed] for seed in seeds])
            rows += self._corrected(row, self.corrected[trainer]) if self.corrected[trainer] \
                else [row]
        return rows

    def _corrected(self, row: Row, runs: list[dict[str, SavedRun]]) -> list[Row]:
        """The row of a corrected trainer, and before it the released rule on the same logits."""
        rule = runs[0][NOVEL].rule
        released = Row("+ NeRP, released", list(row.base))
        row.name = f"+ NeRP, {rule.name}"
        for i, of in enumerate(runs):
            row.flips.append(flips_of(of[NOVEL].result))
            for part, run in of.items():
                outcome = Sweep(run.saved).outcome(Rule())
                if part == BASE:
                    released.base[i] = outcome.accuracy
                else:
                    released.novel.append(outcome.accuracy)
                    released.flips.append(outcome.counts)
        return [row] if rule == Rule() else [released, row]

    def caption(self) -> str:
        """A description of the corrected rows of `rows`, and of the data they have looked at."""
        runs = [of[NOVEL] for seeds in self.corrected.values() for of in seeds]
        rule, nodes = runs[-1].rule, [run.result["nerp"] for run in runs]
        file = runs[-1].directory / CONFIG_FILE
        pairs = mapping(load_yaml(file).get("NERP"), f"{file}: NERP")["PAIRS"]
        released = ("the published flip with the release's defaults, by the mean training image "
                    f"and pairs from {pairs}")
        rules = [f"{rule.name}: {released}"] if rule == Rule() else \
            [f"released: {released}", f"{rule.name}: {rule.effect}"]
        rules[-1] += f"; it has looked at {with_caveat(most(node['looked_at'] for node in nodes))}"
        left = "" if nodes[-1]["on_base"] else " Classes that were trained on are left as they are."
        return f"{'. '.join(rules)}.{left}"

    def _zero_shot(self) -> None:
        seed = self.settings.seeds[0]  # nothing is learned, so all seeds give the same
        self._test(ZERO_SHOT, "base", seed)
        self._test(ZERO_SHOT, "new", seed)
        self._correct(ZERO_SHOT, seed)

    def _one_seed(self, method: str, seed: int) -> None:
        if catalogue.trains_without_labels(method):
            directory = self._train_once(method)
            self._test(method, "base", seed, directory)
        elif catalogue.trains_on_all_classes(method):
            options = [*self._foundation(method), "DATASET.NUM_SHOTS", "0", "TEST.NO_TEST", "True"]
            directory = self._train(method, "all", seed, options)
            self._test(method, "base", seed, directory)
        else:
            directory = self._train(method, "base", seed, self._foundation(method))
        self._test(method, "new", seed, directory)
        self._correct(method, seed, directory)

    def _train(self, method: str, classes: str, seed: int, options: Sequence[str] = (),
               config: str = _CONFIG) -> Path:
        request = self._request(method, classes, "train", seed, config=config)
        request.opts += options
        self._announce(f"train {method}, seed {seed}")
        return self._run(lambda overwrite: run_training(request, overwrite=overwrite))

    def _train_once(self, method: str, config: str = _CONFIG) -> Path:
        """The folder of a training that serves every seed: on all images without their labels, or
        with the first seed."""
        if (method, config) not in self.once:
            unlabelled = catalogue.trains_without_labels(method)
            options = ["DATASET.NUM_SHOTS", "-1"] if unlabelled else []
            if unlabelled or config != _CONFIG:  # a first stage is not a result of the method
                options += ["TEST.NO_TEST", "True"]
            self.once[method, config] = self._train(
                method, "all" if unlabelled else "base", self.settings.seeds[0], options, config)
        return self.once[method, config]

    def _foundation(self, method: str) -> list[str]:
        """KEY VALUE pairs that name the training which a method builds on."""
        below = catalogue.foundation(method)
        if below is None:
            return []
        folder = self._train_once(below.method, below.config)
        return [below.setting, str(folder), catalogue.epoch_key(below.setting), "0"]

    def _correct(self, method: str, seed: int, model_dir: Path | str = "") -> None:
        """NeRP on novel classes, and on base classes if it corrects those too (NERP.ON_BASE)."""
        trainer = method + NERP_SUFFIX
        runs = {NOVEL: load_run(self._test(trainer, "new", seed, model_dir))}
        if runs[NOVEL].result["nerp"]["on_base"]:
            self.total += method != ZERO_SHOT
            runs[BASE] = load_run(self._test(trainer, "base", seed, model_dir))
        self.corrected[trainer].append(runs)

    def _test(self, trainer: str, classes: str, seed: int, model_dir: Path | str = "") -> Path:
        request = self._request(trainer, classes, "test", seed, str(model_dir))
        self._announce(f"test {trainer} on {'novel' if classes == 'new' else classes} classes, "
                       f"seed {seed}")
        return self._run(
            lambda overwrite: run_test(request, save_logits=True, overwrite=overwrite)
        )

    def _run(self, run: Callable[[bool], Path]) -> Path:
        """`run`; if the settings have changed since last time, it is repeated with overwriting."""
        try:
            directory = run(False)
        except OtherRunError as change:
            self.tell(f"    {str(change).split(': give')[0]}; it is replaced")
            directory = run(True)
        if directory not in self.folders:
            self.folders.append(directory)
        return directory

    def _announce(self, what: str) -> None:
        self.done += 1
        self.tell(f"[{self.done}/{self.total}] {what}")

    def _request(
        self, trainer: str, classes: str, phase: str, seed: int, model_dir: str = "",
        config: str = _CONFIG,
    ) -> Request:
        settings = self.settings
        directory = run_dir(
            settings.output, task="B2N", phase=phase, classes=classes, dataset=settings.dataset,
            shots=16, trainer=trainer, seed=seed,
            config=settings.backbone + config.removeprefix(_CONFIG),
        )
        return Request(
            trainer=trainer,
            dataset=settings.dataset,
            config_file=str(find_method_file(catalogue.config_file(trainer, config))),
            root=settings.root,
            seed=seed,
            output_dir=str(directory),
            model_dir=model_dir,
            opts=[
                "TASK", "B2N",
                "DATASET.NUM_SHOTS", "16",
                "DATASET.SUBSAMPLE_CLASSES", classes,
                "MODEL.BACKBONE.NAME", settings.backbone,
                *settings.options,
            ],
        )


def table(rows: Iterable[Row]) -> str:
    """Base, novel and H as mean ± std over the seeds; flips summed over them; in 80 columns."""
    lines = []
    for row in rows:
        counts = [sum(f[key] for f in row.flips) for key in ("flips", "helped", "hurt", "neutral")]
        flips = "{} ({}/{}/{})".format(*counts) if row.flips else ""
        lines.append(
            [row.name, *(_spread(values) for values in (row.base, row.novel, row.harmonic)), flips]
        )
    headers = ["", "base", "novel", "H", "novel flips\n(helped/hurt/\nneutral)"]
    return str(tabulate(lines, headers=headers, disable_numparse=True))


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.fmean(values):.2f} ± {statistics.pstdev(values):.2f}"


def all_methods() -> tuple[str, ...]:
    """The methods that learn something and serve novel classes, in the order of tables."""
    return tuple(name for name in catalogue.methods() if catalogue.learns(name)
                 and catalogue.serves(name, "", "", "new"))


def demo_datasets() -> list[str]:
    """The shipped benchmarks that are drawn, not downloaded."""
    return [name for name in shipped_cards() if name.startswith("demo_")]
