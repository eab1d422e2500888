"""Check this project on a device: one line per check, "ok", "off by ..." or "not available here".

    python tools/gpu_report.py                      on the first GPU, about ten minutes
    python tools/gpu_report.py --json report.json   to attach to an issue
    python tools/gpu_report.py --device cpu         the checks that need no GPU

Nothing is downloaded. It uses the golden vectors and the small CLIP of the tests, and random
weights for timing. It needs a checkout and `pip install -e .[dev]`. docs/gpu.md explains each line.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from gpu_checks import Checks, Line, absent, largest, measured
from tabulate import tabulate

from nerp.base.log import environment
from nerp.base.registry import TRAINERS
from nerp.commands.forked import FORKED
from nerp.experiments.server import Server

DDP_TOLERANCE = 1e-3
# Settings of a short `nerp train` in its own process.
SHORT = ("DATASET.NUM_SHOTS", "4", "DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.MAX_EPOCH", "2",
         "DATALOADER.TRAIN_X.BATCH_SIZE", "8", "TEST.NO_TEST", "True")


class Report(Checks):
    """All the checks, in order: those of the device, of processes on it, and of speed."""

    def checks(self) -> list[Callable[[], Iterator[Line]]]:
        return [self.golden, self.convolutions, self.steps, self.loss_scale, self.first_overflow,
                self.waits, self.transfers, self.workers, self.corrections, self.forked_run,
                self.parallel, self.speed, self.compiled]

    def forked_run(self) -> Iterator[Line]:
        """Runs of `nerp sweep` are forked, and only the child uses the device."""
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
        """DistributedDataParallel on all visible GPUs gives the same tensors as one GPU."""
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
        """The speed-up that torch.compile would give."""
        if not self.cuda:
            yield absent("torch.compile", "tools/bench.py", "docs/performance.md has it on a CPU")
            return
        for r in self.bench("--methods", "MMRL", "CoCoOp", "--classes", "50", "--precision", "fp16",
                            "--against", "compiled"):
            note = (f"step {1 / r['train_ratio']:.2f}, evaluation {1 / r['eval_ratio']:.2f} times "
                    "as fast compiled")
            yield Line("torch.compile", r["method"], "ok", note=note)

    def train_line(self, method: str, directory: Path) -> list[str]:
        return ["train", "--trainer", method, "--dataset", "eurosat", "--root", str(self.root),
                "--output-dir", str(directory), "MODEL.BACKBONE.PATH", str(self.weights), *SHORT,
                *self.settings(method), "USE_CUDA", str(self.cuda)]

    def bench(self, *arguments: str) -> list[dict[str, Any]]:
        file = self.folder / "bench.json"
        command = [sys.executable, str(Path(__file__).with_name("bench.py")), "--json", str(file),
                   "--device", str(self.device), *arguments]
        subprocess.run(command, check=True, stdout=self.log, stderr=subprocess.STDOUT)
        records: list[dict[str, Any]] = json.loads(file.read_text())["records"]
        return records

    def said(self) -> str:
        """The last line of the started processes' output."""
        return (self.folder / "log.txt").read_text(errors="replace").strip().rsplit("\n", 1)[-1]


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
            except Exception as error:  # a failed check is reported, and the others still run
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
