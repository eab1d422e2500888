"""The main job on the shipped world: train, test on base and novel classes, correct with NeRP."""

import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tabulate import tabulate

from nerp.config import Request, find_method_file, shipped_cards
from nerp.engine.metrics import harmonic_mean
from nerp.engine.run import run_test, run_training
from nerp.engine.tested import ModelFlags
from nerp.errors import OtherRunError
from nerp.protocols import NERP_SUFFIX, RESULT_FILE, run_dir

ZERO_SHOT = "ZeroshotCLIP"
ALL_METHODS = ("CoOp", "CoCoOp", "PromptSRC", "MMA", "MMRL")


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
    """One line of the table: accuracies in percent, one a seed."""

    name: str
    base: list[float] = field(default_factory=list)
    novel: list[float] = field(default_factory=list)
    flips: list[dict] = field(default_factory=list)

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
        # Zero-shot CLIP on both halves and corrected; a method: train, test, test corrected.
        self.total = 3 + 3 * len(settings.methods) * len(settings.seeds)

    def rows(self) -> list[Row]:
        """The measured rows: zero-shot CLIP and each method, each plain and with NeRP."""
        rows = self._zero_shot()
        for method in self.settings.methods:
            plain, corrected = Row(method), Row(f"{method} + NeRP")
            for seed in self.settings.seeds:
                self._one_seed(method, seed, plain, corrected)
            rows += [plain, corrected]
        return rows

    def _zero_shot(self) -> list[Row]:
        seed = self.settings.seeds[0]  # nothing is learned: every seed gives the same
        base = self._test(ZERO_SHOT, "base", seed)["accuracy"]
        novel = self._test(ZERO_SHOT, "new", seed)
        corrected = self._test(ZERO_SHOT + NERP_SUFFIX, "new", seed)
        return [
            Row("zero-shot CLIP", [base], [novel["accuracy"]]),
            Row("zero-shot CLIP + NeRP", [base], [corrected["accuracy"]], [corrected]),
        ]

    def _one_seed(self, method: str, seed: int, plain: Row, corrected: Row) -> None:
        request = self._request(method, "base", "train", seed)
        self._announce(f"train {method}, seed {seed}")
        directory = _replacing(
            lambda overwrite: run_training(request, overwrite=overwrite), self.tell
        )
        trained = json.loads((directory / RESULT_FILE).read_text())
        novel = self._test(method, "new", seed, directory)
        flipped = self._test(method + NERP_SUFFIX, "new", seed, directory)
        for row, result in ((plain, novel), (corrected, flipped)):
            row.base.append(trained["accuracy"])
            row.novel.append(result["accuracy"])
        corrected.flips.append(flipped)

    def _test(self, trainer: str, classes: str, seed: int, model_dir: Path | str = "") -> dict:
        request = self._request(trainer, classes, "test", seed)
        self._announce(f"test {trainer} on {'novel' if classes == 'new' else classes} classes, "
                       f"seed {seed}")
        directory = _replacing(
            lambda overwrite: run_test(
                request, ModelFlags(str(model_dir)), save_logits=True, overwrite=overwrite
            ),
            self.tell,
        )
        return json.loads((directory / RESULT_FILE).read_text())

    def _announce(self, what: str) -> None:
        self.done += 1
        self.tell(f"[{self.done}/{self.total}] {what}")

    def _request(self, trainer: str, classes: str, phase: str, seed: int) -> Request:
        settings = self.settings
        plain = trainer.removesuffix(NERP_SUFFIX)
        config = f"configs/trainers/{plain}/tiny.yaml"
        directory = run_dir(
            settings.output, task="B2N", phase=phase, classes=classes, dataset=settings.dataset,
            shots=16, trainer=trainer, config=settings.backbone, seed=seed,
        )
        return Request(
            trainer=trainer,
            dataset=settings.dataset,
            config_file=str(find_method_file(config)),
            root=settings.root,
            seed=seed,
            output_dir=str(directory),
            opts=[
                "TASK", "B2N",
                "DATASET.NUM_SHOTS", "16",
                "DATASET.SUBSAMPLE_CLASSES", classes,
                "MODEL.BACKBONE.NAME", settings.backbone,
                *settings.options,
            ],
        )


def _replacing(run: Callable[[bool], Path], tell: Callable[[str], None]) -> Path:
    """`run`, and once more with overwriting where the settings have changed since last time."""
    try:
        return run(False)
    except OtherRunError as change:
        tell(f"    {str(change).split(': give')[0]}; it is replaced")
        return run(True)


def table(rows: Iterable[Row]) -> str:
    """Base, novel and H as mean ± std over the seeds; flips summed over them."""
    lines = []
    for row in rows:
        counts = [sum(f[key] for f in row.flips) for key in ("flips", "helped", "hurt", "neutral")]
        flips = "{} ({} / {} / {})".format(*counts) if row.flips else ""
        lines.append(
            [row.name, *(_spread(values) for values in (row.base, row.novel, row.harmonic)), flips]
        )
    headers = ["", "base", "novel", "H", "flips (helped / hurt / neutral)"]
    return tabulate(lines, headers=headers, disable_numparse=True)


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.fmean(values):.2f} ± {statistics.pstdev(values):.2f}"


def demo_datasets() -> list[str]:
    """The shipped benchmarks that are drawn, not downloaded."""
    return [name for name in shipped_cards() if name.startswith("demo_")]
