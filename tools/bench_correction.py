"""Time each correction rule, and the settings per second of a sweep, on random logits.

    python tools/bench_correction.py                  50,000 images, 1,000 classes, 11,000 pairs
    python tools/bench_correction.py --images 8100 --classes 10 --pairs 20
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command `nerp` does

import torch
from tabulate import tabulate

from nerp.base.log import environment
from nerp.correction import Rule
from nerp.correction.matched import Anchored, Batch, Match, Sinkhorn, Stationary, Transport
from nerp.correction.published import Contextual
from nerp.correction.shifting import Shift
from nerp.correction.sweep import Saved, Sweep, parse_grid
from nerp.engine.record import process_peak_mib

_STRENGTHS = {"text": 0.1, "image": 0.1}
RULES = {
    "flip": Rule(),
    "flip, AND, entropy": Rule(flip_rule="AND", by_entropy=True),
    "flip, OR, entropy and probability": Rule(by_entropy=True, by_prob=True),
    "shift": Shift(strengths=_STRENGTHS),
    "shift between pairs": Shift("pairs", _STRENGTHS),
    "match": Match(),
    "anchored, guarded": Anchored(strengths=_STRENGTHS),
    "batch": Batch(),
    "contextual": Contextual(strengths=_STRENGTHS),
    "sinkhorn": Sinkhorn(),
    "stationary": Stationary(),
    "transport": Transport(),
    "batch, in a stream": Batch(stream=True),
    "anchored, in a stream": Anchored(strengths=_STRENGTHS, guard=False, stream=True),
    "anchored, guarded, in a stream": Anchored(strengths=_STRENGTHS, stream=True),
}
GRID = ("TAU=-2:2:9", "THRES=0:4:17")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--pairs", type=int, default=11_000)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    torch.manual_seed(0)
    logits = torch.randn(args.images, args.classes).mul_(3).add_(20)
    logits += torch.randn(args.classes)  # a preference, for `match` to find
    priors = dict(zip(_STRENGTHS, 2 * torch.randn(2, args.classes), strict=True))
    pairs = torch.randint(0, args.classes, (args.pairs, 2))
    labels = torch.randint(0, args.classes, (args.images,))
    print(f"{environment(torch.device('cpu'))['device']}, {torch.get_num_threads()} threads; "
          f"{args.images:,} x {args.classes:,} logits, {args.pairs:,} pairs\n")
    rows = []
    for name in args.rules:
        rule = RULES[name]
        times, busy, before = [], time.process_time(), process_peak_mib()
        for _ in range(args.repeats):
            start = time.perf_counter()
            changed = len(rule.correct(logits, priors, pairs).images)
            times.append(time.perf_counter() - start)
        busy = (time.process_time() - busy) / args.repeats
        rows.append([name, f"{statistics.median(times):.2f}", f"{busy:.2f}", changed,
                     process_peak_mib() - before])
    print(tabulate(rows, ["rule", "s", "of a processor", "changed", "MiB more"], tablefmt="github"))
    print("\nMiB more: memory at its most, beyond the inputs and what the rules before had taken")

    arrays = {name: prior.numpy() for name, prior in priors.items()}
    saved = Saved(logits.numpy(), labels.numpy(), arrays, pairs.numpy())
    start = time.perf_counter()
    sweep = Sweep(saved)
    ready = time.perf_counter()
    count = sum(1 for _ in sweep.run(Rule(), parse_grid(GRID)))
    seconds = time.perf_counter() - ready
    print(f"\nsweep: ready after {ready - start:.2f} s, then {count / seconds:,.0f} settings a "
          f"second ({count} of {' '.join(GRID)})")


if __name__ == "__main__":
    main()
