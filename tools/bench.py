"""Our path against a plain formulation of every method, in one process, alternating A B A B.

A is `nerp.trainers`; B is tools/plain_methods.py: open_clip's own modules, 77 tokens a text at
every step, frozen CLIP computed beside the tuned model, class features recomputed per batch where
the published code does. Both start from the same random ViT-B/16 (or --backbone) and the same
learned tensors, and their results must agree or the bench fails.

    python tools/bench.py                         every method, C = 10, 50, 500
    python tools/bench.py --methods MMRL --classes 50 --repeats 5 --json bench.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import open_clip
import torch
from plain_methods import PLAIN
from tabulate import tabulate
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nerp.clip.model import PRECISIONS, Clip
from nerp.defaults import default_config
from nerp.engine.checkpoint import save_checkpoint
from nerp.engine.optim import build_optimizer
from nerp.engine.record import process_peak_mib
from nerp.log import environment
from nerp.registry import TRAINERS
from nerp.trainers.base import Classes

# Published batch sizes: training, evaluation.
BATCHES = {
    "CoOp": (32, 100), "CoCoOp": (1, 100), "PromptSRC": (4, 250), "MMA": (16, 100),
    "MMRL": (4, 250),
}
# MMRL keeps its class features for the whole evaluation; the others' code encodes text per batch.
KEEPS_TEXT = {"MMRL"}
OPTIMISER = {"MMRL": "adamw"}
# Largest logit and loss differences, by matrix type: half precision sums in other orders.
TOLERANCE = {torch.float32: 5e-3, torch.float16: 1.0, torch.bfloat16: 4.0}


class Bench:
    """Both sides of one method at one class count."""

    def __init__(self, method: str, classes: int, args: argparse.Namespace):
        torch.manual_seed(0)
        self.method = method
        self.device = torch.device(args.device)
        self.train_batch, eval_batch = BATCHES[method]
        self.eval_batch = min(eval_batch, args.eval_images)
        self.cfg = default_config()
        self.cfg.OPTIM.NAME = OPTIMISER.get(method, "sgd")
        self.cfg.TRAINER.NAME = method
        names = tuple(f"kind of thing {i}" for i in range(classes))
        self.classes = Classes(names, "a photo of a {}.", "a photo of an object.")
        clip = Clip(random_model(args.backbone), args.precision, self.device, args.backbone)
        self.precision = clip.precision
        self.ours = TRAINERS[method](self.cfg, clip, self.classes)
        size = (clip.size, clip.size)
        self.images = torch.randn(max(self.train_batch, self.eval_batch), 3, *size,
                                  device=self.device)
        self.labels = torch.randint(0, classes, (self.train_batch,), device=self.device)
        self.frozen_text = None
        if "plain" in args.sides:
            self.plain = self._plain(args)

    def _plain(self, args: argparse.Namespace):
        copies = {
            name: tensor.detach().clone().requires_grad_()
            for name, tensor in self.ours.learned.named_parameters()
        }
        model = random_model(args.backbone).to(self.device)
        return PLAIN[self.method](
            model, self.classes.names, self.classes.template, copies, self.ours.settings
        )

    def sides(self):
        """name -> (training step, evaluation of one batch)."""
        sides = {"ours": (self._our_step(), self._our_eval())}
        if hasattr(self, "plain"):
            sides["plain"] = (self._plain_step(), self._plain_eval())
        return sides

    def _our_step(self):
        optimizer = build_optimizer(self.ours.parameters(), self.cfg.OPTIM)

        def step() -> Tensor:
            with self.ours.clip.autocast():
                loss = self.ours.loss(self.images[: self.train_batch], self.labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    def _our_eval(self):
        @torch.inference_mode()
        def prepare():
            with self.ours.clip.autocast():
                return self.ours.classifier()

        @torch.inference_mode()
        def evaluate(classify) -> Tensor:
            with self.ours.clip.autocast():
                return classify(self.images[: self.eval_batch])

        return prepare, evaluate

    def _plain_step(self):
        tensors = list(self.plain.tensors.values())
        optimizer = build_optimizer(tensors, self.cfg.OPTIM)
        kwargs = {}
        if self.method == "PromptSRC":  # its 60 templates are encoded once in the published code
            with torch.no_grad():
                kwargs["frozen_text"] = self.plain.frozen_text()
        if self.method == "MMRL":
            frozen = self.plain.frozen_text()
            self.plain.frozen_text = lambda: frozen

        def step() -> Tensor:
            with self._autocast():
                loss = self.plain.loss(self.images[: self.train_batch], self.labels, **kwargs)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if self.method == "MMA":
                self.plain.unscale()
            optimizer.step()
            return loss.detach()

        return step

    def _plain_eval(self):
        plain, method = self.plain, self.method

        @torch.inference_mode()
        def prepare():
            return plain.text() if method in KEEPS_TEXT else None

        @torch.inference_mode()
        def evaluate(text) -> Tensor:
            original = plain.text
            if text is not None:
                plain.text = lambda: text
            try:
                with self._autocast():
                    return plain.logits(self.images[: self.eval_batch])
            finally:
                plain.text = original

        return prepare, evaluate

    def _autocast(self):
        dtype = self.precision.weights
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32)


def random_model(name: str) -> torch.nn.Module:
    """An open_clip model of that name with random weights, frozen; the same at every call."""
    torch.manual_seed(1)
    model = open_clip.create_model(name, load_weights=False)
    with torch.no_grad():
        model.logit_scale.fill_(4.6052)
    return model.eval().requires_grad_(False)


def timed(function, device: torch.device) -> tuple[float, object]:
    """Seconds of one call, and what it returned."""
    wait(device)
    start = time.perf_counter()
    result = function()
    wait(device)
    return time.perf_counter() - start, result


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compare(method: str, classes: int, args: argparse.Namespace) -> dict:
    """Times, ratios and operations of both sides; raises SystemExit where results differ."""
    bench = Bench(method, classes, args)
    tolerance = TOLERANCE[bench.precision.weights]
    train: dict[str, list[float]] = {"ours": [], "plain": []}
    test: dict[str, list[float]] = {"ours": [], "plain": []}
    results: dict[str, list] = {"ours": [], "plain": []}
    sides = bench.sides()
    prepared = {name: evaluation[0]() for name, (_, evaluation) in sides.items()}
    for name, (_, (_, evaluate)) in sides.items():
        results[name].append(evaluate(prepared[name]).float())  # before any step; also warms up
    for _ in range(args.repeats):
        for name, (_, (_, evaluate)) in sides.items():
            test[name].append(timed(lambda e=evaluate, n=name: e(prepared[n]), bench.device)[0])
    for repeat in range(args.repeats + 1):
        for name, (step, _) in sides.items():
            seconds, loss = timed(step, bench.device)
            results[name].append(loss.float())
            if repeat:  # the first step warms up
                train[name].append(seconds)
    worst = max(float((a - b).abs().max()) for a, b in zip(*results.values(), strict=True))
    if worst > tolerance:
        raise SystemExit(f"{method}, C = {classes}: the sides differ by {worst:g}")
    flops = {name: count_flops(step) for name, (step, _) in sides.items()}
    medians = {name: statistics.median(values) for name, values in train.items()}
    return {
        "method": method,
        "classes": classes,
        "train_batch": bench.train_batch,
        "eval_batch": bench.eval_batch,
        "train_seconds": medians,
        "train_ratio": paired_ratio(train),
        "train_gflop": {name: value / 1e9 for name, value in flops.items()},
        "eval_images_per_second": {
            name: bench.eval_batch / statistics.median(values) for name, values in test.items()
        },
        "eval_ratio": paired_ratio(test),
        "difference": worst,
    }


def paired_ratio(seconds: dict[str, list[float]]) -> float:
    """Median of B / A over the pairs, which ran one after the other."""
    return statistics.median(
        b / a for a, b in zip(seconds["ours"], seconds["plain"], strict=True)
    )


def count_flops(function) -> int:
    """Operations of the matrix products in one call, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measured operations per second of a large matrix product."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = [timed(lambda: a @ b, device)[0] for _ in range(8)]
    return 2 * size**3 / statistics.median(times[2:])


