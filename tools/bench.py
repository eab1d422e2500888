"""Compare the speed of our code (A) with another formulation (B) of every method.

A is `nerp.trainers`. B is tools/plain_methods: open_clip's own modules, 77 tokens per text at every
step, and a separate frozen CLIP if the method uses one. B recomputes class features per batch if
the published code does. With --against compiled, B is A under torch.compile. Calls alternate
(A B A B) in one process. Both start from the same random ViT-B/16 (or --backbone) and the same
learned tensors. If their results differ, the bench fails. For comparison it also times open_clip's
bare image forward on the evaluation batch; for a method with SAR (200 novel names) also the plain
step of the method without SAR.

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from bench_sides import BATCHES, Bench, Plain
from tabulate import tabulate
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from nerp.base.log import environment
from nerp.clip.model import PRECISIONS
from nerp.engine.checkpoint import save_checkpoint
from nerp.engine.record import process_peak_mib
from nerp.settings.protocols import plain_name

CPU_EVAL_BATCH = 100  # the most images per test batch on a CPU; some published batches do not fit
# Allowed differences of logits and losses, by matrix type; half precision depends on sum order.
TOLERANCE = {torch.float32: 5e-3, torch.float16: 1.0, torch.bfloat16: 4.0}

T = TypeVar("T")
Record = dict[str, Any]  # one comparison, as in the JSON file


@register_flop_formula(torch.ops.aten.addmm_)
def operations_in_place(
    _: object, a: Sequence[int], b: Sequence[int], **kwargs: object
) -> int:
    """The operations of an in-place product-and-add [n, k] [k, m], which PyTorch does not count."""
    return 2 * a[0] * a[1] * b[1]


def timed(function: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Seconds of one call, and what it returned."""
    wait(device)
    start = time.perf_counter()
    result = function()
    wait(device)
    return time.perf_counter() - start, result


def gflop(function: Callable[[], object]) -> float:
    """The operations of the matrix products in one call, in billions."""
    # PyTorch cannot count its modules' fused attention layer, but it counts the layer's parts.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            function()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return float(counter.get_total_flops()) / 1e9


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compare(method: str, classes: int, args: argparse.Namespace) -> Record:
    """Times, ratios and operations of both sides. Raises SystemExit if their results differ."""
    bench = Bench(method, classes, args)
    sides = {"A": bench.side("ours", args), "B": bench.side(args.against, args)}
    without = plain_name(method)
    others = {} if without == method else {"without": Plain(bench, args, without)}
    forward = bench.bare_forward(args)
    test: dict[str, list[float]] = {"A": [], "B": [], "bare": []}
    train: dict[str, list[float]] = {name: [] for name in (*sides, *others)}
    forward()
    for side in sides.values():
        side.prepare()
    worst = difference(*(side.evaluate() for side in sides.values()))  # also warms up
    for _ in range(args.repeats):
        for name, side in sides.items():
            test[name].append(timed(side.evaluate, bench.device)[0])
        test["bare"].append(timed(forward, bench.device)[0])
    worst = max(worst, loss_difference(*(side.step() for side in sides.values())))
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
        worst = max(worst, loss_difference(*losses))
    if not worst <= TOLERANCE[bench.precision.weights]:
        raise SystemExit(f"{method}, C = {classes}: the sides differ by {worst:g}")
    operations = {what: {name: gflop(getattr(side, what)) for name, side in sides.items()}
                  for what in ("step", "evaluate")}
    return {
        "method": method,
        "classes": classes,
        "train_batch": bench.train_batch,
        "eval_batch": bench.eval_batch,
        "train_seconds": {name: statistics.median(values) for name, values in train.items()},
        "train_ratio": paired_ratio(train["A"], train["B"]),
        **{f"times_the_step_{name}": paired_ratio(train[name], train["A"]) for name in others},
        "train_gflop": operations["step"]["A"],
        # The ratio of times if each side needed time only for its matrix products.
        "train_limit": operations["step"]["B"] / operations["step"]["A"],
        "eval_limit": operations["evaluate"]["B"] / operations["evaluate"]["A"],
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


def loss_difference(a: Tensor, b: Tensor) -> float:
    """The difference of two losses, relative to b if |b| > 1 (PromptKD's loss weight is 1000)."""
    return difference(a, b) / max(1.0, float(b.abs()))


def paired_ratio(ours: list[float], other: list[float]) -> float:
    """The median of other / ours over the rounds. The two calls of a round ran in succession."""
    return statistics.median(b / a for a, b in zip(ours, other, strict=True))


def checkpoint_kib(bench: Bench) -> int:
    """The size in KiB of the checkpoint that a run would write."""
    with tempfile.TemporaryDirectory() as folder:
        tensors = bench.trainer.learned.state_dict()
        file, _ = save_checkpoint(Path(folder), bench.trainer, tensors, 1, bench.cfg)
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
                        help="images per training batch (default: as published)")
    parser.add_argument("--eval-images", type=int, metavar="N",
                        help="at most N images per test batch (default: as published; on a CPU "
                             f"at most {CPU_EVAL_BATCH})")
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
            for known in records:  # all records use the machine's best measured rate
                known["floor_seconds"] = 1e9 * known["train_gflop"] / rate
            print(f"{method} C = {classes}: done", file=sys.stderr, flush=True)
            if args.json:  # after each, so that a run cut short keeps what it measured
                content = {"versions": versions, "arguments": vars(args), "matrix_rate": rate,
                           "records": records}
                Path(args.json).write_text(json.dumps(content, indent=1) + "\n")
    print(f"{versions['device']}, {torch.get_num_threads()} threads, torch {versions['torch']}, "
          f"{args.device}, {args.precision}; large matrix product {rate / 1e9:.0f} GFLOP/s; "
          f"B: {args.against}\n")
    headers = ["method", "C", "step s A", "step s B", "B / A", "by operations", "floor s",
               "eval batch", "eval img/s A", "eval img/s B", "A / B", "by operations", "A / bare",
               "peak MiB A", "peak MiB B", "ckpt KiB", "max diff"]
    rows = map(table_row, records)
    print(tabulate(rows, headers=headers, disable_numparse=True, tablefmt="github"))
    for r in records:
        if ratio := r.get("times_the_step_without"):
            print(f"\n{r['method']}, C = {r['classes']}: A's step takes {ratio:.2f} times that of "
                  f"plain {plain_name(r['method'])}")


def table_row(r: Record) -> list[str]:
    rates = r["eval_images_per_second"]
    return [
        r["method"], str(r["classes"]),
        *(f"{r['train_seconds'][side]:.3g}" for side in "AB"),
        f"{r['train_ratio']:.2f}", f"{r['train_limit']:.2f}", f"{r['floor_seconds']:.3g}",
        str(r["eval_batch"]), *(f"{rates[side]:.3g}" for side in "AB"),
        f"{r['eval_ratio']:.2f}", f"{r['eval_limit']:.2f}", f"{r['share_of_bare_forward']:.2f}",
        *(str(r["peak_mib"][side]) for side in "AB"),
        str(r["checkpoint_kib"]), f"{r['difference']:.1e}",
    ]


if __name__ == "__main__":
    main()
