"""The records of a table, by row, dataset and part; and the tables that a record belongs to."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from nerp.base.errors import NerpError
from nerp.results.published import domain_shifts, in_published_order
from nerp.results.readings import ALONE, OPEN, OPEN_PARTS
from nerp.results.records import LOG, SOURCE, TAKEN, Record
from nerp.settings.backbones import DEFAULT_BACKBONE
from nerp.settings.catalogue import drawn_names, learns, methods
from nerp.settings.protocols import NERP_SUFFIX, SAR_SUFFIX, bare_name, plain_name, trained_name

BASE, NOVEL = "Base", "Novel"
_PARTS = {"base": BASE, "new": NOVEL, "all": ""}
_SHOT = "-shot"
SUBSTITUTE, ALSO_SEEN = "substitute", "also seen"
_ORDER = ("test", "train", TAKEN, LOG)  # of several records of one place, the first kind is used
# The marks of numbers that looked at test data or may have; that had other training texts than the
# published method; or whose training saw more than labelled images.
MARKS = {
    "test images already seen": ("s", "in a stream: NeRP looked at the test images before each"),
    "test images": ("†", "transductive: NeRP looked at the unlabelled test images"),
    "test labels": ("‡", "upper bound: NeRP looked at the test labels"),
    "unknown": ("§", "NeRP's class pairs come from a file that does not say what they were found "
                     "with"),
    SUBSTITUTE: ("¶", "trained with templates in place of sentence files that were not given: not "
                      "the published method"),
    TAKEN: ("°", "taken from the open-world test, where the method has the same logits for these "
                 "classes"),
    LOG: ("◊", "from the log.txt of a published run, which says no more than it"),
    ALSO_SEEN: ("‖", "trained with more than labelled images of the trained classes: unlabelled "
                     "ones, or names of novel classes (also_seen in result.json says which)"),
}
HARMLESS = MARKS[TAKEN][0]  # it does not make a number doubtful
INCOMPLETE = "*"  # the mark of a number that lacks some seeds
# The note on a NeRP row that has base accuracies without runs of its own.
BORROWED = ("NeRP leaves classes that were trained on alone: where it was not run on base classes, "
            "the plain method's base accuracy stands.")

# The notes on methods whose settings, as their authors chose them, depend on more than training
# data.
_BETA = ("MMRLpp: its BETA is chosen by the dataset under test, as its authors did "
         "(configs/trainers/MMRLpp/vit_b16_cross_datasets.yaml).")
_SAR = ("_SAR: its weight is chosen by dataset and method (configs/sar.yaml); its related class "
        "names were written by a language model, which knows the benchmarks.")


class Grid:
    """Records by row, dataset and part. The part is BASE or NOVEL, in few-shot 1-shot and so on,
    otherwise "".

    Training ends with a test on the trained classes; a separate test of the same replaces it. NeRP
    does not correct trained classes unless told to (NERP.ON_BASE). So if a NeRP run on novel
    classes has none on base classes, its base accuracy is the plain method's of the same seed.
    `borrows` says whether this happens.

    A method that learns nothing is not random: if all its runs of a place have one number, that
    number serves every seed.

    Args:
        seeds: the seeds of a complete cell. datasets: the datasets of a complete row.
        parts: the parts of the table, on any backbone.
        by_config: one row per method and configuration instead of one per method.
    Raises NerpError if two records claim the same place.
    """

    def __init__(
        self, records: Iterable[Record], seeds: tuple[int, ...], datasets: Iterable[str],
        parts: Iterable[str], by_config: bool,
    ):
        records = sorted(records, key=lambda r: _ORDER.index(r.kind))
        self.seeds = seeds
        self.datasets = set(datasets)
        self.parts = _in_order(parts)
        self._places: dict[tuple[str, str, str], dict[int, Record]] = {}
        for record in records:
            row = f"{record.trainer} ({record.config})" if by_config else record.trainer
            row += f" + {record.calibration}" if record.calibration else ""
            for part, shown in _parts(record):
                self._place(row, part, shown)
        for (row, _, _), there in self._places.items():
            if is_seedless(trainer_of(row)) and len({r.number for r in there.values()}) == 1:
                there |= dict.fromkeys(seeds, next(iter(there.values())))
                for seed in there.keys() - {*seeds}:
                    del there[seed]
        self.borrows = self._borrow_base()

    def _place(self, row: str, part: str, record: Record) -> None:
        there = self._places.setdefault((row, record.dataset, part), {}).setdefault(
            record.seed, record)
        twice = there is not record and there.kind == record.kind
        if twice and not record.repeats(there):
            raise NerpError(f"two results for {row} on {record.dataset} ({record.classes}, "
                            f"{record.shots} shots, seed {record.seed}): {there.path} and "
                            f"{record.path}. Name a narrower folder, or have nerp table give each "
                            "configuration a row: --by-config")

    def _borrow_base(self) -> bool:
        borrows = False
        for (row, dataset, part), novel in list(self._places.items()):
            if part != NOVEL or without_nerp(row) == row:
                continue
            plain = self.records(without_nerp(row), dataset, BASE)
            own = self.records(row, dataset, BASE)
            lent = {seed: plain[seed] for seed, record in novel.items()
                    if not record.on_base and seed in plain and seed not in own}
            if lent:
                self._places[row, dataset, BASE] = own | lent
                borrows = True
        return borrows

    @property
    def _parts_of_runs(self) -> list[str]:
        """`parts`, with one entry for all parts that one run fills."""
        return [OPEN] if OPEN in self.parts else self.parts

    @property
    def rows(self) -> list[str]:
        """Labels in the order of the methods, each NeRP row after its plain one."""
        order = {name: i for i, name in enumerate(methods())}

        def key(label: str) -> tuple[int, str, str, bool, str]:
            trainer = trainer_of(label)
            plain = bare_name(trainer)
            return (order.get(plain, len(order)), plain, trained_name(trainer),
                    trainer.endswith(NERP_SUFFIX), label)

        return sorted({row for row, _, _ in self._places}, key=key)

    def records(self, row: str, dataset: str, part: str) -> dict[int, Record]:
        """Seed -> record."""
        return self._places.get((row, dataset, part), {})

    def series(self, row: str, dataset: str, part: str) -> dict[int, float]:
        """Seed -> number."""
        return {seed: r.number for seed, r in self.records(row, dataset, part).items()}

    def average(self, row: str, datasets: Iterable[str], part: str) -> dict[int, float]:
        """Seed -> mean number over `datasets`; {} if one of them lacks a seed."""
        each = [self.series(row, dataset, part) for dataset in datasets]
        if any(set(one) != set(self.seeds) for one in each):
            return {}
        return {seed: fmean(one[seed] for one in each) for seed in self.seeds}

    def marks(self, row: str, datasets: Iterable[str], parts: Iterable[str]) -> str:
        """The marks of numbers made from these places, wherever they are shown."""
        records = [
            record for dataset in datasets for part in parts
            for record in self.records(row, dataset, part).values()
        ]
        said = {record.looked_at for record in records}
        said |= {SUBSTITUTE for record in records if record.substitute}
        said |= {record.kind for record in records if record.kind in (TAKEN, LOG)}
        said |= {ALSO_SEEN for record in records if record.also_seen}
        return "".join(mark for name, (mark, _) in MARKS.items() if name in said)

    def missing(self, rows: Iterable[str], parts: Iterable[str] = ()) -> list[str]:
        """What `rows` lack: datasets and `parts` (default: all) with the missing seeds."""
        lines = []
        for row in rows:
            for dataset in in_published_order(self.datasets):
                for part in parts or self._parts_of_runs:
                    there = self.records(row, dataset, part)
                    if lacking := [str(seed) for seed in self.seeds if seed not in there]:
                        place = " ".join(filter(None, (row, dataset, part.replace(OPEN, ""))))
                        lines.append(f"{place} (seed {', '.join(lacking)})")
        return lines


def is_seedless(trainer: str) -> bool:
    """Whether a method, corrected or not, is not random: it learns nothing."""
    plain = plain_name(trainer)
    return plain in methods() and not learns(plain)


def trainer_of(label: str) -> str:
    """The method in a row's label: MMRL_NeRP (mine) -> MMRL_NeRP."""
    return label.split(" ")[0]


