"""A controlled study of NeRP where the true pre-training frequency of every class is known.

The paper's account is that unequal frequency in pre-training leaves a preference that shows
before any evidence (the priors), and that this preference makes confusions one-sided. On the
drawn world every link can be measured: priors against frequency, frequency against
over-prediction, asymmetry against chance, and what the correction gains with each source of pairs
and of thresholds, beside two controls. `tiny-biased` keeps its frequencies by construction (the
positive control); `tiny` is trained with CLIP's plain loss.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nerp.config import Request, build_config, digest, find_method_file
from nerp.correction.flipping import Rule, flip
from nerp.correction.pairs import CAVEATS
from nerp.correction.wrapper import Material, build_nerp, priors
from nerp.demo.world import WORLDS, class_frequency
from nerp.engine.correct import gather_material
from nerp.engine.metrics import asymmetry, confusion_matrix, spearman
from nerp.engine.run import run_training
from nerp.engine.tested import ModelFlags, Tested
from nerp.paths import write_text
from nerp.protocols import NERP_SUFFIX, run_dir
from nerp.registry import TRAINERS

METHODS = ("ZeroshotCLIP", "CoOp", "CoCoOp", "PromptSRC", "MMA", "MMRL")
BACKBONES = ("tiny", "tiny-biased")
# Those that can serve classes without training images; "train" knows the base classes alone.
SOURCES = ("text", "reference", "unlabelled", "labels")
THRESHOLDS = ("default", "calibrated")
SHUFFLES = 20
ORACLE = np.linspace(0, 5, 51)  # multiples of log frequency, in logits


@dataclass(frozen=True)
class Settings:
    """What the study runs, and where it reads and writes."""

    backbones: tuple[str, ...] = BACKBONES
    datasets: tuple[str, ...] = tuple(WORLDS)
    methods: tuple[str, ...] = METHODS
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    root: str = "data"
    output: str = "output/study"


def run_study(settings: Settings, tell: Callable[[str], None]) -> list[dict]:
    """Every case's record (`measure`), each kept in its run's folder and read from there again."""
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


def _case(settings: Settings, backbone: str, dataset: str, method: str, seed: int) -> dict:
    def request(classes: str, phase: str) -> Request:
        directory = run_dir(
            settings.output, task="B2N", phase=phase, classes=classes, dataset=dataset, shots=16,
            trainer=method, config=backbone, seed=seed,
        )
        return Request(
            # A test is of the model and of its correction.
            trainer=method + NERP_SUFFIX if phase == "test" else method,
            dataset=dataset,
            config_file=str(find_method_file(f"configs/trainers/{method}/tiny.yaml")),
            root=settings.root,
            seed=seed,
            output_dir=str(directory),
            opts=["TASK", "B2N", "DATASET.SUBSAMPLE_CLASSES", classes, "MODEL.BACKBONE.NAME",
                  backbone, "TEST.NO_TEST", "True"],
        )

    test = request("new", "test")
    cfg = build_config(test)
    kept = Path(test.output_dir) / "study.json"
    identity = digest(cfg)
    if kept.is_file():
        record = json.loads(kept.read_text())
        if record["identity"] == identity:
            return record
    model_dir = ""
    if TRAINERS[method].folder:
        model_dir = str(run_training(request("base", "train")))
    record = {
        "identity": identity, "backbone": backbone, "dataset": dataset, "method": method,
        "seed": seed, **measure(Tested(cfg, ModelFlags(model_dir), kept.parent)),
    }
    write_text(kept, json.dumps(record, indent=1) + "\n")
    return record


def measure(tested: Tested) -> dict:
    """What the study asks of one model on its novel classes; accuracies and gains in percent.

    - `frequency`: Spearman correlations of log frequency with the two priors, their sum and
      over-prediction, and of the priors with over-prediction.
    - `asymmetry`: of the confusion matrix, and what chance alone would give.
    - `gains`: by "source/thresholds"; what has looked at test images or labels says so.
    - `shuffled`: the mean gain with both priors permuted over the classes, text pairs.
    - `oracle`: the best gain from subtracting a multiple of log frequency, chosen on test labels.
    """
    logits, labels = tested.logits, torch.from_numpy(tested.labels)
    names = tested.bench.classnames
    shares = class_frequency(tested.cfg.DATASET.DIRECTORY)
    log_frequency = np.log([shares[name] for name in names])
    predictions = logits.argmax(1)
    plain = _accuracy(predictions, labels)
    material = gather_material(tested)
    text, image = priors(tested.trainer, material.reference, tested.cfg.NERP)
    confusion = confusion_matrix(tested.labels, predictions.numpy(), len(names))
    over = confusion.sum(0) / confusion.sum(1) - 1
    found = asymmetry(confusion)
    probes = {"text": text.numpy(), "image": image.numpy(), "sum": (text + image).numpy()}
    return {
        "classes": len(names),
        "accuracy": plain,
        "frequency": {
            "over-prediction": spearman(log_frequency, over),
            **{name: spearman(log_frequency, prior) for name, prior in probes.items()},
        },
        "over_prediction": {name: spearman(over, prior) for name, prior in probes.items()},
        "asymmetry": {"measured": found.total, "chance": found.chance},
        "gains": _gains(tested, material, plain),
        "shuffled": _shuffled(tested, material, text, image, plain),
        "oracle": _oracle(logits, labels, torch.from_numpy(log_frequency).float(), plain),
    }


def _gains(tested: Tested, material: Material, plain: float) -> dict[str, dict]:
    labels = torch.from_numpy(tested.labels)
    gains = {}
    for source, thresholds in product(SOURCES, THRESHOLDS):
        cfg = tested.cfg.clone()
        cfg.defrost()
        cfg.NERP.PAIRS, cfg.NERP.THRESHOLDS = source, thresholds
        nerp = build_nerp(tested.trainer, cfg, material)
        correction = nerp.correct(tested.logits)
        gains[f"{source}/{thresholds}"] = {
            "gain": _accuracy(correction.predictions, labels) - plain,
            "flips": len(correction.images),
            "looked_at": nerp.pairs.looked_at,
            "caveat": CAVEATS.get(nerp.pairs.looked_at, ""),
        }
    return gains


def _shuffled(
    tested: Tested, material: Material, text: Tensor, image: Tensor, plain: float
) -> float:
    labels = torch.from_numpy(tested.labels)
    pairs = build_nerp(tested.trainer, tested.cfg, material).pairs.index
    generator = torch.Generator().manual_seed(tested.cfg.SEED)
    gains = []
    for _ in range(SHUFFLES):
        order = torch.randperm(len(text), generator=generator)
        found = flip(tested.logits, text[order], image[order], pairs, Rule())
        gains.append(_accuracy(found.predictions, labels) - plain)
    return float(np.mean(gains))


def _oracle(logits: Tensor, labels: Tensor, log_frequency: Tensor, plain: float) -> dict:
    curve = [
        _accuracy((logits - multiple * log_frequency).argmax(1), labels) - plain
        for multiple in ORACLE.tolist()
    ]
    best = int(np.argmax(curve))
    return {"gain": curve[best], "multiple": float(ORACLE[best]), "caveat": "upper bound",
            "curve": curve}


def _accuracy(predictions: Tensor, labels: Tensor) -> float:
    return 100 * float((predictions == labels).double().mean())
