"""How many images per second a dataset's loaders deliver, without a model.

On a GPU this bounds every run; compare it with the model's own rate (docs/performance.md).
"""

import argparse
from pathlib import Path

from nerp.commands.common import add_run_arguments, argument, request
from nerp.settings.keys import number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("--seconds", type=argument(number(5.0, above=0)), default=5.0, metavar="S",
                        help="of each loader (default: 5)")


def main(args: argparse.Namespace) -> None:
    from tabulate import tabulate

    from nerp.clip.model import pick_device
    from nerp.data.speed import measure
    from nerp.engine.tested import run_benchmark
    from nerp.settings.resolve import resolve

    cfg = resolve(request(args)).cfg
    device = pick_device(cfg.USE_CUDA)
    bench = run_benchmark(cfg, Path(cfg.OUTPUT_DIR or "output"))
    size = cfg.INPUT.SIZE[0]
    rows = [
        [rate.what, f"{rate.images / rate.seconds:,.0f}", rate.images, rate.batch, rate.workers]
        for rate in measure(bench, cfg, size, device, args.seconds)
    ]
    print(f"{bench.name}, {size} pixels, for a run on the {device.type.upper()}\n")
    print(tabulate(rows, ["", "images/s", "images", "batch", "workers"], disable_numparse=True))
