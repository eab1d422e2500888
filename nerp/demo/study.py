"""A controlled study of NeRP where the true pre-training frequency of every class is known.

According to the paper, unequal frequency in pre-training leaves a preference that shows before any
evidence (the priors), and this preference makes confusions one-sided. On the drawn world every link
of this chain can be measured: the oracle gain of a class bias (the ceiling), the bias that achieves
it, how well each neutral reference predicts that bias, and how much each rule gains, beside a
shuffled control.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.paths import write_text
from nerp.base.registry import TRAINERS
from nerp.clip.loading import SHIPPED
from nerp.correction.looked_at import CAVEATS, TEST_LABELS
from nerp.correction.matching import uniform_bias
from nerp.correction.shifting import Shift, Shifted, shift
from nerp.correction.wrapper import Material, build_nerp, find_priors, values
from nerp.demo.world import WORLDS, build
from nerp.engine.correct import gather_material
from nerp.engine.identity import digest
from nerp.engine.metrics import asymmetry, confusion_matrix, spearman
from nerp.engine.run import run_training
from nerp.engine.tested import Tested
from nerp.files.json_file import read_json
from nerp.settings import catalogue
from nerp.settings.cards import find_method_file
from nerp.settings.protocols import NERP_SUFFIX, run_dir
from nerp.settings.resolve import Request, resolve

METHODS = ("ZeroshotCLIP", "CoOp", "CoCoOp", "PromptSRC", "MMA", "MMRL")
BACKBONES = tuple(SHIPPED)
ALL_REFERENCES = ("text", "image", "others", "gap")
# The corrections that are tried on every model: name -> settings of NeRP. Rules are tried on novel
# and on base classes, references on novel classes alone, since some show the base classes.
RULES_TRIED: dict[str, dict[str, object]] = {
    "match": {"RULE": "match"},
    "released rule": {"RULE": "flip", "THRESHOLDS": "default"},
    "released rule, calibrated": {"RULE": "flip", "THRESHOLDS": "calibrated"},
    "shift": {"RULE": "shift"},
    "shift, calibrated": {"RULE": "shift", "THRESHOLDS": "calibrated"},
    "shift in pairs": {"RULE": "shift", "SCOPE": "pairs"},
}
REFERENCES_TRIED: dict[str, dict[str, object]] = {
    **{name: {"RULE": "shift", "REFERENCES": [name]} for name in ALL_REFERENCES},
    "all four": {"RULE": "shift", "REFERENCES": list(ALL_REFERENCES)},
}
CORRECTIONS = {**RULES_TRIED, **REFERENCES_TRIED}
SHUFFLES = 20
ORACLE = np.linspace(0, 5, 51)  # multiples of log frequency, in logits


class Gain(TypedDict, total=False):
    """A correction's gain in points, its flips, and the data it has looked at, with its caveat. The
    ceiling has no flips."""

    gain: float
    flips: int
    looked_at: str
    caveat: str


class Half(TypedDict):
    """For one half of the classes: the accuracy in percent, and the gain of each correction."""

    accuracy: float
    gains: dict[str, Gain]


class Oracle(TypedDict):
    """The best gain from subtracting a multiple of log frequency, chosen on test labels: the gain
    in points, the multiple in logits per unit of log frequency, and the caveat."""

    gain: float
    multiple: float
    caveat: str


class Sides(TypedDict):
    """Asymmetry of confusion: measured, by chance alone, after the shift; None if there is none."""

    measured: float | None
    chance: float | None
    after: float | None


class Measured(Half):
    """The results of `measure` for one model."""

    classes: int
    strengths: dict[str, float]
    shuffled: float
    oracle: Oracle
    links: dict[str, dict[str, float | None]]
    asymmetry: Sides


class CaseRecord(Measured):
    """The content of a case's study.json: `measure` on its novel classes, and the case."""

    identity: str
    backbone: str
    dataset: str
    method: str
    seed: int
    base: Half


@dataclass(frozen=True)
class Settings:
    """What the study runs, and where it reads and writes.

    Attributes: world_seed: draws other images of the same classes, into folders of their own below
    root and output; None for the shipped ones.
    """

    backbones: tuple[str, ...] = BACKBONES
    datasets: tuple[str, ...] = tuple(WORLDS)
    methods: tuple[str, ...] = METHODS
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    root: str = "data"
    output: str = "output/study"
    world_seed: int | None = None


def run_study(settings: Settings, tell: Callable[[str], None]) -> list[CaseRecord]:
    """Every case's record (`measure`). Each is kept in its run's folder and not measured again."""
    if settings.world_seed is not None:
        world = f"world{settings.world_seed}"
        settings = replace(settings, root=str(Path(settings.root) / world),
                           output=str(Path(settings.output) / world))
        for dataset in settings.datasets:
            build(dataset, settings.root, seed=settings.world_seed)
    cases = list(_cases(settings))
    records = []
    for i, (backbone, dataset, method, seed) in enumerate(cases, 1):
        tell(f"[{i}/{len(cases)}] {backbone} {dataset} {method} seed {seed}")
        records.append(_case(settings, backbone, dataset, method, seed))
    return records


