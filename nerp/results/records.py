"""Reading the records (result.json) of runs below a folder."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from nerp.base.errors import NerpError
from nerp.engine.record_file import number, read_record
from nerp.results.logs import LOG_FILE, read_log
from nerp.results.readings import ACCURACY, HALVES, open_parts
from nerp.settings.backbones import BACKBONE_KEY, DEFAULT_BACKBONE, backbone_in
from nerp.settings.protocols import CONFIG_FILE, RESULT_FILE, protocol

TAKEN = "open"
LOG = "log"
SOURCE = "ImageNet"  # the source of cross-dataset models that do not name another


@dataclass(frozen=True)
class Record:
    """One measured run.

    Attributes:
        path: its result.json. kind: "train" (tested on the trained classes), "test"; `TAKEN` for
            the half of an open-world test that also serves as that half's test; `LOG` for a
            published run's log.txt.
        protocol, trainer, dataset (registry name), classes ("all", "base", "new"), shots, seed.
        backbone: as MODEL.BACKBONE.NAME.
        metric: one of `METRICS`. number: its value.
        looked_at: what NeRP's class pairs were found with; "" without a correction.
        on_base: whether NeRP also corrects classes that were trained on (NERP.ON_BASE).
        substitute: what replaced files that the method needs and did not get, in words.
        also_seen: what training has seen beyond the labelled images, in words.
        contradiction: why the number does not belong to its protocol, in words.
        digest: of the run's configuration, "" if the record has none.
        bins: of a calibration error. calibration: the calibrator's name, "" for none, and
            calibrated_on what it has looked at.
        open_parts: the numbers of an open-world test by part. stands_for: the halves whose
            base-to-novel tests have the same numbers.
    """

    path: Path
    kind: str
    protocol: str
    trainer: str
    dataset: str
    classes: str
    shots: int
    seed: int
    metric: str
    number: float
    looked_at: str
    on_base: bool
    substitute: str
    also_seen: str
    digest: str
    bins: int = 0
    calibration: str = ""
    calibrated_on: str = ""
    open_parts: Mapping[str, float] = field(default_factory=dict)
    stands_for: tuple[str, ...] = ()
    contradiction: str = ""
    backbone: str = DEFAULT_BACKBONE

    @property
    def config(self) -> str:
        """The name of the method's configuration, from the run's place below the output folder."""
        return self.path.parent.parent.name

    def halves(self) -> list["Record"]:
        """The base-to-novel tests whose numbers an open-world test also has."""
        return [replace(self, kind=TAKEN, protocol="base_to_novel", classes=half,
                        number=self.open_parts[part])
                for half, part in HALVES.items()
                if half in self.stands_for and part in self.open_parts]

    def repeats(self, other: "Record") -> bool:
        """Whether both are the same run, done twice with the same outcome."""
        mine, theirs = ((r.digest, r.number, r.kind) for r in (self, other))
        return bool(self.digest) and mine == theirs


def collect(folders: Iterable[str | Path], metric: str = ACCURACY) -> list[Record]:
    """Every measured run below `folders`, in the order of their paths.

    Raises NerpError if there is none, or if one cannot be read.
    """
    below = [Path(folder) for folder in folders]
    paths = dict.fromkeys(p for folder in below for p in sorted(folder.rglob(RESULT_FILE)))
    records = [record for path in paths if (record := _read(path, metric))]
    logs = dict.fromkeys(p for folder in below for p in sorted(folder.rglob(LOG_FILE)))
    records += [record for path in logs if not (path.parent / RESULT_FILE).exists()
                and (record := _of_log(path, metric))]
    if not records:
        raise NerpError(f"no finished run ({RESULT_FILE}) below "
                        f"{', '.join(map(str, below))}")
    return records


def _of_log(path: Path, metric: str) -> Record | None:
    """The record of a published log; None if the log has no such number."""
    said = read_log(path)
    if said is None or metric not in said:
        return None
    dataset, classes = said["DATASET.NAME"], said["DATASET.SUBSAMPLE_CLASSES"]
    crossing = "imagenet" in said["model_dir"].lower() and dataset != SOURCE
    whole = "cross_dataset" if crossing else "few_shot"
    shots, seed = (int(said[name]) if re.fullmatch(r"\d{1,9}", said[name]) else 0
                   for name in ("DATASET.NUM_SHOTS", "SEED"))
    return Record(
        path=path, kind=LOG, protocol=whole if classes == "all" else "base_to_novel",
        trainer=said["TRAINER.NAME"], dataset=dataset,
        classes=classes if classes in ("base", "new") else "all", shots=shots, seed=seed,
        metric=metric, number=float(said[metric]), looked_at="", on_base=False, substitute="",
        also_seen="", digest="", backbone=said.get(BACKBONE_KEY, DEFAULT_BACKBONE),
    )


def _read(path: Path, metric: str) -> Record | None:
    """The record in a file; None for a training without a test."""
    try:
        content = read_record(path)
    except NerpError as error:
        raise NerpError(f"{error}; run it again with --overwrite, or move it away") from None
    if "accuracy" not in content:
        return None
    measured = number(content, metric)
    if measured is None:
        raise NerpError(f"{path}: the record has no {metric}; nerp test --overwrite measures it")
    nerp, calibration = content.get("nerp", {}), content.get("calibration", {})
    is_open = "open_world" in content
    return Record(
        path=path,
        kind=content["kind"],
        protocol=protocol(content["task"]).name,
        trainer=content["trainer"],
        dataset=content["dataset"],
        classes=content["classes"],
        shots=content["shots"],
        seed=content["seed"],
        metric=metric,
        number=measured,
        looked_at=nerp.get("looked_at", ""),
        on_base=nerp.get("on_base", False),
        substitute=content.get("substitute", ""),
        also_seen=content.get("also_seen", ""),
        digest=content.get("identity", {}).get("config", ""),
        bins=content.get("bins", 0),
        calibration=calibration.get("name", ""),
        calibrated_on=calibration.get("looked_at", ""),
        open_parts=open_parts(content, metric) if is_open else {},
        stands_for=tuple(content["open_world"]["stands_for"]) if is_open else (),
        contradiction=content.get("contradiction", ""),
        backbone=content.get("backbone") or backbone_in(path.with_name(CONFIG_FILE))
        or DEFAULT_BACKBONE,  # records of earlier versions do not say it
    )
