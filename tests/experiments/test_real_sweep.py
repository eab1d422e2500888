"""A sweep of real runs, killed in the middle and gone on with, down to its table."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean

import pytest
from conftest import GOLDEN_SETTINGS

from nerp.results.records import collect
from nerp.results.tables import build_tables


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_its_table_is_right(eurosat_root, golden_weights, tmp_path):
    settings = [x for key, value in GOLDEN_SETTINGS["MMRL"].items()
                for x in (f"TRAINER.MMRL.{key}", str(value))]
    command = [
        sys.executable, "-m", "nerp", "sweep", "--protocol", "base_to_novel",
        "--methods", "MMRL", "MMRL_NeRP", "--datasets", "eurosat", "--seeds", "1,2", "--shots", "4",
        "--root", str(eurosat_root), "--output", str(tmp_path), "--options",
        "MODEL.BACKBONE.PATH", str(golden_weights), "OPTIM.MAX_EPOCH", "2", *settings,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    sweep = subprocess.Popen(command, env=environment)
    while not (finished := list(tmp_path.rglob("result.json"))):
        assert sweep.poll() is None
        time.sleep(0.1)
    sweep.send_signal(signal.SIGTERM)
    assert sweep.wait(60) == 130
    written = {path: path.stat().st_mtime_ns for path in finished}

    subprocess.run(command, env=environment, check=True)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert len(list(tmp_path.rglob("result.json"))) == 10
    assert not list(tmp_path.rglob("training_state.pt"))

    (table,) = build_tables(collect([tmp_path]))
    for row in table.rows:
        halves = {
            part: [accuracy(tmp_path, f"test_{classes}", row.label, seed) for seed in (1, 2)]
            for part, classes in (("Base", "base"), ("Novel", "new"))
        }
        for part, values in halves.items():
            assert row.cells["EuroSAT", part].mean == pytest.approx(fmean(values))
        each = [2 * b * n / (b + n) if b + n else 0
                for b, n in zip(halves["Base"], halves["Novel"], strict=True)]
        assert row.cells["EuroSAT", "H"].mean == pytest.approx(fmean(each))


def accuracy(output: Path, phase: str, trainer: str, seed: int) -> float:
    """Recomputed from the counts in the record, at the place where a run keeps it."""
    path = output / f"base2new/{phase}/eurosat/shots_4/{trainer}/vit_b16/seed{seed}/result.json"
    content = json.loads(path.read_text())
    return 100 * content["correct"] / content["total"]