def _cases(settings: Settings) -> Iterator[tuple[str, str, str, int]]:
    for backbone, dataset, method in product(
        settings.backbones, settings.datasets, settings.methods
    ):
        # Zero-shot CLIP learns nothing, and nothing in its test is random.
        seeds = settings.seeds if TRAINERS[method].folder else settings.seeds[:1]
        yield from ((backbone, dataset, method, seed) for seed in seeds)


def _case(
    settings: Settings, backbone: str, dataset: str, method: str, seed: int
) -> CaseRecord:
    def request(classes: str, phase: str) -> Request:
        directory = run_dir(
            settings.output, task="B2N", phase=phase, classes=classes, dataset=dataset, shots=16,
            trainer=method, config=backbone, seed=seed,
        )
        return Request(
            # A test is of the model and of its correction.
            trainer=method + NERP_SUFFIX if phase == "test" else method,
            dataset=dataset,
            config_file=str(find_method_file(catalogue.config_file(method, "tiny"))),
            root=settings.root,
            seed=seed,
            output_dir=str(directory),
            opts=["TASK", "B2N", "DATASET.SUBSAMPLE_CLASSES", classes, "MODEL.BACKBONE.NAME",
                  backbone, "TEST.NO_TEST", "True"],
        )

    test = resolve(request("new", "test"))
    kept = test.directory / "study.json"
    identity = digest(test.cfg)
    if kept.is_file():
        with contextlib.suppress(NerpError):  # a damaged record is measured again
            found = read_json(kept)
            if found.get("identity") == identity:
                return cast(CaseRecord, found)  # its identity shows that this code wrote it
    model_dir = ""
    if TRAINERS[method].folder:
        model_dir = str(run_training(request("base", "train")))
    base, novel = (
        Tested(resolve(replace(request(part, "test"), model_dir=model_dir)))
        for part in ("base", "new")
    )
    record: CaseRecord = {
        "identity": identity, "backbone": backbone, "dataset": dataset, "method": method,
        "seed": seed, **measure(novel, backbone),
        "base": _gains(base, gather_material(base), RULES_TRIED),
    }
    write_text(kept, json.dumps(record, indent=1) + "\n")
    return record


def measure(tested: Tested, backbone: str) -> Measured:
    """The study's measurements of one model on its novel classes; accuracies and gains in percent.

    - `gains`: of the ceiling and of each of `CORRECTIONS`, with what each has looked at.
    - `shuffled`: the mean gain of the automatic shift with its bias permuted over the classes.
    - `oracle`: the best gain from subtracting a multiple of log frequency, chosen on test labels.
    - `links`: for each reference's prior and for log frequency, Spearman's correlation with the
      bias that fits the test labels best; for the priors also the correlation with log frequency
      and `slope`, the multiple of the prior that is nearest to that bias.
    - `asymmetry`: of the confusion matrix, by chance alone, and after the shift.
    """
    logits, labels = tested.logits, torch.from_numpy(tested.labels)
    names = tested.bench.classnames
    log_frequency = torch.tensor(
        [pretraining_share(backbone, tested.cfg.DATASET.DIRECTORY, name) for name in names]
    ).log()
    material = gather_material(tested)
    found = find_priors(tested.trainer, tested.cfg.NERP, material, ALL_REFERENCES)
    priors = {name: prior - prior.mean() for name, prior in values(found).items()}
    fitted = uniform_bias(logits, labels.bincount(minlength=len(names)) / len(labels))
    over = _over_prediction(logits, tested.labels)
    automatic = build_nerp(tested.trainer, _settings(tested.cfg, "shift"), material)
    shifted = automatic.correct(logits)
    assert isinstance(automatic.rule, Shift) and isinstance(shifted, Shifted)
    before, after = (
        asymmetry(confusion_matrix(tested.labels, predictions.numpy(), len(names)))
        for predictions in (logits.argmax(1), shifted.predictions)
    )
    return {
        "classes": len(names),
        **_gains(tested, material, CORRECTIONS),
        "strengths": dict(automatic.rule.strengths),
        "shuffled": _shuffled(logits, labels, shifted.bias, tested.cfg.SEED),
        "oracle": _oracle(logits, labels, log_frequency),
        "links": {
            "frequency": {"bias": spearman(log_frequency, fitted),
                          "over-prediction": spearman(log_frequency, over)},
            **{
                name: {"bias": spearman(prior, fitted),
                       "frequency": spearman(prior, log_frequency),
                       "slope": float(prior @ fitted / prior.square().sum())}
                for name, prior in priors.items()
            },
        },
        "asymmetry": {"measured": before.total, "chance": before.chance, "after": after.total},
    }