def peak_memory(method: str, classes: int, side: str, args: argparse.Namespace) -> int:
    """MiB at the peak of two training steps and an evaluation, in a process of its own."""
    command = [sys.executable, __file__, "--memory", side, "--methods", method, "--classes",
               str(classes), "--device", args.device, "--precision", args.precision,
               "--backbone", args.backbone, "--eval-images", str(args.eval_images)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report_memory(args: argparse.Namespace) -> None:
    args.sides = [args.memory]
    bench = Bench(args.methods[0], args.classes[0], args)
    step, (prepare, evaluate) = bench.sides()[args.memory]
    for _ in range(2):
        step()
    evaluate(prepare())
    if bench.device.type == "cuda":
        print(torch.cuda.max_memory_allocated() // 2**20)
    else:
        print(process_peak_mib())


def checkpoint_size(method: str, classes: int, args: argparse.Namespace, directory: Path) -> int:
    """Bytes of the method's checkpoint."""
    args.sides = ["ours"]
    trainer = Bench(method, classes, args).ours
    cfg = default_config()
    cfg.TRAINER.NAME = method
    tensors = trainer.learned.state_dict()
    return save_checkpoint(directory, trainer, tensors, 1, cfg).stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=list(BATCHES), choices=list(BATCHES))
    parser.add_argument("--classes", nargs="+", type=int, default=[10, 50, 500])
    parser.add_argument("--repeats", type=int, default=5, help="timed pairs (default: 5)")
    parser.add_argument("--eval-images", type=int, default=1000,
                        help="at most this many images a test batch (default: as published)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32", choices=list(PRECISIONS))
    parser.add_argument("--backbone", default="ViT-B-16-quickgelu", help="open_clip's name")
    parser.add_argument("--json", default="", metavar="FILE")
    parser.add_argument("--memory", default="", help=argparse.SUPPRESS)  # one side, in a child
    args = parser.parse_args()
    if args.memory:
        report_memory(args)
        return
    args.sides = ["ours", "plain"]
    device = torch.device(args.device)
    versions = environment(device)
    rate = matrix_rate(device, PRECISIONS[args.precision].weights)
    print(f"{versions['device']}, {torch.get_num_threads()} threads, torch {versions['torch']}, "
          f"{args.device}, {args.precision}; large matrix product {rate / 1e9:.0f} GFLOP/s\n")
    rows, records = [], []
    for method in args.methods:
        for classes in args.classes:
            record = compare(method, classes, args)
            record["peak_mib"] = {
                name: peak_memory(method, classes, name, args) for name in ("ours", "plain")
            }
            record["floor_seconds"] = 1e9 * record["train_gflop"]["ours"] / rate
            records.append(record)
            rows.append(table_row(record))
            print(f"{method} C = {classes}: done", file=sys.stderr, flush=True)
            if args.json:  # after each, so that a run cut short keeps what it measured
                content = {"versions": versions, "arguments": vars(args), "matrix_rate": rate,
                           "records": records}
                Path(args.json).write_text(json.dumps(content, indent=1) + "\n")
    headers = ["method", "C", "step s A", "step s B", "B / A", "floor s", "eval img/s A",
               "eval img/s B", "A / B", "peak MiB A", "peak MiB B", "max diff"]
    print(tabulate(rows, headers=headers, disable_numparse=True, tablefmt="github"))


def table_row(r: dict) -> list[str]:
    return [
        r["method"], str(r["classes"]),
        f"{r['train_seconds']['ours']:.3g}", f"{r['train_seconds']['plain']:.3g}",
        f"{r['train_ratio']:.2f}", f"{r['floor_seconds']:.3g}",
        f"{r['eval_images_per_second']['ours']:.3g}",
        f"{r['eval_images_per_second']['plain']:.3g}", f"{r['eval_ratio']:.2f}",
        str(r["peak_mib"]["ours"]), str(r["peak_mib"]["plain"]), f"{r['difference']:.1e}",
    ]


if __name__ == "__main__":
    main()
