"""Every command of docs/experiments.md runs, in its order. `stub.py` stands for the runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

from nerp.config import load_yaml, shipped_cards

REPO = Path(__file__).parents[2]
STUB = REPO / "tests" / "experiments" / "stub.py"
# `nerp` and `python` of the page's environment: training, testing and getting data are not real.
PROGRAM = f"""#!{sys.executable}
import runpy, sys
from nerp import cli
from nerp.experiments import workers

real = cli.run
workers.COMMAND = (sys.executable, {str(STUB)!r})

def run(argv):
    if argv[0] in ("sweep", "table", "plot"):
        return real(argv)
    if argv[0] in ("train", "test"):
        sys.argv[1:] = argv
        runpy.run_path({str(STUB)!r}, run_name="__main__")

cli.run = run
"""
NERP = "sys.exit(run(sys.argv[1:]))\n"
PYTHON = "del sys.argv[0]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"


def test_the_page_runs_from_top_to_bottom(tmp_path):
    page = (REPO / "docs" / "experiments.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 10
    for name in ("scripts", "tools", "configs", "pyproject.toml"):
        (tmp_path / name).symlink_to(REPO / name)
    for card in shipped_cards().values():
        directory = load_yaml(card)["DATASET"]["DIRECTORY"]
        (tmp_path / "data" / directory).mkdir(parents=True, exist_ok=True)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f"PATH='{programs}':$PATH\n")
    for name, rest in (("nerp", NERP), ("python", PYTHON)):
        (programs / name).write_text(PROGRAM + rest)
        (programs / name).chmod(0o755)
    stamp = "cat pyproject.toml scripts/lib/constraints.txt | cksum"
    ready = subprocess.check_output(["bash", "-c", stamp], cwd=REPO)
    (programs.parent / ".ready").write_bytes(ready)

    # Two datasets and one seed, where the page does not say: its commands are what is tested.
    small = 'export SEEDS=1 DATASETS="eurosat ucf101"'
    commands = "\n".join(["set -euo pipefail", *(f"{small}\n{block}" for block in blocks)])
    result = subprocess.run(
        ["bash", "-c", commands], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "NERP_VENV": str(programs.parent), "PYTHONPATH": str(REPO)},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "table.tex").is_file()
    assert len(list((tmp_path / "figures").iterdir())) == 4
    assert "\n54\n" in result.stdout  # 2 datasets of 11, 1 seed of 3: of the 891 it speaks of
