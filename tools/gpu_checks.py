"""The checks of tools/gpu_report.py within one process: numbers, waits and loaders on a device."""

import multiprocessing
import platform
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.extend(str(Path(__file__).resolve().parents[1] / part)
                for part in ("tests", "tests/trainers", "tests/correction"))

import numpy as np
import test_flipping
import test_golden
from bench_sides import random_model
from conftest import (
    GOLDEN,
    LEARNING,
    eurosat_classes,
    golden_config,
    golden_options,
    write_eurosat,
)
from tiny_clip import random_clip

from nerp.base.registry import TRAINERS
from nerp.clip.loading import load_model
from nerp.clip.model import Clip
from nerp.correction.flipping import flip
from nerp.correction.shifting import shift
from nerp.data import images as loading
from nerp.data.benchmark import Benchmark, Item
from nerp.data.images import ImageSet, eval_loader, eval_set, train_loader
from nerp.engine.epochs import EpochImages
from nerp.engine.train import TrainingRun
from nerp.settings.protocols import SAR_SUFFIX, plain_name

# Largest allowed differences. Those of losses and gradients are relative. Half precision rounds to
# 3 digits; a step through eight layers with a scale of 100 keeps about one digit.
GOLDEN_TOLERANCE = {"logits": 1e-3, "features": 1e-5}
STEP_TOLERANCE = {"fp32": 1e-3, "fp16": 0.1, "amp": 0.1, "bf16": 0.3}
CONVOLUTION_TOLERANCE = 1e-5  # of features of length 1; TF32 keeps three digits
OVERFLOWING = 2.0**127  # the scale of a loss
WITH_SAR = f"CoOp{SAR_SUFFIX}"


@dataclass
class Line:
    """The result of one check.

    Attributes:
        verdict: ok, off or absent. value: the measured number; at most `most` passes.
    """

    check: str
    what: str
    verdict: str
    value: float | None = None
    most: float | None = None
    note: str = ""

    @property
    def text(self) -> str:
        if self.verdict == "absent":
            return f"not available here: {self.note}"
        number = "" if self.value is None else f"{self.value:.2g}"
        if self.verdict == "off":
            return " ".join(filter(None, ["off", number and f"by {number}", self.note]))
        return f"ok  {number} {self.note}".strip()


def measured(check: str, what: str, value: float, most: float, note: str = "") -> Line:
    return Line(check, what, "ok" if value <= most else "off", value, most, note)


def absent(check: str, what: str, reason: str) -> Line:
    return Line(check, what, "absent", note=reason)


