"""What a run leaves in its folder, and whether it has been done before."""

import contextlib
import csv
import json
import resource
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
import yaml
from yacs.config import CfgNode

from nerp.clip.model import pick_device
from nerp.config import Request, card_file, difference
from nerp.correction.correction import Correction
from nerp.correction.wrapper import NeRP
from nerp.engine.distributed import is_main
from nerp.engine.history import METRICS_FILE
from nerp.engine.metrics import confusion_matrix
from nerp.engine.tested import Tested
from nerp.engine.train import STATE_FILE
from nerp.errors import NerpError, OtherRunError
from nerp.log import RunLog, command_line, environment, say
from nerp.paths import replacing, write_text
from nerp.printable import duration
from nerp.protocols import CONFIG_FILE, RESULT_FILE, run_dir

PREDICTIONS_FILE = "predictions.npz"
CONFUSION_FILE = "confusion.csv"


def output_dir(cfg: CfgNode, request: Request, phase: str) -> Path:
    """--output-dir, or the run's place below `output/`."""
    if cfg.OUTPUT_DIR:
        return Path(cfg.OUTPUT_DIR).expanduser()
    return run_dir(
        "output",
        task=cfg.TASK,
        phase=phase,
        classes=cfg.DATASET.SUBSAMPLE_CLASSES,
        dataset=card_file(request).stem,
        shots=cfg.DATASET.NUM_SHOTS,
        trainer=cfg.TRAINER.NAME,
        config=Path(request.config_file).stem if request.config_file else "default",
        seed=cfg.SEED,
    )


def save_predictions(
    tested: Tested, nerp: NeRP | None, correction: Correction | None
) -> None:
    """Write predictions.npz: logits, labels, paths and classnames; with NeRP also
    corrected_logits, text_prior, image_prior and those of further references, and pairs (class
    indices)."""
    arrays = {
        "logits": tested.logits.numpy(),
        "labels": tested.labels,
        "paths": np.array([item.path for item in tested.items]),
        "classnames": np.array(tested.bench.classnames),
    }
    if nerp is not None:
        arrays |= {
            "corrected_logits": correction.apply(tested.logits).numpy(),
            **{f"{name}_prior": prior.values.numpy() for name, prior in nerp.priors.items()},
            "pairs": nerp.pairs.index.numpy(),
        }
    with replacing(tested.directory / PREDICTIONS_FILE) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **arrays)


def write_confusion(tested: Tested, correction: Correction | None) -> None:
    """Write confusion.csv: a line a true class, a column a predicted one, counts of images; with
    NeRP, of the corrected predictions."""
    predictions = (correction.predictions if correction else tested.logits.argmax(1)).numpy()
    names = tested.bench.classnames
    counts = confusion_matrix(tested.labels, predictions, len(names))
    with (
        replacing(tested.directory / CONFUSION_FILE) as partial,
        open(partial, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["true / predicted", *names])
        writer.writerows([name, *row] for name, row in zip(names, counts.tolist(), strict=True))


def is_finished(
    directory: Path, identity: dict, cfg: CfgNode, overwrite: bool, wants: list[str] = ()
) -> bool:
    """Whether the folder holds this very run, finished; with `overwrite` it is emptied of it.

    Raises NerpError where it holds a finished run that was asked for differently.
    """
    result = directory / RESULT_FILE
    if overwrite:
        for name in (RESULT_FILE, STATE_FILE, PREDICTIONS_FILE, CONFUSION_FILE, METRICS_FILE,
                     "log.txt", CONFIG_FILE):
            (directory / name).unlink(missing_ok=True)
        return False
    if not result.is_file():
        return False
    try:
        found = json.loads(result.read_text())
    except ValueError:
        raise NerpError(f"{result} is damaged; --overwrite runs it again") from None
    if found.get("identity") != identity:
        changes = _changes(directory, cfg, found.get("identity", {}), identity)
        raise OtherRunError(f"{directory} holds a finished run of something else ({changes}): give "
                            "another --output-dir, or --overwrite to replace it")
    if all((directory / name).is_file() for name in wants):
        say(f"finished already, skipped: {directory}")
        return True
    return False


def _changes(directory: Path, cfg: CfgNode, old: dict, new: dict) -> str:
    if old.get("config") != new.get("config") and (directory / CONFIG_FILE).is_file():
        before = CfgNode(yaml.safe_load((directory / CONFIG_FILE).read_text()))
        lines = difference(before, CfgNode(yaml.safe_load(cfg.dump())))
        more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
        if lines:
            return "; ".join(lines[:3]) + more
    keys = [key for key in new if old.get(key) != new[key]]
    return "another " + " and ".join(keys)


@contextlib.contextmanager
def recording(log: RunLog, directory: Path, cfg: CfgNode) -> Iterator[dict]:
    """Log to the run's folder, and write result.json if the work ends without an error.

    Of several processes the main one does.
    """
    if not is_main():
        yield {}
        return
    device = pick_device(cfg.USE_CUDA)
    versions = environment(device)
    when = {"command": command_line.get(), "start": _clock_time(log.start)}
    listing = "\n".join(f"{name}: {value}" for name, value in {**versions, **when}.items())
    log.write_to(directory, f"** Configuration **\n{cfg.dump()}\n** Environment **\n{listing}\n")
    write_text(directory / CONFIG_FILE, cfg.dump())
    record: dict = {
        "trainer": cfg.TRAINER.NAME,
        "dataset": cfg.DATASET.NAME,
        "task": cfg.TASK,
        "classes": cfg.DATASET.SUBSAMPLE_CLASSES,
        "shots": cfg.DATASET.NUM_SHOTS,
        "seed": cfg.SEED,
    }
    try:
        yield record
    except NerpError as error:
        say(f"error: {error}", file_only=True)
        raise
    end = time.time()
    record |= {**when, "end": _clock_time(end), "seconds": round(end - log.start, 2)}
    record["peak_memory_mib"] = _peak_memory(device)
    record["versions"] = versions
    write_text(directory / RESULT_FILE, json.dumps(record, indent=1) + "\n")
    say(f"end: {record['end']}, after {duration(end - log.start)}", file_only=True)
    checkpoint = f", checkpoint: {record['checkpoint']}" if "checkpoint" in record else ""
    say(f"results in {directory}{checkpoint}")


def _clock_time(seconds: float) -> str:
    """Seconds since 1970 as the local date and time, with its distance from UTC."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _peak_memory(device: torch.device) -> int:
    """MiB: of the device where there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    return process_peak_mib()


def process_peak_mib() -> int:
    """MiB of memory that this process has had at most.

    From /proc where there is one: getrusage also counts what the process that started this one
    held when it did.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10
