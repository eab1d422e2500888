"""A training's history: metrics.csv in the run's folder, and other outputs that are asked for.

TRAIN.TENSORBOARD writes the same numbers for TensorBoard, to `tensorboard/` in the run's folder;
TRAIN.WANDB names a project of Weights & Biases that receives them (WANDB_MODE=offline keeps them on
this machine). Both need extra packages, which are imported only if asked for.
"""

import contextlib
import csv
import functools
import io
import itertools
import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import yaml
from yacs.config import CfgNode

from nerp.base.beside import make_folder
from nerp.base.errors import NerpError
from nerp.base.paths import write_text
from nerp.files.opening import read_text, reading

METRICS_FILE = "metrics.csv"


@dataclass(frozen=True)
class Row:
    """The steps since the row before it.

    Attributes:
        epoch: from 1. step: steps since training began, including these.
        loss: the steps' mean. rate: the learning rate. seconds: since training began, without
            pauses. accuracy: on the steps' images in percent, each predicted before its step; None
            if the method does not report it.
    """

    epoch: int
    step: int
    loss: float
    accuracy: float | None
    rate: float
    seconds: float


COLUMNS = [field.name for field in fields(Row)]


def read_history(file: Path) -> list[Row]:
    """The rows of a metrics.csv. Raises NerpError if the file is not a training's history."""
    with reading(file, f"a training's history with the columns {','.join(COLUMNS)}"):
        reader = csv.DictReader(io.StringIO(read_text(file)), strict=True)
        if reader.fieldnames != COLUMNS:
            raise ValueError("it begins otherwise")
        rows = [
            Row(int(row["epoch"]), int(row["step"]), float(row["loss"]),
                float(row["accuracy"]) if row["accuracy"] else None,
                float(row["rate"]), float(row["seconds"]))
            for row in reader
        ]
        numbers = itertools.chain.from_iterable(map(astuple, rows))
        if not all(math.isfinite(number) for number in numbers if number is not None):
            raise ValueError("it holds numbers that are not finite")
        return rows


class History:
    """Collects the rows of one training run.

    Raises NerpError, saying what to install, if a needed package is missing.
    """

    def __init__(self, directory: Path, cfg: CfgNode):
        self.file = directory / METRICS_FILE
        self.rows: list[Row] = []
        asked: dict[type[_TensorBoard] | type[_WandB], object] = {
            _TensorBoard: cfg.TRAIN.TENSORBOARD, _WandB: cfg.TRAIN.WANDB,
        }
        self._asked = [writer(directory, cfg) for writer, on in asked.items() if on]
        self._writers: list[_TensorBoard | _WandB] = []  # those that have begun

    def begin(self, step: int) -> None:
        """Continue after `step` (0: at the beginning). Later rows of the file are dropped, because
        their steps are trained again. Raises NerpError if Weights & Biases refuses the run."""
        if step and self.file.is_file():
            self.rows = [row for row in read_history(self.file) if row.step <= step]
        for writer in self._asked:
            writer.begin()
            self._writers.append(writer)
            for row in self.rows:
                writer.add(row)

    @property
    def seconds(self) -> float:
        """Seconds of training up to the last row."""
        return self.rows[-1].seconds if self.rows else 0.0

    def add(self, row: Row) -> None:
        """Add a row. The next `save` writes it to the file."""
        self.rows.append(row)
        for writer in self._writers:
            writer.add(row)

    def save(self) -> None:
        """Write metrics.csv, whole."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in self.rows:
            accuracy = "" if row.accuracy is None else f"{row.accuracy:.6g}"
            writer.writerow([row.epoch, row.step, f"{row.loss:.6g}", accuracy, f"{row.rate:.6g}",
                             f"{row.seconds:.2f}"])
        write_text(self.file, text.getvalue())

    def close(self) -> None:
        """Close the other outputs."""
        for writer in self._writers:
            writer.close()


def _followed(row: Row) -> dict[str, float]:
    """The values that are plotted over the steps, by name."""
    values = {"loss": row.loss, "accuracy": row.accuracy, "rate": row.rate}
    return {name: value for name, value in values.items() if value is not None}


class _TensorBoard:
    def __init__(self, directory: Path, cfg: CfgNode):
        with _needed("TRAIN.TENSORBOARD", "tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        self._folder, self._within = directory / "tensorboard", directory
        self._open = functools.partial(SummaryWriter, self._folder, purge_step=0)

    def begin(self) -> None:
        make_folder(self._folder, self._within)
        self._writer = self._open()

    def add(self, row: Row) -> None:
        for name, value in _followed(row).items():
            self._writer.add_scalar(f"train/{name}", value, row.step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, directory: Path, cfg: CfgNode):
        with _needed("TRAIN.WANDB", "wandb"):
            import wandb
        self._wandb = wandb
        self._directory, self._cfg = directory, cfg

    def begin(self) -> None:
        cfg = self._cfg
        make_folder(self._directory / "wandb", self._directory)
        try:
            self._run = self._wandb.init(
                project=cfg.TRAIN.WANDB, dir=self._directory, config=yaml.safe_load(cfg.dump()),
                group=f"{cfg.TRAINER.NAME} {cfg.DATASET.NAME}", name=f"seed {cfg.SEED}",
            )
        except self._wandb.errors.Error as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise NerpError(f"TRAIN.WANDB {cfg.TRAIN.WANDB}: {reason}. WANDB_MODE=offline in the "
                            "environment needs no account") from None

    def add(self, row: Row) -> None:
        self._run.log({**_followed(row), "epoch": row.epoch}, step=row.step)

    def close(self) -> None:
        self._run.finish()


@contextlib.contextmanager
def _needed(key: str, extra: str) -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise NerpError(f"{key} needs {extra}: pip install {extra}") from None