def with_nerp(label: str) -> str:
    """The label of a row's correction: MMRL (mine) -> MMRL_NeRP (mine)."""
    trainer = trainer_of(label)
    return trainer + NERP_SUFFIX + label.removeprefix(trainer)


def without_nerp(label: str) -> str:
    """The label of a row without _NeRP: MMRL_NeRP (mine) -> MMRL (mine)."""
    trainer = trainer_of(label)
    return trained_name(trainer) + label.removeprefix(trainer)


def cautions(protocol: str, rows: Iterable[str]) -> list[str]:
    """The notes that belong to numbers of these rows, wherever they are shown."""
    trainers = {trained_name(trainer_of(row)) for row in rows}
    lines = []
    if protocol == "cross_dataset" and any(plain_name(t) == "MMRLpp" for t in trainers):
        lines.append(_BETA)
    if any(t.endswith(SAR_SUFFIX) for t in trainers):
        lines.append(_SAR)
    return lines


def meanings(marks: str) -> list[str]:
    """A line that explains each of `MARKS` in a text."""
    return [f"{mark} {meaning}." for mark, meaning in MARKS.values() if mark in marks]


@dataclass(frozen=True)
class Part:
    """The records of one table.

    Attributes:
        name: base_to_novel, open_world, cross_dataset, domain_generalisation or few_shot.
        shots: 0 in few-shot, which has several. drawn: whether it is of drawn benchmarks.
        backbone: by name. beside: whether the table has other backbones too.
        source: [the dataset that cross-dataset models were trained on], or [] if it is missing.
        averaged: the datasets in an average, in the papers' order.
        metric: of the numbers (`METRICS`). bins: of a calibration error, 0 if unknown.
        calibrators: name -> what the calibrator has looked at.
        left_out: records that contradict their own protocol, as `_saying` assigns them to this
            part.
    """

    name: str
    shots: int
    drawn: bool
    backbone: str
    beside: bool
    grid: Grid
    source: list[str]
    averaged: list[str]
    metric: str
    bins: int
    calibrators: dict[str, str]
    left_out: tuple[Record, ...] = ()

    @property
    def cautions(self) -> list[str]:
        """Notes below the table about records that are not in it."""
        lines = []
        for why in dict.fromkeys(record.contradiction for record in self.left_out):
            first, *more = [record for record in self.left_out if record.contradiction == why]
            others = f", and {len(more)} more like it" if more else ""
            lines.append(f"Left out: {first.path.parent}{others}: {why}.")
        return lines


