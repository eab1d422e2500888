"""Our path against another formulation of every method, in one process, alternating A B A B.

A is `nerp.trainers`. B is tools/plain_methods: open_clip's own modules, 77 tokens a text at
every step, a separate frozen CLIP where the method has one beside the tuned model, class features
recomputed per batch where the published code does; or A under torch.compile. Both start from the
same random ViT-B/16 (or --backbone) and the same learned tensors, and their results must agree or
the bench fails. Beside them, open_clip's bare image forward on the evaluation's batch, and beside a
method with SAR (200 novel names) the plain step of the method without.

    python tools/bench.py                         every method, C = 10, 50, 500
    python tools/bench.py --methods MMRL --classes 50 --repeats 5 --json bench.json
    python tools/bench.py --methods MMRL --classes 50 --against compiled
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import open_clip
import torch
from plain_methods import PLAIN
from tabulate import tabulate
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nerp.clip.model import PRECISIONS, Clip, normalise
from nerp.defaults import default_config
from nerp.engine.checkpoint import save_checkpoint
from nerp.engine.optim import build_optimizer
from nerp.engine.record import process_peak_mib
from nerp.log import environment
from nerp.protocols import SAR_SUFFIX, plain_name
from nerp.registry import TRAINERS
from nerp.trainers.base import Classes

# Published batch sizes: training, evaluation.
BATCHES = {
    "CoOp": (32, 100), "CoCoOp": (1, 100), "PromptSRC": (4, 250), "MMA": (16, 100),
    "MMRL": (4, 250), "MMRLpp": (4, 250), "ANPrompt": (4, 250), "KgCoOp": (128, 100),
    "MaPLe": (4, 100), "TCP": (32, 500), "CoPrompt": (4, 100), "CoOp_SAR": (32, 100),
}
CPU_EVAL_BATCH = 4
# These keep their class features for the whole evaluation; the others' code encodes text per batch.
KEEPS_TEXT = {"MMRL", "MMRLpp", "ANPrompt"}
HAS_FROZEN_COPY = {"MMRL", "MMRLpp", "ANPrompt", "PromptSRC", "CoPrompt"}
OPTIMISER = {"MMRL": "adamw", "MMRLpp": "adamw", "ANPrompt": "adamw", "TCP": "adam"}
# Largest logit and loss differences, by matrix type: half precision sums in other orders.
TOLERANCE = {torch.float32: 5e-3, torch.float16: 1.0, torch.bfloat16: 4.0}


class Ours:
    """Our path: one training step, and the evaluation of one batch."""

    def __init__(self, bench: "Bench", trainer, compiled: bool = False):
        self.trainer = trainer
        self.images, self.labels, self.eval_images = bench.images, bench.labels, bench.eval_images
        self.optimizer = build_optimizer(trainer.parameters(), bench.cfg.OPTIM)
        if bench.method == "ANPrompt":  # computed once a run, by training
            with trainer.clip.autocast():
                trainer.weak_class_features()
        self.compile = torch.compile if compiled else lambda function: function
        self.loss = self.compile(trainer.loss)

    def step(self) -> Tensor:
        with self.trainer.clip.autocast():
            loss = self.loss(self.images, self.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @torch.inference_mode()
    def prepare(self) -> None:
        with self.trainer.clip.autocast():
            self.classify = self.compile(self.trainer.classifier())

    @torch.inference_mode()
    def evaluate(self) -> Tensor:
        with self.trainer.clip.autocast():
            return self.classify(self.eval_images)


class Plain:
    """The same of tools/plain_methods."""

    def __init__(self, bench: "Bench", args: argparse.Namespace, method: str):
        self.method = method
        self.images, self.labels, self.eval_images = bench.images, bench.labels, bench.eval_images
        tensors = {
            name: tensor.detach().clone().requires_grad_()
            for name, tensor in bench.trainer.learned.named_parameters()
        }
        learned = list(tensors.values())
        tensors |= dict(bench.trainer.learned.named_buffers())
        classes, settings = bench.trainer.classes, bench.trainer.settings
        of_sar = bench.of_sar() if method.endswith(SAR_SUFFIX) else {}
        if args.memory:  # what is measured is this side alone
            del bench.trainer, bench.clip
        copies = 2 if method in HAS_FROZEN_COPY else 1
        model, *frozen = (random_model(args.backbone).to(bench.device) for _ in range(copies))
        self.plain = PLAIN[method](
            model, classes.names, classes.template, tensors, settings,
            frozen=frozen[0] if frozen else None,
        )
        vars(self.plain).update(of_sar)
        self.optimizer = build_optimizer(learned, bench.cfg.OPTIM)
        dtype = bench.precision.weights
        self.autocast = lambda: torch.autocast(
            bench.device.type, dtype=dtype, enabled=dtype != torch.float32
        )
        # Encoded once a run, in the published code too.
        self.plain.frozen_text = self.plain.sentence_features = lambda: bench.frozen_text
        self.plain.weight = bench.cfg.TRAINER.W
        if method == "ANPrompt":
            weak = self.plain.weak_text()
            self.plain.weak_text = lambda: weak

    def step(self) -> Tensor:
        with self.autocast():
            loss = self.plain.loss(self.images, self.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.method == "MMA":
            self.plain.unscale()
        self.optimizer.step()
        return loss.detach()

    @torch.inference_mode()
    def prepare(self) -> None:
        self.text = self.plain.text() if self.method in KEEPS_TEXT else None

    @torch.inference_mode()
    def evaluate(self) -> Tensor:
        if self.text is not None:
            self.plain.text = lambda: self.text
        try:
            with self.autocast():
                return self.plain.logits(self.eval_images)
        finally:
            vars(self.plain).pop("text", None)


class Bench:
    """One method at one class count: its inputs, and the sides built on them."""

    def __init__(self, method: str, classes: int, args: argparse.Namespace):
        torch.manual_seed(0)
        self.method = method
        self.device = torch.device(args.device)
        published, eval_batch = BATCHES[method]
        self.train_batch = args.train_images or published
        self.eval_batch = min(eval_batch, args.eval_images)
        self.cfg = default_config()
        self.cfg.OPTIM.NAME = OPTIMISER.get(method, "sgd")
        self.cfg.TRAINER.NAME = method
        if method.endswith(SAR_SUFFIX):
            self.cfg.DATASET.NAME = "ImageNet"  # whose list has more names than are used
        names = tuple(f"kind of thing {i}" for i in range(classes))
        self.classes = Classes(names, "a photo of a {}.", "a photo of an object.")
        self.clip = Clip(random_model(args.backbone), args.precision, self.device, args.backbone)
        self.precision = self.clip.precision
        self.trainer = TRAINERS[method](self.cfg, self.clip, self.classes)
        shape = max(self.train_batch, self.eval_batch), 3, self.clip.size, self.clip.size
        images = torch.randn(shape, device=self.device)
        self.images, self.eval_images = images[: self.train_batch], images[: self.eval_batch]
        self.labels = torch.randint(0, classes, (self.train_batch,), device=self.device)
        # Encoded once a run, so no part of a step; where only memory is measured, any will do.
        self.frozen_text = normalise(torch.randn(classes, self.clip.embed_dim, device=self.device))
        if method in HAS_FROZEN_COPY and not args.memory:
            self.frozen_text = self.trainer.frozen_class_features()
        self.hold_references(self.trainer)

    def hold_references(self, trainer) -> None:
        """Give a trainer what is encoded once a run, so that no step encodes it."""
        trainer.frozen_class_features = lambda: self.frozen_text
        trainer.sentence_features = lambda: self.frozen_text  # CoPrompt's
        if self.method == "ANPrompt":
            trainer.weak_class_features()

    def side(self, name: str, args: argparse.Namespace) -> Ours | Plain:
        if name == "ours":
            return Ours(self, self.trainer)
        if name == "plain":
            return Plain(self, args, self.method)
        copied = {name: t.clone() for name, t in self.trainer.learned.state_dict().items()}
        trainer = TRAINERS[self.method](self.cfg, self.clip, self.classes, copied)
        self.hold_references(trainer)
        return Ours(self, trainer, compiled=True)

    def of_sar(self) -> dict[str, object]:
        """What tools/plain_methods takes for SAR's term; its sets will be the trainer's."""
        trainer = self.trainer
        generator = torch.Generator().manual_seed(trainer.generator.initial_seed())
        return {"novel": trainer.novel.names, "sar": trainer.sar, "frozen_all": trainer.frozen,
                "generator": generator}

    def bare_forward(self, args: argparse.Namespace):
        """open_clip's image forward alone, all its matrices in the precision's type."""
        dtype = self.precision.weights
        model = random_model(args.backbone).to(self.device, dtype)
        images = self.eval_images.to(dtype)
        return torch.inference_mode()(lambda: model.encode_image(images))


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
    sides = {"A": bench.side("ours", args), "B": bench.side(args.against, args)}
    without = plain_name(method)
    others = {} if without == method else {"without": Plain(bench, args, without)}
    forward = bench.bare_forward(args)
    test = {"A": [], "B": [], "bare": []}
    train = {name: [] for name in (*sides, *others)}
    forward()
    for side in sides.values():
        side.prepare()
    worst = difference(*(side.evaluate() for side in sides.values()))  # also warms up
    for _ in range(args.repeats):
        for name, side in sides.items():
            test[name].append(timed(side.evaluate, bench.device)[0])
        test["bare"].append(timed(forward, bench.device)[0])
    with FlopCounterMode(display=False) as counter:
        first = sides["A"].step()
    worst = max(worst, difference(first, sides["B"].step()))
    for side in others.values():
        side.step()
    for _ in range(args.repeats):
        losses = []
        for name, side in sides.items():
            seconds, loss = timed(side.step, bench.device)
            train[name].append(seconds)
            losses.append(loss)
        for name, side in others.items():
            train[name].append(timed(side.step, bench.device)[0])
        worst = max(worst, difference(*losses))
    if not worst <= TOLERANCE[bench.precision.weights]:
        raise SystemExit(f"{method}, C = {classes}: the sides differ by {worst:g}")
    return {
        "method": method,
        "classes": classes,
        "train_batch": bench.train_batch,
        "eval_batch": bench.eval_batch,
        "train_seconds": {name: statistics.median(values) for name, values in train.items()},
        "train_ratio": paired_ratio(train["A"], train["B"]),
        **{f"times_the_step_{name}": paired_ratio(train[name], train["A"]) for name in others},
        "train_gflop": counter.get_total_flops() / 1e9,
        "eval_images_per_second": {
            name: bench.eval_batch / statistics.median(values) for name, values in test.items()
        },
        "eval_ratio": paired_ratio(test["A"], test["B"]),
        "share_of_bare_forward": paired_ratio(test["A"], test["bare"]),
        "checkpoint_kib": checkpoint_kib(bench),
        "difference": worst,
    }


def difference(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).abs().max())


def paired_ratio(ours: list[float], other: list[float]) -> float:
    """Median of other / ours over the rounds, whose calls ran one after the other."""
    return statistics.median(b / a for a, b in zip(ours, other, strict=True))


def checkpoint_kib(bench: Bench) -> int:
    """KiB of the checkpoint that a run would leave."""
    with tempfile.TemporaryDirectory() as folder:
        tensors = bench.trainer.learned.state_dict()
        file = save_checkpoint(Path(folder), bench.trainer, tensors, 1, bench.cfg)
        return file.stat().st_size // 1024


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product, the best of eight."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: a @ b, device)[0] for _ in range(8))


def peak_mib(method: str, classes: int, side: str, args: argparse.Namespace) -> int:
    """MiB at the peak of two training steps and an evaluation, in a process of its own."""
    command = [sys.executable, __file__, "--memory", side, "--methods", method, "--classes",
               str(classes), "--device", args.device, "--precision", args.precision,
               "--backbone", args.backbone, "--eval-images", str(args.eval_images),
               "--train-images", str(args.train_images)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report_memory(args: argparse.Namespace) -> None:
    bench = Bench(args.methods[0], args.classes[0], args)
    side = bench.side(args.memory, args)
    for _ in range(2):
        side.step()
    side.prepare()
    side.evaluate()
    if bench.device.type == "cuda":
        print(torch.cuda.max_memory_allocated() // 2**20)
    else:
        print(process_peak_mib())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=list(BATCHES), choices=list(BATCHES))
    parser.add_argument("--classes", nargs="+", type=int, default=[10, 50, 500])
    parser.add_argument("--against", default="plain", choices=["plain", "compiled"],
                        help="what B is (default: plain)")
    parser.add_argument("--repeats", type=int, default=3, help="timed pairs (default: 3)")
    parser.add_argument("--train-images", type=int, default=0, metavar="N",
                        help="images a training batch (default: as published)")
    parser.add_argument("--eval-images", type=int, metavar="N",
                        help="at most N images a test batch (default: as published; on a CPU "
                             f"{CPU_EVAL_BATCH})")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32", choices=list(PRECISIONS))
    parser.add_argument("--backbone", default="ViT-B-16-quickgelu", help="open_clip's name")
    parser.add_argument("--json", default="", metavar="FILE")
    parser.add_argument("--memory", default="", help=argparse.SUPPRESS)  # one side, in a child
    args = parser.parse_args()
    if args.eval_images is None:
        published = max(batch for _, batch in BATCHES.values())
        args.eval_images = CPU_EVAL_BATCH if args.device == "cpu" else published
    return args


def main() -> None:
    args = parse_arguments()
    if args.memory:
        report_memory(args)
        return
    device = torch.device(args.device)
    versions = environment(device)
    records, rate = [], 0.0
    for classes in args.classes:
        for method in args.methods:
            record = compare(method, classes, args)
            record["peak_mib"] = {
                name: peak_mib(method, classes, side, args)
                for name, side in (("A", "ours"), ("B", args.against))
            }
            records.append(record)
            rate = max(rate, matrix_rate(device, PRECISIONS[args.precision].weights))
            for known in records:  # one machine has one rate: the best that was seen
                known["floor_seconds"] = 1e9 * known["train_gflop"] / rate
            print(f"{method} C = {classes}: done", file=sys.stderr, flush=True)
            if args.json:  # after each, so that a run cut short keeps what it measured
                content = {"versions": versions, "arguments": vars(args), "matrix_rate": rate,
                           "records": records}
                Path(args.json).write_text(json.dumps(content, indent=1) + "\n")
    print(f"{versions['device']}, {torch.get_num_threads()} threads, torch {versions['torch']}, "
          f"{args.device}, {args.precision}; large matrix product {rate / 1e9:.0f} GFLOP/s; "
          f"B: {args.against}\n")
    headers = ["method", "C", "step s A", "step s B", "B / A", "floor s", "eval img/s A",
               "eval img/s B", "A / B", "A / bare", "peak MiB A", "peak MiB B", "ckpt KiB",
               "max diff"]
    rows = map(table_row, records)
    print(tabulate(rows, headers=headers, disable_numparse=True, tablefmt="github"))
    for r in records:
        if ratio := r.get("times_the_step_without"):
            print(f"\n{r['method']}, C = {r['classes']}: A's step takes {ratio:.2f} times that of "
                  f"plain {plain_name(r['method'])}")


def table_row(r: dict) -> list[str]:
    rates = r["eval_images_per_second"]
    return [
        r["method"], str(r["classes"]),
        *(f"{r['train_seconds'][side]:.3g}" for side in "AB"),
        f"{r['train_ratio']:.2f}", f"{r['floor_seconds']:.3g}",
        *(f"{rates[side]:.3g}" for side in "AB"),
        f"{r['eval_ratio']:.2f}", f"{r['share_of_bare_forward']:.2f}",
        *(str(r["peak_mib"][side]) for side in "AB"),
        str(r["checkpoint_kib"]), f"{r['difference']:.1e}",
    ]


if __name__ == "__main__":
    main()
