"""How long the flip takes, and how many settings a second a sweep tries, on random logits.

    python tools/bench_flip.py                  50,000 images, 1,000 classes, 11,000 pairs
    python tools/bench_flip.py --images 8100 --classes 10 --pairs 20
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command `nerp` does

import torch
from tabulate import tabulate

from nerp.correction import Rule, flip
from nerp.correction.sweep import Saved, Sweep, parse_grid
from nerp.engine.record import process_peak_mib
from nerp.log import environment

RULES = {
    "defaults": Rule(),
    "AND, entropy": Rule(flip_rule="AND", by_entropy=True),
    "OR, entropy and probability": Rule(by_entropy=True, by_prob=True),
}
GRID = ("TAU=-2:2:9", "THRES=0:4:17")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--pairs", type=int, default=11_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    torch.manual_seed(0)
    logits = torch.randn(args.images, args.classes).mul_(3).add_(20)
    text, image = 2 * torch.randn(2, args.classes)
    pairs = torch.randint(0, args.classes, (args.pairs, 2))
    labels = torch.randint(0, args.classes, (args.images,))
    print(f"{environment(torch.device('cpu'))['device']}, {torch.get_num_threads()} threads; "
          f"{args.images:,} x {args.classes:,} logits, {args.pairs:,} pairs\n")
    rows, before = [], process_peak_mib()
    for name, rule in RULES.items():
        times = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            flipped = len(flip(logits, text, image, pairs, rule).images)
            times.append(time.perf_counter() - start)
        rows.append([name, f"{statistics.median(times):.2f}", flipped])
    print(tabulate(rows, ["flip", "s", "flipped"], tablefmt="github"))
    print(f"\n{process_peak_mib() - before} MiB at most beyond the inputs")

    saved = Saved(*(x.numpy() for x in (logits, labels, text, image, pairs)))
    start = time.perf_counter()
    sweep = Sweep(saved)
    ready = time.perf_counter()
    count = sum(1 for _ in sweep.run(Rule(), parse_grid(GRID)))
    seconds = time.perf_counter() - ready
    print(f"\nsweep: ready after {ready - start:.2f} s, then {count / seconds:,.0f} settings a "
          f"second ({count} of {' '.join(GRID)})")


if __name__ == "__main__":
    main()