def split(records: Iterable[Record], seeds: Iterable[int], by_config: bool) -> list[Part]:
    """The tables for `records`, one per backbone. Drawn benchmarks have tables of their own. The
    source of a cross-dataset experiment is in both of its tables if both have other datasets.

    Args:
        seeds: the seeds that every cell must have; other seeds are left out. (): all that occur.
        by_config: see `Grid`.

    Raises NerpError if two records claim the same place, several sources occur, none of the seeds
    occurs, or all records contradict their protocol.
    """
    seeds, drawn = tuple(seeds), drawn_names()
    records = [record for record in records
               if not seeds or record.seed in seeds or is_seedless(record.trainer)]
    if not records:
        raise NerpError(f"there are no results of seed {', '.join(map(str, seeds))}")
    left_out = [record for record in records if record.contradiction]
    records = [record for record in records if not record.contradiction]
    if not records:
        raise NerpError("every result contradicts its protocol: "
                        f"{left_out[0].path.parent}: {left_out[0].contradiction}")
    parts = []
    unshown: dict[tuple[str, int, bool], list[Record]] = {}
    for are_drawn in (False, True):
        world = [record for record in records if (record.dataset in drawn) == are_drawn]
        source = _source(world)
        for (name, shots), chosen in sorted(_by_table(world, source).items()):
            there = seeds or _seeds(chosen)
            datasets = {r.dataset for r in chosen}
            shown = {part for record in chosen for part, _ in _parts(record)}
            crossing = name in ("cross_dataset", "domain_generalisation")
            first = [source] if crossing and source in datasets else []
            averaged = in_published_order(datasets - set(first))
            backbones = _backbones(chosen)
            for backbone, own in backbones.items():
                calibrators = {r.calibration: r.calibrated_on for r in own if r.calibration}
                parts.append(Part(
                    name, shots, are_drawn, backbone, len(backbones) > 1,
                    Grid(own, there, datasets, shown, by_config), first, averaged, own[0].metric,
                    max(record.bins for record in own), calibrators,
                ))
        outside = [record for record in left_out if (record.dataset in drawn) == are_drawn]
        unshown |= {(*key, are_drawn): of_table
                    for key, of_table in _by_table(outside, source).items()}
    return _saying(parts, unshown)


