"""What holds on this device: one line a promise, "ok", "off by ..." or "not available here".

    python tools/gpu_report.py                      on the first GPU, some ten minutes
    python tools/gpu_report.py --json report.json   to attach to an issue
    python tools/gpu_report.py --device cpu         what can be shown without a GPU

Nothing is downloaded: the golden vectors and the small CLIP of the tests, and random weights for
what is timed. It needs a checkout and `pip install -e .[dev]`. docs/gpu.md says what each line
stands for.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from tabulate import tabulate
from torch import Tensor

sys.path.extend(str(Path(__file__).resolve().parents[1] / part)
                for part in ("tests", "tests/trainers"))

import numpy as np
import test_golden
from conftest import (
    GOLDEN,
    GOLDEN_SETTINGS,
    LEARNING,
    eurosat_classes,
    golden_config,
    write_eurosat,
)
from tiny_clip import random_clip

from nerp.base.log import environment
from nerp.base.registry import TRAINERS
from nerp.clip.loading import load_model
from nerp.clip.model import Clip
from nerp.commands.forked import FORKED
from nerp.data.benchmark import Benchmark, Item
from nerp.data.images import ImageSet, eval_loader, eval_set
from nerp.engine.train import TrainingRun
from nerp.experiments.server import Server

# Largest differences that pass. Of losses and gradients, relative; half precision rounds to 3
# digits, and a step through eight layers at a scale of 100 keeps about one.
GOLDEN_TOLERANCE = {"logits": 1e-3, "features": 1e-5}
STEP_TOLERANCE = {"fp32": 1e-3, "fp16": 0.1, "amp": 0.1, "bf16": 0.3}
DDP_TOLERANCE = 1e-3
# `nerp train` in processes of its own, with little to learn.
SHORT = ("DATASET.NUM_SHOTS", "4", "DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.MAX_EPOCH", "2",
         "DATALOADER.TRAIN_X.BATCH_SIZE", "8", "TEST.NO_TEST", "True")


@dataclass
class Line:
    """One promise.

    Attributes:
        verdict: ok, off or absent. value: what was measured, of which `most` would pass.
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


