"""The bash scripts: what they print and run, from anywhere, and what they say when they cannot."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nerp.settings.catalogue import learns, methods

SCRIPTS = Path(__file__).parents[2] / "scripts"
NAMES = ("base2new_train", "base2new_test", "cross_dataset_train", "cross_dataset_test",
         "few_shot", "sweep_base2new", "sweep_cross_dataset", "sweep_open_world", "demo_eurosat")
LEARNING = sum(map(learns, methods()))
# `nerp` in the scripts' environment: plans for real, and notes down what it is to run.
STUB = """#!{python}
import os, shlex, sys
if sys.argv[1] == "sweep" and "--dry-run" in sys.argv:
    from nerp.cli import main
    main()
with open(os.environ["JOURNAL"], "a") as journal:
    journal.write(shlex.join(["nerp", *sys.argv[1:]]) + "\\n")
sys.exit(1 if os.environ.get("FAIL", "nothing") in " ".join(sys.argv) else 0)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a script with environment variables, from an empty folder with a space in its name."""
    venv = tmp_path / "environment"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "nerp").write_text(STUB.format(python=sys.executable))
    (venv / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for program in (venv / "bin").iterdir():
        program.chmod(0o755)
    stamp = "cat ../pyproject.toml lib/constraints.txt | cksum"
    (venv / ".ready").write_bytes(subprocess.check_output(["bash", "-c", stamp], cwd=SCRIPTS))
    elsewhere = tmp_path / "some where"
    elsewhere.mkdir()

    def run(name, *args, **environment):
        return subprocess.run(
            ["bash", str(SCRIPTS / f"{name}.sh"), *args], cwd=elsewhere, text=True,
            capture_output=True,
            env={**os.environ, "NERP_VENV": str(venv), "PYTHONPATH": str(SCRIPTS.parent),
                 "JOURNAL": str(tmp_path / "journal"), **environment},
        )

    run.journal = tmp_path / "journal"
    run.folder = elsewhere
    return run


def commands(result) -> list[list[str]]:
    """The printed command lines, split as a shell does."""
    assert result.returncode == 0, result.stderr
    return [shlex.split(line) for line in result.stdout.splitlines()]


def of(line: list[str], flag: str) -> str:
    return line[line.index(flag) + 1]


def test_shellcheck_has_nothing_to_say():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.defpath}")
    assert shellcheck, "shellcheck is among the development requirements"
    subprocess.run([shellcheck, "-x", *SCRIPTS.rglob("*.sh")], check=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_script_stops_at_the_first_error(name):
    assert "set -euo pipefail\n" in (SCRIPTS / f"{name}.sh").read_text()


@pytest.mark.parametrize(("script", "args", "phases"), [
    ("base2new_train", ["MMRL", "eurosat"], {("train", "base")}),
    ("base2new_test", ["MMRL", "eurosat"], {("test", "base"), ("test", "new")}),
    ("base2new_test", ["MMRL_NeRP", "eurosat"], {("test", "base"), ("test", "new")}),
    ("cross_dataset_train", ["MMRL"], {("train", "all")}),
    ("cross_dataset_test", ["MMRL_NeRP", "imagenet_a"], {("test", "all")}),
])
def test_a_script_runs_its_method_once_a_seed(run, script, args, phases):
    lines = commands(run(script, *args, DRY_RUN="1"))
    assert {(line[1], of(line, "DATASET.SUBSAMPLE_CLASSES")) for line in lines} == phases
    assert {of(line, "--seed") for line in lines} == {"1", "2", "3"}
    assert {of(line, "--trainer") for line in lines} == {args[0]}
    assert {of(line, "--dataset") for line in lines} == set(args[1:]) or script.endswith("train")
    assert len(lines) == 3 * len(phases)
    assert not run.journal.exists()


def test_few_shot_runs_every_number_of_shots(run):
    lines = commands(run("few_shot", "CoOp", "eurosat", DRY_RUN="1"))
    shots = [(of(line, "DATASET.NUM_SHOTS"), of(line, "--seed")) for line in lines]
    assert sorted(shots) == sorted((k, s) for k in ("1", "2", "4", "8", "16") for s in "123")


def test_whole_sweeps_print_the_published_experiment(run):
    lines = commands(run("sweep_base2new", DRY_RUN="1"))
    # One training per method that learns; each is tested on two halves, and with NeRP. CasPL is
    # trained once for three seeds, and zero-shot CLIP is tested once for them. PromptKD has a
    # teacher, PLOT++ a first stage; TaskRes is not tested on novel classes, plain and with NeRP.
    tests = 2 * LEARNING
    assert len(lines) == 11 * (1 + 1 + 2 + 1 + 3 * (LEARNING - 1 + 2 * tests - 2))
    lines = commands(run("sweep_cross_dataset", DRY_RUN="1"))
    # Once as by itself, once as CasPL_CoCoOp builds on it. PromptKD has no place here, TaskRes none
    # but on ImageNet and its four variants.
    assert len(lines) == 2 + 1 + 15 + 3 * (LEARNING - 2 + 15 * (tests - 4) + 5 * 2)
    lines = commands(run("sweep_open_world", DRY_RUN="1"))
    assert len(lines) == 11 * (1 + 1 + 1 + 1 + 3 * (LEARNING - 1 + tests - 2))
    closed = commands(run("sweep_base2new", "CoOp", DRY_RUN="1"))
    opened = commands(run("sweep_open_world", "CoOp", DRY_RUN="1"))
    trainings = [line for line in opened if "train" in line]
    assert trainings and all(line in closed for line in trainings)  # one training serves both
    lines = commands(run("sweep_base2new", "CoOp", "CoOp_NeRP", DRY_RUN="1"))
    assert {of(line, "--trainer") for line in lines} == {"CoOp", "CoOp_NeRP"}


def test_the_environment_chooses(run):
    lines = commands(run(
        "sweep_cross_dataset", "MMRL", DRY_RUN="1", DATA="/some data", OUTPUT="my runs",
        SEEDS="4 5", SHOTS="8", DATASETS="demo_landcover,demo_textures", SOURCE="demo_objects",
    ))
    assert {of(line, "--root") for line in lines} == {"/some data"}
    assert {of(line, "--output-dir").split("/")[0] for line in lines} == {"my runs"}
    assert {of(line, "--seed") for line in lines} == {"4", "5"}
    assert {of(line, "DATASET.NUM_SHOTS") for line in lines} == {"8"}
    assert {of(line, "--dataset") for line in lines} == {
        "demo_objects", "demo_landcover", "demo_textures"
    }


def test_configuration_values_reach_every_run(run):
    pair = ["DATASET.NEUTRAL", "a photo"]
    lines = commands(run("base2new_test", "MMRL", "eurosat", *pair, DRY_RUN="1"))
    assert all(line[-2:] == pair for line in lines)


def test_the_runs_of_a_script_stay_at_the_terminal_and_its_exit_status_is_theirs(run):
    result = run("base2new_train", "MMRL", "eurosat", DATA="my data", FAIL="train")
    assert result.returncode == 1
    (line,) = run.journal.read_text().splitlines()
    assert line == ("nerp sweep --root 'my data' --output-dir output --here --protocol "
                    "base_to_novel --phase train --methods MMRL --datasets eurosat")


def test_gpus_and_cluster_are_passed_on(run):
    run("sweep_base2new", "MMRL", GPUS="0,1", RUNS_AT_ONCE="3")
    run("sweep_base2new", SLURM="partition=gpu,gpus=1", RUNS_PER_JOB="8")
    first, second = run.journal.read_text().splitlines()
    assert "--gpus 0,1 --runs-at-once 3" in first and first.endswith("--methods MMRL")
    assert "--slurm partition=gpu,gpus=1 --runs-per-job 8" in second and "--methods" not in second


@pytest.mark.parametrize("name", ["base2new_train", "base2new_test", "cross_dataset_train",
                                  "cross_dataset_test", "few_shot"])
def test_without_arguments_a_script_explains_itself(run, name):
    result = run(name)
    assert result.returncode == 1
    assert f"{name}.sh METHOD" in result.stderr
    assert "DATA=/path/to/data bash scripts/" in result.stderr


@pytest.mark.parametrize(("line", "meant"), [
    ("base2new_train eurosat 1", "SEEDS=1 bash {} METHOD eurosat"),
    ("base2new_test eurosat", "bash {} METHOD eurosat"),
    ("few_shot dtd MMRL", "bash {} METHOD dtd"),
    ("cross_dataset_train imagenet 3", "SEEDS=3 bash {} METHOD"),
])
def test_the_argument_order_of_coops_scripts_is_answered_with_ours(run, line, meant):
    name, *arguments = line.split()
    result = run(name, *arguments)
    assert result.returncode == 1 and not run.journal.exists()
    wanted = meant.format(SCRIPTS / f"{name}.sh")
    assert result.stderr == (f"error: {arguments[0]} is a dataset; the method comes first: "
                             f"{wanted}\n")


def test_an_unknown_method_is_one_line(run):
    result = run("base2new_train", "MMRLL", "eurosat", DRY_RUN="1")
    assert result.returncode == 1
    assert "Did you mean MMRL?" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_eurosat_demo_says_how_to_get_each_missing_thing(run):
    result = run("demo_eurosat", DATA="my data", CLIP="none.pt")
    assert result.returncode == 1
    assert "nerp data prepare eurosat --root my\\ data" in result.stderr
    assert "missing: CLIP weights none.pt" in result.stderr
    assert "base2new_train.sh MMRL eurosat" in result.stderr
    assert not run.journal.exists()


def test_the_eurosat_demo_names_the_address_of_clip_where_there_is_no_network(run, tmp_path):
    result = run("demo_eurosat", HOME=str(tmp_path), https_proxy="http://127.0.0.1:9",
                 http_proxy="http://127.0.0.1:9")
    assert "ViT-B-16.pt" in result.stderr
    assert "missing: CLIP weights" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_eurosat_demo_corrects_the_novel_classes_with_given_weights(run):
    (run.folder / "my data/eurosat/2750").mkdir(parents=True)
    (run.folder / "my data/eurosat/split_zhou_EuroSAT.json").touch()
    (run.folder / "weights/MultiModalRepresentationLearner").mkdir(parents=True)
    (run.folder / "weights/MultiModalRepresentationLearner/model.pth.tar-10").touch()
    (run.folder / "clip.pt").touch()
    result = run("demo_eurosat", "weights", DATA="my data", CLIP="clip.pt", PAIRS="pairs.json.gz")
    assert result.returncode == 0, result.stderr
    line = shlex.split(result.stdout.splitlines()[-1])
    assert shlex.split(run.journal.read_text()) == line
    assert of(line, "--trainer") == "MMRL_NeRP"
    assert of(line, "--model-dir") == "weights"
    assert of(line, "DATASET.SUBSAMPLE_CLASSES") == "new"
    assert of(line, "NERP.PAIRS_FILE") == "pairs.json.gz"
    assert of(line, "MODEL.BACKBONE.PATH") == "clip.pt"