def pretraining_share(backbone: str, world: str, classname: str) -> float:
    """The share of a shipped backbone's pre-training images that a class had, by its record."""
    record = json.loads(SHIPPED[backbone].with_suffix(".json").read_text())
    return float(record["class_frequency"][world][classname])


def ceiling(logits: Tensor, labels: Tensor) -> float:
    """The oracle gain of a class bias in accuracy, in points, as far as a search finds it.

    The search starts once from no bias and once from the bias of greatest likelihood. It sets the
    bias of one class after the other so that most images are right, until no class gains any more.
    It uses test labels.
    """
    classes = logits.shape[1]
    plain = best = _accuracy(logits.argmax(1), labels)
    shares = labels.bincount(minlength=classes) / len(labels)
    for bias in (torch.zeros(classes), uniform_bias(logits, shares)):
        z = logits - bias
        reached, before = _accuracy(z.argmax(1), labels), -1.0
        while reached > before:
            before = reached
            for c in range(classes):
                z[:, c] -= _best_threshold(z, labels, c)
            reached = _accuracy(z.argmax(1), labels)
        best = max(best, reached)
    return best - plain


def _best_threshold(z: Tensor, labels: Tensor, c: int) -> Tensor:
    """The bias of class c with which most images [N, C] are right, with all other biases fixed."""
    others = z.clone()
    others[:, c] = float("-inf")
    value, other = others.max(1)
    # Class c is predicted for an image if its bias is below the margin. In ascending order of the
    # margin, right answers of class c are lost and right answers of the other class are won.
    margin, order = (z[:, c] - value).sort()
    change = (other == labels).long()[order] - (labels == c).long()[order]
    score = torch.cat([change.new_zeros(1), change.cumsum(0)])
    edges = torch.cat([margin[:1] - 1, (margin[1:] + margin[:-1]) / 2, margin[-1:] + 1])
    zero = torch.searchsorted(margin, 0.0)
    return edges[score.argmax()] if score.max() > score[zero] else z.new_tensor(0.0)


def _gains(tested: Tested, material: Material, tried: Iterable[str]) -> Half:
    """The accuracy, and `gains` of the ceiling and of what is tried."""
    logits, labels = tested.logits, torch.from_numpy(tested.labels)
    plain = _accuracy(logits.argmax(1), labels)
    gains: dict[str, Gain] = {
        "ceiling": {"gain": ceiling(logits, labels), "caveat": CAVEATS[TEST_LABELS]},
    }
    for name in tried:
        nerp = build_nerp(tested.trainer, _settings(tested.cfg, name), material)
        correction = nerp.correct(logits)
        gains[name] = {
            "gain": _accuracy(correction.predictions, labels) - plain,
            "flips": len(correction.images),
            "looked_at": nerp.looked_at,
            "caveat": CAVEATS.get(nerp.looked_at, ""),
        }
    return {"accuracy": plain, "gains": gains}


def _settings(cfg: CfgNode, correction: str) -> CfgNode:
    """The configuration with one of `CORRECTIONS`."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.NERP.update(CORRECTIONS[correction])
    return cfg


def _over_prediction(
    logits: Tensor, labels: npt.NDArray[np.integer]
) -> npt.NDArray[np.floating]:
    """[C] by how much more often each class is predicted than it occurs, relative to its number of
    occurrences."""
    confusion = confusion_matrix(labels, logits.argmax(1).numpy(), logits.shape[1])
    share: npt.NDArray[np.floating] = confusion.sum(0) / confusion.sum(1)
    return share - 1


def _shuffled(logits: Tensor, labels: Tensor, bias: Tensor, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    plain = _accuracy(logits.argmax(1), labels)
    gains = []
    for _ in range(SHUFFLES):
        order = torch.randperm(len(bias), generator=generator)
        gains.append(_accuracy(shift(logits, bias[order]).predictions, labels) - plain)
    return float(np.mean(gains))


def _oracle(logits: Tensor, labels: Tensor, log_frequency: Tensor) -> Oracle:
    plain = _accuracy(logits.argmax(1), labels)
    curve = [
        _accuracy((logits - multiple * log_frequency).argmax(1), labels) - plain
        for multiple in ORACLE.tolist()
    ]
    best = int(np.argmax(curve))
    return {"gain": curve[best], "multiple": float(ORACLE[best]), "caveat": CAVEATS[TEST_LABELS]}


def _accuracy(predictions: Tensor, labels: Tensor) -> float:
    return 100 * float((predictions == labels).double().mean())
