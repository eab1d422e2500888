"""The files that a run leaves in its folder, and whether the run has been done before."""

import contextlib
import csv
import io
import json
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import torch

from nerp.base.distributed import is_main
from nerp.base.errors import NerpError, OtherRunError
from nerp.base.log import RunLog, command_line, environment, revision, say
from nerp.base.paths import clear_partials, holding, write_bytes, write_text
from nerp.base.printable import csv_cell, duration
from nerp.clip.model import pick_device
from nerp.correction.correction import Correction
from nerp.correction.wrapper import NeRP
from nerp.data.benchmark import distinct
from nerp.engine.calibrators import Calibrator
from nerp.engine.history import METRICS_FILE
from nerp.engine.identity import changes
from nerp.engine.metrics import confusion_matrix
from nerp.engine.record_file import run_digest
from nerp.engine.tested import Tested
from nerp.engine.train import STATE_FILE, forget_state
from nerp.files.arrays import TEXTS, Kind, read_arrays
from nerp.files.json_file import is_number, read_json
from nerp.settings.backbones import BACKBONE_KEY
from nerp.settings.protocols import CONFIG_FILE, PREDICTIONS_FILE, RESULT_FILE
from nerp.settings.resolve import Resolved
from nerp.settings.tree import get

CONFUSION_FILE = "confusion.csv"


def save_predictions(
    tested: Tested, nerp: NeRP | None, correction: Correction | None,
    identity: Mapping[str, object], calibrator: Calibrator | None = None,
) -> None:
    """Write predictions.npz: the run's identity, logits, labels, paths and classnames. With NeRP it
    also has corrected_logits, text_prior, image_prior and the priors of further references, pairs
    (class indices), and the other inputs of its rule. With a calibrator it has calibrated_logits.
    In the open world it has base (1 for a class that was trained on)."""
    arrays = {
        "identity": np.array(run_digest(identity)),
        "logits": tested.logits.numpy(),
        "labels": tested.labels,
        "paths": np.array([item.path for item in tested.items]),
        "classnames": np.array(tested.bench.classnames),
    }
    if nerp is not None and correction is not None:
        arrays |= {
            "corrected_logits": correction.apply(tested.logits).numpy(),
            **{f"{name}_prior": prior.values.numpy() for name, prior in nerp.priors.items()},
            "pairs": nerp.pairs.index.numpy(),
            **{name: value.numpy() for name, value in vars(nerp.extra).items()
               if value is not None},
        }
    if calibrator is not None:
        corrected = correction.apply(tested.logits) if correction else tested.logits
        arrays["calibrated_logits"] = calibrator.apply(corrected).numpy()
    if tested.base is not None:
        arrays["base"] = tested.base.astype(np.int64)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]  # none is called allow_pickle
    write_bytes(tested.directory / PREDICTIONS_FILE, content.getvalue())


def write_confusion(tested: Tested, correction: Correction | None) -> None:
    """Write confusion.csv: counts of images, one line per true class and one column per predicted
    class; with NeRP, for the corrected predictions."""
    predictions = (correction.predictions if correction else tested.logits.argmax(1)).numpy()
    names = distinct(tested.bench.classnames)
    counts = confusion_matrix(tested.labels, predictions, len(names))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true / predicted", *map(csv_cell, names)])
    writer.writerows([csv_cell(name), *row]
                     for name, row in zip(names, counts.tolist(), strict=True))
    write_text(tested.directory / CONFUSION_FILE, text.getvalue())