class Checks:
    """The checks of one device; each yields its lines.

    Args:
        folder: for the small CLIP, a small EuroSAT and runs.
    """

    settings = staticmethod(golden_options)  # the settings of a method on the small CLIP

    def __init__(self, device: torch.device, folder: Path):
        self.device = device
        self.cuda = device.type == "cuda"
        self.folder = folder
        self.weights = folder / "clip.pt"
        torch.save(random_clip(0), self.weights)
        self.root = write_eurosat(folder / "data")
        self.log = open(folder / "log.txt", "ab")  # noqa: SIM115  (as long as the report)

    def clip(self, precision: str = "fp32", device: torch.device | None = None) -> Clip:
        return Clip(load_model(self.weights), precision, device or self.device, "golden")

    def golden(self) -> Iterator[Line]:
        """The published implementations' numbers, in float32."""
        images = self.images()
        for method in LEARNING:
            z = test_golden.golden(method)
            worst = dict.fromkeys(GOLDEN_TOLERANCE, 0.0)
            for which in ("base", "new"):
                with torch.no_grad():
                    found = test_golden.outputs(
                        test_golden.build(method, self.clip(), which), images
                    )
                for name, tensor in found.items():
                    if f"{which}/{name}" in z.files:
                        kind = "logits" if name.startswith("logits") else "features"
                        gap = largest(tensor.cpu() - torch.tensor(z[f"{which}/{name}"]))
                        worst[kind] = max(worst[kind], gap)
            for kind, most in GOLDEN_TOLERANCE.items():
                yield measured("golden", f"{method} {kind}", worst[kind], most)

    def convolutions(self) -> Iterator[Line]:
        """A ResNet's features in float32 against the CPU's."""
        images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        found = [
            Clip(random_model("RN50-quickgelu"), "fp32", device, "RN50").image_features(
                images.to(device)
            ).cpu()
            for device in (torch.device("cpu"), self.device)
        ]
        gap = largest(found[0] - found[1])
        yield measured("convolutions", "RN50 fp32", gap, CONVOLUTION_TOLERANCE)

    def steps(self) -> Iterator[Line]:
        """A training step in float32 against the CPU's; in lower precision against float32."""
        for method in LEARNING:
            wanted = self.step(method, "fp32", torch.device("cpu"))
            published = str(TRAINERS[method].defaults["PREC"].default)
            for precision in dict.fromkeys(("fp32", published, "bf16")):
                what = f"{method} {precision}"
                if not self.cuda and precision in ("fp16", "amp"):
                    yield absent("training step", what, "half precision needs a GPU")
                    continue
                found = self.step(method, precision, self.device)
                gap = max(largest(a - b) / largest(b) for a, b in zip(found, wanted, strict=True))
                yield measured("training step", what, gap, STEP_TOLERANCE[precision])

    def step(self, method: str, precision: str, device: torch.device) -> list[Tensor]:
        """The loss and the gradient, as one vector, of a batch of the golden images."""
        clip = self.clip(precision, device)
        trainer = test_golden.build(method, clip, "base")
        trainer.prepare_training()
        views = [self.images(device)] * trainer.views
        with clip.autocast():
            loss = trainer.loss(views[0], self.input("labels", device), *views[1:])
        scale = 1024.0 if clip.precision.scaled else 1.0
        (scale * loss).backward()
        gradient = torch.cat([p.grad.flatten().float() for p in trainer.parameters()]) / scale
        return [loss.detach().float().cpu(), gradient.cpu()]

    def loss_scale(self) -> Iterator[Line]:
        """A step whose scaled loss overflows changes no tensor and lowers the scale."""
        if not self.cuda:
            yield absent("loss scaling", "overflow", "half precision needs a GPU")
            return
        run, _ = self.training("MMRL", "amp")
        batch = first_batch(run)
        step(run, batch)
        before = tensors(run)
        run.scaler.update(OVERFLOWING)
        step(run, batch)
        yield measured("loss scaling", "an overflow changes nothing", moved(run, before), 0.0)
        lowered = run.scaler.get_scale() / OVERFLOWING
        yield measured("loss scaling", "and lowers the scale", lowered, 0.5)

    def first_overflow(self) -> Iterator[Line]:
        """A first step that overflows leaves nothing for a second one: MMA's setting, amp and SGD
        with momentum."""
        if not self.cuda:
            yield absent("first overflow", "MMA", "tests/engine/test_overflow.py fuses on the CPU")
            return
        after = []
        for overflows in (True, False):
            run, _ = self.training("MMA", "amp")
            batch, before = first_batch(run), tensors(run)
            if overflows:
                run.scaler.scale(torch.ones((), device=self.device))  # this creates its scale
                run.scaler.update(OVERFLOWING)
                step(run, batch)
                yield measured("first overflow", "changes nothing", moved(run, before), 0.0)
                run.scaler.update(1024.0)
            step(run, batch)
            after.append(run)
        gap = moved(after[0], tensors(after[1]))
        yield measured("first overflow", "and nothing after it", gap, 1e-6)

    def waits(self) -> Iterator[Line]:
        """How often the host waits for the device in a step and in an evaluation batch."""
        for method in (*LEARNING, WITH_SAR):
            if not self.cuda:
                yield absent("no host wait", method, "tests/trainers/test_fake_cuda.py looks at "
                             "the operations instead")
                continue
            run, _ = self.training(method, TRAINERS[method].defaults["PREC"].default)
            batch, images = first_batch(run), self.images()
            with torch.inference_mode(), run.trainer.clip.autocast():
                classify = run.trainer.classifier()
            for mode in ("default", "warn"):  # the first pass computes what is needed once per run
                with warnings.catch_warnings(record=True) as seen:
                    warnings.simplefilter("always")
                    torch.cuda.set_sync_debug_mode(mode)
                    step(run, batch)
                    with torch.inference_mode(), run.trainer.clip.autocast():
                        classify(images)
                    torch.cuda.set_sync_debug_mode("default")
            where = sorted({f"{Path(w.filename).name}:{w.lineno}" for w in seen})
            yield measured("no host wait", method, len(seen), 0, " ".join(where))

    def transfers(self) -> Iterator[Line]:
        """Batches are in pinned memory and are copied while the device computes."""
        if not self.cuda:
            yield absent("pinned batches", "both loaders", "there is no device to copy to")
            return
        run, tested = self.training("MMRL", "fp32")
        loader = eval_loader(tested, run.cfg, self.device)
        for what, (pixels, _) in (("training", first_batch(run)),
                                  ("evaluation", next(iter(loader)))):
            yield Line("pinned batches", what, "ok" if pixels.is_pinned() else "off")

    def workers(self) -> Iterator[Line]:
        """Both loaders give the same pixels from workers, started as this project chooses and as
        this Python does by itself."""
        chosen = loading.START_METHOD
        alone, by_workers = torch.device("cpu"), torch.device("cuda")
        for method in dict.fromkeys((chosen, multiprocessing.get_start_method())):
            loading.START_METHOD = method
            run, tested = self.training("MMRL", "fp32")
            assert isinstance(run.shown, EpochImages)
            first = (
                [next(iter(make(images, run.cfg, device)))[0] for device in (alone, by_workers)]
                for make, images in ((train_loader, run.shown.dataset),
                                     (eval_loader, tested))
            )
            gap = max(largest(one.float() - other.float()) for one, other in first)
            what = f"{method}{', the chosen one' if method == chosen else ''}"
            yield measured("workers", what, gap, 0.0, f"Python {platform.python_version()}")
        loading.START_METHOD = chosen

    def corrections(self) -> Iterator[Line]:
        """The published flips, and a shift between pairs, on logits on the device."""
        z = np.load(GOLDEN / "flips.npz")
        logits, text, image, pairs = (
            torch.tensor(z[name]).to(self.device)
            for name in ("logits", "text_prior", "image_prior", "pairs")
        )
        cases = [name.split("/")[0].removeprefix("case") for name in z if name.endswith("/pred")]
        off = sum(
            int((flip(logits, text, image, pairs, test_flipping.golden_rule(z, case))
                 .predictions.cpu() != torch.tensor(z[f"case{case}/pred"])).sum())
            for case in cases
        )
        yield measured("corrections", f"flip, {len(cases)} settings", off, 0)
        here = shift(logits, text, pairs).predictions.cpu()
        there = shift(logits.cpu(), text.cpu(), pairs.cpu()).predictions
        yield measured("corrections", "shift in pairs", int((here != there).sum()), 0)

    # Parts of the checks.

    def images(self, device: torch.device | None = None) -> Tensor:
        return self.input("images", device or self.device)

    def input(self, name: str, device: torch.device) -> Tensor:
        return torch.tensor(np.load(GOLDEN / "inputs.npz")[name]).to(device)

    def training(self, method: str, precision: str) -> tuple[TrainingRun, ImageSet]:
        """A training run on the base classes of the small EuroSAT, not yet started, and test
        images."""
        cfg = golden_config(DATALOADER={"NUM_WORKERS": 2})
        cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 4
        cfg.DATALOADER.K_TRANSFORMS = TRAINERS[method].views
        classes = eurosat_classes("base")
        folder = self.root / "eurosat" / "2750"
        items = [Item(f"{name.replace(' ', '')}/{name.replace(' ', '')}_{i}.jpg", label, name)
                 for label, name in enumerate(classes.names) for i in (1, 2)]
        bench = Benchmark("EuroSAT", self.root, folder, items, [], items, list(classes.names))
        cfg.DATASET.NAME = bench.name
        learned = test_golden.tensors(plain_name(method), "param")
        trainer = TRAINERS[method](cfg, self.clip(precision), classes, learned)
        run = TrainingRun(trainer, bench, cfg, self.folder, {})
        return run, eval_set(items, folder, cfg, trainer.clip.size)


def largest(tensor: Tensor) -> float:
    return float(tensor.abs().max())


def first_batch(run: TrainingRun) -> Sequence[Any]:
    """The run's first batch, from its loader or from its epochs' features."""
    return next(iter(run.shown.loader if isinstance(run.shown, EpochImages) else run.shown))


def step(run: TrainingRun, batch: Sequence[Any]) -> None:
    """Do one training step with a batch from `first_batch`."""
    views, labels = run.shown.on_device(*batch) if isinstance(run.shown, EpochImages) else batch
    run._step(views, labels, len(labels))


def tensors(run: TrainingRun) -> dict[str, Tensor]:
    """A copy of the run's learned tensors."""
    return {name: tensor.clone() for name, tensor in run.trainer.learned.state_dict().items()}


def moved(run: TrainingRun, before: dict[str, Tensor]) -> float:
    """The largest change of a learned number; NaN if any number has become NaN."""
    gaps = [(tensor - before[name]).abs().max() for name, tensor in tensors(run).items()]
    return float(torch.stack(gaps).max())  # max propagates NaN