class Report:
    """The checks, in order, on one device.

    Args:
        folder: for the small CLIP, a small EuroSAT and runs.
    """

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

    def checks(self) -> list[Callable[[], Iterator[Line]]]:
        return [self.golden, self.steps, self.loss_scale, self.waits, self.transfers,
                self.forked_run, self.parallel, self.speed, self.compiled]

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

    def steps(self) -> Iterator[Line]:
        """A training step in float32 against the CPU's, and in less against float32."""
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
        batch = next(iter(run.loader))
        run._step(*batch)
        before = {name: t.clone() for name, t in run.trainer.learned.state_dict().items()}
        run.scaler.update(2.0**60)
        run._step(*batch)
        moved = max(largest(t - before[name])
                    for name, t in run.trainer.learned.state_dict().items())
        yield measured("loss scaling", "an overflow changes nothing", moved, 0.0)
        lowered = run.scaler.get_scale() / 2.0**60
        yield measured("loss scaling", "and lowers the scale", lowered, 0.5)

    def waits(self) -> Iterator[Line]:
        """How often the host waits for the device in a step and in an evaluation batch."""
        for method in LEARNING:
            if not self.cuda:
                yield absent("no host wait", method, "tests/trainers/test_no_waiting.py looks at "
                             "the operations instead")
                continue
            run, _ = self.training(method, TRAINERS[method].defaults["PREC"].default)
            batch, images = next(iter(run.loader)), self.images()
            with torch.inference_mode(), run.trainer.clip.autocast():
                classify = run.trainer.classifier()
            for mode in ("default", "warn"):  # first what is computed once a run
                with warnings.catch_warnings(record=True) as seen:
                    warnings.simplefilter("always")
                    torch.cuda.set_sync_debug_mode(mode)
                    run._step(*batch)
                    with torch.inference_mode(), run.trainer.clip.autocast():
                        classify(images)
                    torch.cuda.set_sync_debug_mode("default")
            where = sorted({f"{Path(w.filename).name}:{w.lineno}" for w in seen})
            yield measured("no host wait", method, len(seen), 0, " ".join(where))

    def transfers(self) -> Iterator[Line]:
        """Batches lie in pinned memory, from where they are copied while the device computes."""
        if not self.cuda:
            yield absent("pinned batches", "both loaders", "there is no device to copy to")
            return
        run, tested = self.training("CoOp", "fp32")
        loader = eval_loader(tested, run.cfg, self.device)
        for what, batches in (("training", run.loader), ("evaluation", loader)):
            pixels, _ = next(iter(batches))
            yield Line("pinned batches", what, "ok" if pixels.is_pinned() else "off")

    def forked_run(self) -> Iterator[Line]:
        """Runs of `nerp sweep`: forked, the device first touched in the child."""
        server = Server(FORKED)
        for number in (1, 2):
            start = time.perf_counter()
            status = server.start(
                self.train_line("CoOp", self.folder / f"forked{number}"), self.log.fileno(), {}
            ).wait()
            seconds = time.perf_counter() - start
            note = f"{seconds:.1f} s" if not status else f"exit status {status}: {self.said()}"
            yield Line("forked run", f"number {number}", "off" if status else "ok", note=note)
        server.close()

    def parallel(self) -> Iterator[Line]:
        """DistributedDataParallel on all visible GPUs gives the tensors of one."""
        count = torch.cuda.device_count() if self.cuda else 0
        if count < 2:
            yield absent("several GPUs", "DDP", f"{count} visible"
                         + ("" if self.cuda else "; tests/engine/test_distributed.py runs it on "
                            "the CPU"))
            return
        found = []
        for processes in (1, count):
            directory = self.folder / f"ddp{processes}"
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                       "--nproc-per-node", str(processes), "-m", "nerp",
                       *self.train_line("MMRL", directory), "TRAINER.MMRL.PREC", "fp32"]
            subprocess.run(command, check=True, stdout=self.log, stderr=subprocess.STDOUT)
            file = directory / TRAINERS["MMRL"].folder / "model.pth.tar-2"
            found.append(torch.load(file, weights_only=True)["state_dict"])
        one, all_ = found
        gap = max(largest(one[name] - all_[name]) for name in one)
        yield measured("several GPUs", f"DDP on {count}", gap, DDP_TOLERANCE)

    def speed(self) -> Iterator[Line]:
        """tools/bench.py on a random ViT-B/16: against a plain formulation, the floor and
        open_clip's bare forward."""
        if not self.cuda:
            yield absent("speed", "tools/bench.py", "docs/performance.md has it on a CPU")
            return
        for r in self.bench("--precision", "fp16", "--classes", "50"):
            seconds = r["train_seconds"]
            note = (f"{1e3 * seconds['A']:.1f} ms a step, {r['train_ratio']:.2f} times as fast as "
                    f"plain, {100 * r['floor_seconds'] / seconds['A']:.0f} % of the floor; "
                    f"{r['eval_images_per_second']['A']:.0f} images/s, "
                    f"{r['share_of_bare_forward']:.2f} of the bare forward; "
                    f"{r['peak_mib']['A']} MiB, plain {r['peak_mib']['B']}")
            yield Line("speed", f"{r['method']}, {r['classes']} classes, fp16", "ok", note=note)

    def compiled(self) -> Iterator[Line]:
        """What torch.compile would give."""
        if not self.cuda:
            yield absent("torch.compile", "tools/bench.py", "docs/performance.md has it on a CPU")
            return
        for r in self.bench("--methods", "MMRL", "CoCoOp", "--classes", "50", "--precision", "fp16",
                            "--against", "compiled"):
            note = (f"step {1 / r['train_ratio']:.2f}, evaluation {1 / r['eval_ratio']:.2f} times "
                    "as fast compiled")
            yield Line("torch.compile", r["method"], "ok", note=note)

    # What the checks are made of.

    def images(self, device: torch.device | None = None) -> Tensor:
        return self.input("images", device or self.device)

    def input(self, name: str, device: torch.device) -> Tensor:
        return torch.tensor(np.load(GOLDEN / "inputs.npz")[name]).to(device)

    def training(self, method: str, precision: str) -> tuple[TrainingRun, ImageSet]:
        """A training run on the base classes of the small EuroSAT, not yet begun, and images to
        test on."""
        cfg = golden_config(DATALOADER={"NUM_WORKERS": 2})
        cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 4
        cfg.DATALOADER.K_TRANSFORMS = TRAINERS[method].views
        classes = eurosat_classes("base")
        folder = self.root / "eurosat" / "2750"
        items = [Item(f"{name.replace(' ', '')}/{name.replace(' ', '')}_{i}.jpg", label, name)
                 for label, name in enumerate(classes.names) for i in (1, 2)]
        bench = Benchmark("EuroSAT", self.root, folder, items, [], items, list(classes.names))
        trainer = test_golden.build(method, self.clip(precision), "base", cfg)
        run = TrainingRun(trainer, bench, cfg, self.folder, {})
        return run, eval_set(items, folder, cfg, trainer.clip.size)

    def train_line(self, method: str, directory: Path) -> list[str]:
        settings = [str(x) for key, value in GOLDEN_SETTINGS[method].items()
                    for x in (f"TRAINER.{TRAINERS[method].node}.{key}", value)]
        return ["train", "--trainer", method, "--dataset", "eurosat", "--root", str(self.root),
                "--output-dir", str(directory), "MODEL.BACKBONE.PATH", str(self.weights), *SHORT,
                *settings, "USE_CUDA", str(self.cuda)]

    def bench(self, *arguments: str) -> list[dict]:
        file = self.folder / "bench.json"
        command = [sys.executable, Path(__file__).with_name("bench.py"), "--json", file,
                   "--device", str(self.device), *arguments]
        subprocess.run(command, check=True, stdout=self.log, stderr=subprocess.STDOUT)
        return json.loads(file.read_text())["records"]

    def said(self) -> str:
        """The last line of what the processes that were started said."""
        return (self.folder / "log.txt").read_text(errors="replace").strip().rsplit("\n", 1)[-1]


def absent(check: str, what: str, reason: str) -> Line:
    return Line(check, what, "absent", note=reason)


def largest(tensor: Tensor) -> float:
    return float(tensor.abs().max())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", default="", metavar="FILE")
    args = parser.parse_args()
    device = torch.device(args.device)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        for check in Report(device, Path(folder)).checks():
            try:
                lines += check()
            except Exception as error:  # one that cannot be made says so; the others are made
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                lines.append(Line(check.__name__.replace("_", " "), "", "off", note=reason))
    versions = environment(device)
    built = f"torch {versions['torch']}, built for CUDA {torch.version.cuda}"
    print(f"{versions['device']}, {built}, on {device}\n")
    rows = [[line.check, line.what, line.text] for line in lines]
    print(tabulate(rows, headers=["check", "what", "result"], tablefmt="github",
                   disable_numparse=True))
    if args.json:
        content = {"versions": versions, "cuda": torch.version.cuda, "arguments": vars(args),
                   "lines": [asdict(line) for line in lines]}
        Path(args.json).write_text(json.dumps(content, indent=1) + "\n")
    return 1 if any(line.verdict == "off" for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
