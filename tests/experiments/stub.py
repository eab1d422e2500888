"""Stands for `nerp train` and `nerp test` in tests of sweeps: leaves what a run leaves in its
folder, in milliseconds.

STUB_JOURNAL: a file that gets a line at the beginning and at the end of each run.
STUB_FAIL: runs whose folder contains this text fail, with the error STUB_ERROR. STUB_SLOW: those
take minutes.
"""

import json
import os
import sys
import time
import zlib
from pathlib import Path

argv = sys.argv[1:]
flags = dict(zip(argv, argv[1:], strict=False))
directory = Path(flags["--output-dir"])
slow, fail = (os.environ.get(f"STUB_{name}") or "no folder" for name in ("SLOW", "FAIL"))


def note(what):
    if "STUB_JOURNAL" in os.environ:
        with open(os.environ["STUB_JOURNAL"], "a") as journal:
            gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "-")
            journal.write(f"{what} {directory.as_posix()} {gpu} {os.getpid()}\n")


note("begin")
if "--model-dir" in flags:
    assert (Path(flags["--model-dir"]) / "result.json").is_file(), "tested before it was trained"
if slow in str(directory):
    try:
        time.sleep(120)
    except KeyboardInterrupt:
        note("interrupted")
        sys.exit(130)
if fail in str(directory):
    print(f"nerp: error: {os.environ.get('STUB_ERROR', 'made to fail')}")
    sys.exit(1)
time.sleep(0.02)
directory.mkdir(parents=True, exist_ok=True)
accuracy = 50 + zlib.crc32(" ".join(argv).encode()) % 4000 / 100
dataset = flags.get("--dataset") or Path(flags["--dataset-config-file"]).stem
(directory / "log.txt").write_text(f"Finish training\n=> result\n* accuracy: {accuracy:.2f}%\n")
(directory / "result.json").write_text(json.dumps({
    "trainer": flags["--trainer"], "dataset": dataset, "task": flags.get("TASK", "B2N"),
    "classes": flags.get("DATASET.SUBSAMPLE_CLASSES", "all"), "kind": argv[0],
    "shots": int(flags.get("DATASET.NUM_SHOTS", 16)), "seed": int(flags.get("--seed", 1)),
    "accuracy": accuracy, "backbone": flags.get("MODEL.BACKBONE.NAME", "ViT-B/16"),
}))
note("end")
