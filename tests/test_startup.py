"""What a command imports is what it uses: every run and every look at a sweep pays for the rest."""

import subprocess
import sys

import pytest

from nerp.base.registry import TRAINERS
from nerp.settings.options import METHOD_NODES
from nerp.settings.published import BY_METHOD

HEAVY = ("torch", "torchvision", "open_clip", "timm", "sympy", "matplotlib", "submitit")


def imported(*argv) -> set[str]:
    """Which heavy packages a command line has imported at its end."""
    code = ("import sys\nfrom nerp import cli\ncli.run(sys.argv[1:])\n"
            f"print('imported:', *(name for name in {HEAVY} if name in sys.modules))")
    done = subprocess.run([sys.executable, "-c", code, *map(str, argv)], check=True,
                          capture_output=True, text=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("line", [
    ["table"], ["sweep", "status", "--output"],
    ["sweep", "--protocol", "B2N", "--dry-run", "--output"],
    ["sweep", "status", "--protocol", "few_shot", "--methods", "CoOp", "--output"],
])
def test_planning_and_looking_at_results_do_without_torch(line, tmp_path):
    assert imported(*line, tmp_path) == set()


def test_help_does_without_what_looks_into_code():
    code = ("import sys\nfrom nerp import cli\ncli.run(['--help'])\n"
            "print(*(name for name in ('ast', 'difflib', 'inspect') if name in sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == ""


def test_a_plot_does_without_torch(tmp_path):
    assert imported("plot", tmp_path) == {"matplotlib"}


@pytest.mark.parametrize("words", [
    ["OPTIM.LRR", "0.1"], ["OPTIM.LR", "fast"], ["NERP.TAU"], ["TEST.EVALUATOR", "Other"],
])
def test_a_mistake_in_a_key_is_said_before_torch_is_imported(words):
    assert imported("train", "--trainer", "MMRL", "--dataset", "eurosat", *words) == set()
    assert imported("test", "--trainer", "MMRL", "--dataset", "eurosat", *words) == set()


def test_a_test_imports_torch_alone(eurosat_root, golden_weights, tmp_path):
    line = ["test", "--trainer", "ZeroshotCLIP", "--dataset", "eurosat", "--root", eurosat_root,
            "--output-dir", tmp_path, "MODEL.BACKBONE.PATH", golden_weights]
    assert imported(*line) == {"torch"}
    assert (tmp_path / "result.json").is_file()


def test_the_keys_that_wait_for_the_method_are_those_that_a_method_settles_otherwise():
    methods = [TRAINERS[name] for name in (*TRAINERS.names(), *TRAINERS.taking("_DePT"))]
    settled = {key for method in methods for key in method.settled}
    assert {key for key in settled if key.split(".")[0] not in METHOD_NODES} == {*BY_METHOD}
