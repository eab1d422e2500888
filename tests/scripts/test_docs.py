"""Every command of the README and of docs/experiments.md runs, in its order. `stub.py` stands for
the runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nerp.config import load_yaml, shipped_cards
from nerp.experiments.catalogue import methods

REPO = Path(__file__).parents[2]
STUB = REPO / "tests" / "experiments" / "stub.py"
# `nerp` and `python` of the page's environment: training, testing and getting data are not real.
PROGRAM = f"""#!{sys.executable}
import runpy, sys
from nerp import cli
from nerp.experiments import workers

real = cli.run
workers.FRESH = (sys.executable, {str(STUB)!r})

def run(argv):
    if argv[0] == "sweep":
        return real(["sweep", "--fresh", *argv[1:]])
    if argv[0] in ("table", "plot"):
        return real(argv)
    if argv[0] in ("train", "test"):
        sys.argv[1:] = argv
        runpy.run_path({str(STUB)!r}, run_name="__main__")

cli.run = run
"""
NERP = "sys.exit(run(sys.argv[1:]))\n"
PYTHON = "del sys.argv[0]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"


def blocks(page, language):
    """The fenced blocks of a page in a language."""
    fence = rf"^```{language}\n(.*?)^```$"
    return re.findall(fence, (REPO / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def run(tmp_path):
    """Runs a page's commands in an empty folder, with data and an environment that stand ready."""
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

    def run(commands, **environment):
        # Two datasets and one seed, where the page does not say: its commands are what is tested.
        small = 'export SEEDS=1 DATASETS="eurosat ucf101"'
        lines = ["set -euo pipefail", *(f"{small}\n{block}" for block in commands)]
        result = subprocess.run(
            ["bash", "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "NERP_VENV": str(programs.parent), "PYTHONPATH": str(REPO),
                 **environment},
        )
        assert result.returncode == 0, result.stderr[-2000:]
        return result.stdout

    return run


def test_the_experiments_run_from_top_to_bottom(run, tmp_path):
    page = blocks("docs/experiments.md", "bash")
    assert len(page) > 10
    printed = run(page)
    assert (tmp_path / "table.tex").is_file()
    assert len(list((tmp_path / "figures").iterdir())) == 4
    # A method takes training, two tests, and both with NeRP; zero-shot CLIP two tests.
    runs = 2 + 5 * (len(methods()) - 1)
    assert f"\n{2 * runs}\n" in printed  # 2 datasets, 1 seed
    text = (REPO / "docs" / "experiments.md").read_text()
    assert f"those of all methods: {11 * 3 * runs}." in text


def test_the_readme_runs_from_top_to_bottom(run, tmp_path):
    page = blocks("README.md", "bash")
    assert len(page) == 3
    assert "eurosat" in run([". .venv/bin/activate", *page])
    assert list((tmp_path / "figures").glob("*.png"))


def test_the_library_example_prints_what_the_readme_says(capsys):
    (example,) = blocks("README.md", "python")
    exec(example, {})
    assert capsys.readouterr().out == example.splitlines()[-1].removeprefix("# ") + "\n"