def is_finished(
    resolved: Resolved, identity: Mapping[str, object], overwrite: bool, wants: Sequence[str] = ()
) -> bool:
    """Whether the run directory holds this run, finished. With `overwrite` a finished run is
    removed from it.

    Raises NerpError if it holds a finished run that was asked for differently.
    """
    directory = resolved.directory
    result = directory / RESULT_FILE
    if overwrite:
        for name in (RESULT_FILE, STATE_FILE, PREDICTIONS_FILE, CONFUSION_FILE, METRICS_FILE,
                     "log.txt", CONFIG_FILE):
            (directory / name).unlink(missing_ok=True)
        return False
    if not result.is_file():
        for name in (PREDICTIONS_FILE, CONFUSION_FILE):  # left by a run that was killed
            (directory / name).unlink(missing_ok=True)
        return False
    try:
        record = read_json(result)
    except NerpError as error:
        raise NerpError(f"{error}; --overwrite runs it again") from None
    said = record.get("identity")
    found = said if isinstance(said, dict) else {}
    if found != identity:
        raise OtherRunError(f"{directory} holds a finished run of something else "
                            f"({changes(directory, resolved.cfg, found, identity)}): give another "
                            "--output-dir, or --overwrite to replace it")
    if all(_is_of(directory / name, identity) for name in wants):
        forget_state(directory)  # of a run that was killed after its last step
        accuracy = record.get("accuracy")
        known = f" (accuracy: {accuracy:.2f}%)" if is_number(accuracy) else ""
        say(f"finished already, skipped: {directory}{known}")
        return True
    return False


def _is_of(file: Path, identity: Mapping[str, object]) -> bool:
    """Whether a file exists and does not belong to another run."""
    if file.name != PREDICTIONS_FILE:
        return file.is_file()
    with contextlib.suppress(NerpError):
        said = read_arrays(file, {"identity": Kind(TEXTS, 0)})["identity"]
        return str(said) == run_digest(identity)
    return False


@contextlib.contextmanager
def claiming(directory: Path) -> Iterator[None]:
    """Hold a run directory for as long as the context lasts; of several processes, the main one
    does. Raises NerpError if another command holds it."""
    if not is_main():
        yield
        return
    with holding(directory):
        clear_partials(directory)
        yield


@contextlib.contextmanager
def recording(log: RunLog, resolved: Resolved) -> Iterator[dict[str, object]]:
    """Log to the run's folder, and write result.json if the work ends without an error.

    Of several processes, only the main one does this.
    """
    if not is_main():
        yield {}
        return
    directory, cfg = resolved.directory, resolved.cfg
    device = pick_device(cfg.USE_CUDA)
    versions = environment(device)
    origin = {
        "command": command_line.get(), "revision": revision(), "start": _clock_time(log.start)
    }
    listing = "\n".join(f"{name}: {value}" for name, value in {**versions, **origin}.items())
    log.write_to(directory, f"** Configuration **\n{cfg.dump()}\n** Where it comes from **\n"
                            f"{resolved.said()}\n\n** Environment **\n{listing}\n")
    write_text(directory / CONFIG_FILE, cfg.dump())
    record: dict[str, object] = {
        "trainer": cfg.TRAINER.NAME,
        "dataset": cfg.DATASET.NAME,
        "task": cfg.TASK,
        "classes": cfg.DATASET.SUBSAMPLE_CLASSES,
        "shots": cfg.DATASET.NUM_SHOTS,
        "seed": cfg.SEED,
        "backbone": get(cfg, BACKBONE_KEY),
    }
    try:
        yield record
    except NerpError as error:
        with contextlib.suppress(OSError):  # the log itself may be what cannot be written
            say(f"error: {error}", file_only=True)
        raise
    seconds = log.seconds()
    record |= {**origin, "end": _clock_time(time.time()), "seconds": round(seconds, 2)}
    record["peak_memory_mib"] = _peak_memory(device)
    record["versions"] = versions
    write_text(directory / RESULT_FILE, json.dumps(record, indent=1) + "\n")
    say(f"end: {record['end']}, after {duration(seconds)}", file_only=True)
    checkpoint = f", checkpoint: {record['checkpoint']}" if "checkpoint" in record else ""
    say(f"results in {directory}{checkpoint}")


def _clock_time(seconds: float) -> str:
    """Seconds since 1970 as the local date and time, with the offset from UTC."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _peak_memory(device: torch.device) -> int:
    """Peak memory in MiB: of the GPU if there is one, otherwise of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    return process_peak_mib()


def process_peak_mib() -> int:
    """The peak memory of this process in MiB.

    It is read from /proc if that exists: getrusage also counts memory that the parent process held
    when it started this one.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10
