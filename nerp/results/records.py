"""Reading the records (result.json) of runs below a folder."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nerp.base.errors import NerpError
from nerp.engine.record_file import read_record
from nerp.settings.protocols import RESULT_FILE, protocol


@dataclass(frozen=True)
class Record:
    """One measured run.

    Attributes:
        path: its result.json. kind: "train" (tested on the classes it learned) or "test".
        protocol, trainer, dataset (registry name), classes ("all", "base", "new"), shots, seed.
        accuracy: percent.
        looked_at: what NeRP's class pairs were found with; "" where nothing was corrected.
        on_base: whether NeRP corrects classes that were trained on, too (NERP.ON_BASE).
        substitute: what stood in for files that a method has and was not given, in words.
        digest: of the run's configuration, "" where the record has none.
    """

    path: Path
    kind: str
    protocol: str
    trainer: str
    dataset: str
    classes: str
    shots: int
    seed: int
    accuracy: float
    looked_at: str
    on_base: bool
    substitute: str
    digest: str

    @property
    def config(self) -> str:
        """The name of the method's configuration, by the run's place below the output folder."""
        return self.path.parent.parent.name

    def repeats(self, other: "Record") -> bool:
        """Whether the same run was done twice, with the same outcome."""
        mine, theirs = ((r.digest, r.accuracy, r.kind) for r in (self, other))
        return bool(self.digest) and mine == theirs


def collect(folders: Iterable[str | Path]) -> list[Record]:
    """Every measured run below `folders`, in the order of their paths.

    Raises NerpError where there is none, or one cannot be read.
    """
    folders = [Path(folder) for folder in folders]
    paths = dict.fromkeys(p for folder in folders for p in sorted(folder.rglob(RESULT_FILE)))
    records = [record for path in paths if (record := _read(path))]
    if not records:
        raise NerpError(f"no finished run ({RESULT_FILE}) below "
                        f"{', '.join(map(str, folders))}")
    return records


def _read(path: Path) -> Record | None:
    """None for a training that was not followed by a test."""
    try:
        content = read_record(path)
    except NerpError as error:
        raise NerpError(f"{error}; run it again with --overwrite, or move it away") from None
    if "accuracy" not in content:
        return None
    nerp = content.get("nerp", {})
    return Record(
        path=path,
        kind=content["kind"],
        protocol=protocol(content["task"]).name,
        trainer=content["trainer"],
        dataset=content["dataset"],
        classes=content["classes"],
        shots=content["shots"],
        seed=content["seed"],
        accuracy=float(content["accuracy"]),
        looked_at=nerp.get("looked_at", ""),
        on_base=nerp.get("on_base", False),
        substitute=content.get("substitute", ""),
        digest=content.get("identity", {}).get("config", ""),
    )