def _saying(parts: list[Part], unshown: Mapping[tuple[str, int, bool], list[Record]]) -> list[Part]:
    """Parts with the records that were left out of them. If a record's table and backbone have no
    other records, the record is assigned once: to the first part of its protocol, or of all.

    Args: unshown: what was left out, by a table's name, its shots and whether it is drawn.
    """
    places = {(part.name, part.shots, part.drawn, part.backbone): i for i, part in enumerate(parts)}
    said: list[dict[Path, Record]] = [{} for _ in parts]
    alone = []
    for table, records in unshown.items():
        for record in records:
            if (place := places.get((*table, record.backbone))) is None:
                alone.append((table[0], record))
            else:
                said[place][record.path] = record
    for name, record in alone:
        if not any(record.path in there for there in said):
            near = next((i for i, part in enumerate(parts) if part.name == name), 0)
            said[near][record.path] = record
    return [replace(part, left_out=tuple(there.values()))
            for part, there in zip(parts, said, strict=True)]


def _seeds(records: Iterable[Record]) -> tuple[int, ...]:
    """The seeds that occur. Seeds of methods that learn nothing are used only if no others
    occur."""
    records = list(records)
    drawn = {r.seed for r in records if not is_seedless(r.trainer)}
    return tuple(sorted(drawn or {r.seed for r in records}))


def _backbones(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by backbone, the default one first."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.backbone, []).append(record)
    return dict(sorted(found.items(), key=lambda item: (item[0] != DEFAULT_BACKBONE, item[0])))


def _by_table(records: Iterable[Record], source: str) -> dict[tuple[str, int], list[Record]]:
    """(a table's name, its shots) -> records."""
    tables: dict[tuple[str, int], list[Record]] = defaultdict(list)
    of_source = []
    for record in records:
        if record.protocol == "few_shot":
            tables["few_shot", 0].append(record)
        elif record.protocol == "cross_dataset" and record.dataset == source:
            of_source.append(record)
        elif record.protocol == "open_world" and record.kind == "train":
            tables["base_to_novel", record.shots].append(record)  # the training is the same
        else:
            tables["base_to_novel", record.shots] += record.halves()
            shifted = record.protocol == "cross_dataset" and record.dataset in domain_shifts()
            name = "domain_generalisation" if shifted else record.protocol
            tables[name, record.shots].append(record)
    for record in of_source:
        pair = [(name, record.shots) for name in ("cross_dataset", "domain_generalisation")]
        for key in [key for key in pair if key in tables] or pair[:1]:
            tables[key].append(record)
    return {key: of_table for key, of_table in tables.items() if of_table}


def _parts(record: Record) -> list[tuple[str, Record]]:
    """The parts of a table for which a record has a number."""
    if record.protocol == "few_shot":
        return [(f"{record.shots}{_SHOT}", record)]
    if record.open_parts and record.kind != TAKEN:
        return [(part, replace(record, number=number))
                for part, number in record.open_parts.items()]
    return [(_PARTS[record.classes], record)]


def _in_order(parts: Iterable[str]) -> list[str]:
    """The parts that a table shows for every dataset: the parts that occur, or both halves."""
    there = set(parts)
    if there & {*ALONE, OPEN}:
        return [part for part in (*ALONE, *OPEN_PARTS) if part in there]
    if there & {BASE, NOVEL}:
        return [BASE, NOVEL]
    return sorted(there, key=lambda part: int(part.removesuffix(_SHOT) or 0))


def _source(records: Iterable[Record]) -> str:
    """The dataset that cross-dataset models were trained on."""
    trained = {r.dataset for r in records if r.protocol == "cross_dataset" and r.kind == "train"}
    if len(trained) > 1:
        raise NerpError(f"cross-dataset models from several sources ({', '.join(sorted(trained))}) "
                        "in one folder: their tests cannot be told apart. Name the folder of one")
    return trained.pop() if trained else SOURCE
