"""scripts/lib/environment.sh: which environment it takes, what it installs and says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PINS = dict(line.split("==") for line in (REPO / "scripts/lib/constraints.txt").read_text().split()
            if line.startswith("torch"))
# `python` of an environment: pip only notes down what it is asked for, the rest is real.
PYTHON = f"""#!/bin/bash
case "$*" in
*"pip install"*)
    echo "$@" >>"$JOURNAL"
    echo "Collecting torch"
    echo "  Downloading torch-2.14.1-cp311-cp311-linux_x86_64.whl.metadata (29 kB)"
    echo "Downloading torch-2.14.1-cp311-cp311-linux_x86_64.whl (554.6 MB)"
    echo "Installing collected packages: torch"
    exit "${{PIP_STATUS:-0}}" ;;
*"pip freeze"*) printf 'numpy==2.0\\ntorch==2.9.0\\ntorchvision==0.24.0\\n' ;;
*) PYTHONPATH="$STUBS" exec {sys.executable} "$@" ;;
esac
"""
# torch as far as the script asks it.
TORCH = """
import os
__version__, _built, _sees = os.environ.get("TORCH", "2.14.1+cu130 13.0 no").split()
class version: cuda = _built.replace("none", "")
class cuda:
    is_available = lambda: _sees == "yes"
    def init(): raise RuntimeError("no libcuda\\nat all")
"""
NVIDIA_SMI = """#!/bin/bash
case "$*" in
--query*) echo "NVIDIA T4, 535.104" ;;
*) echo "| NVIDIA-SMI 535.104    Driver Version: 535.104    CUDA Version: 12.2     |" ;;
esac
"""


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def setup(tmp_path):
    """Source the script in a copy of the repository: what it prints, then the environment it took.

    `setup.installed()`: the arguments of the calls of pip so far.
    """
    shutil.copytree(REPO / "scripts", tmp_path / "repo/scripts")
    shutil.copy(REPO / "pyproject.toml", tmp_path / "repo")
    for name in (".venv", "mine", "bare"):
        for file in ("python", "pip"):
            program(tmp_path / "repo" / name / "bin" / file, PYTHON)
    program(tmp_path / "repo/bare/bin/python", "#!/bin/sh\nexit 1\n")  # has no torch
    stubs = tmp_path / "stubs"
    (stubs / "torch-2.9.0.dist-info").mkdir(parents=True)
    (stubs / "torch-2.9.0.dist-info/METADATA").write_text("Name: torch\nVersion: 2.9.0\n")
    (stubs / "torch.py").write_text(TORCH)
    (stubs / "torchvision.py").touch()
    clean = {k: v for k, v in os.environ.items()
             if not k.startswith(("NERP_", "VIRTUAL_ENV", "CONDA_", "CUDA_"))}

    def run(status=0, **environment):
        result = subprocess.run(
            ["bash", "-c", "set -euo pipefail; . scripts/lib/environment.sh; echo took $VENV"],
            cwd=tmp_path / "repo", text=True, capture_output=True,
            env={**clean, "JOURNAL": str(tmp_path / "journal"), "STUBS": str(stubs),
                 "PYTHON": sys.executable, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
                 **{key: value.format(repo=tmp_path / "repo")
                    for key, value in environment.items()}},
        )
        assert result.returncode == status, result.stderr
        return result

    journal = tmp_path / "journal"
    run.installed = lambda: journal.read_text().splitlines() if journal.exists() else []
    run.repo, run.stubs, run.bin = tmp_path / "repo", stubs, tmp_path / "bin"
    return run


def test_a_new_environment_is_pinned_and_shows_each_package(setup):
    result = setup()
    assert result.stdout == f"took {setup.repo}/.venv\n"
    assert result.stderr.splitlines()[1:] == ["    torch-2.14.1 (554.6 MB)", "    installing ..."]
    (call,) = setup.installed()
    assert call.endswith(f"--constraint {setup.repo}/scripts/lib/constraints.txt --editable "
                         f"{setup.repo}[slurm]")


def test_what_tests_need_besides_is_installed_for_them_alone(setup):
    setup()
    more = setup(NERP_EXTRAS="dev").stderr
    assert more.startswith(f"Bringing {setup.repo}/.venv up to date, with what dev needs ...\n")
    assert setup.installed()[1].endswith(f"{setup.repo}[slurm,dev]")
    setup(NERP_EXTRAS="dev")
    setup()
    assert len(setup.installed()) == 2
    assert "NERP_EXTRAS=../x: tensorboard,hub" in setup(1, NERP_EXTRAS="../x").stderr


def test_a_second_call_installs_nothing(setup):
    setup()
    again = setup()
    assert (again.stdout, again.stderr) == (f"took {setup.repo}/.venv\n", "")
    assert len(setup.installed()) == 1
    setup(NERP_TORCH="cpu")
    assert len(setup.installed()) == 3  # another build of torch is another environment


def test_another_build_of_torch_comes_with_its_torchvision(setup):
    setup(NERP_TORCH="cpu")
    first, second = setup.installed()
    assert first.endswith("--extra-index-url https://download.pytorch.org/whl/cpu "
                          f"torch=={PINS['torch']}+cpu torchvision=={PINS['torchvision']}+cpu")
    assert "--editable" in second
    assert "NERP_TORCH=../x: cpu, cu126 or the like" in setup(1, NERP_TORCH="../x").stderr


def test_a_build_of_torch_that_cannot_be_had_is_explained(setup):
    said = setup(1, NERP_TORCH="cu999", PIP_STATUS="1").stderr
    assert f"error: the installation failed; the lines above say why. NERP_TORCH=cu999 asks for " \
           f"torch=={PINS['torch']}+cu999" in said
    assert "out of reach from here" in said and len(setup.installed()) == 1


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_an_active_environment_with_torch_is_used_and_keeps_it(setup, variable):
    result = setup(**{variable: "{repo}/mine"})
    assert f"took {setup.repo}/mine" in result.stdout
    (call,) = setup.installed()
    assert call.endswith(f"--constraint {setup.repo}/mine/.nerp-keeps --editable "
                         f"{setup.repo}[slurm]")
    assert (setup.repo / "mine/.nerp-keeps").read_text() == "torch==2.9.0\ntorchvision==0.24.0\n"
    assert setup(**{variable: "{repo}/mine"}).stderr == ""


@pytest.mark.parametrize("environment", [
    {"VIRTUAL_ENV": "{repo}/bare"}, {"VIRTUAL_ENV": "{repo}/.venv"},
    {"VIRTUAL_ENV": "{repo}/mine", "NERP_VENV": "{repo}/.venv"},
])
def test_one_without_torch_or_when_another_is_asked_for_is_not(setup, environment):
    assert f"took {setup.repo}/.venv" in setup(**environment).stdout
    assert "constraints.txt" in setup.installed()[0]


def test_a_failed_installation_is_tried_again(setup):
    result = setup(1, PIP_STATUS="1")
    assert "error: the installation failed" in result.stderr
    setup()
    assert len(setup.installed()) == 2


def test_a_torchvision_that_does_not_fit_is_one_line(setup):
    """As where only torch comes from an index of CPU builds."""
    (setup.stubs / "torchvision.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    *_, line = setup(1).stderr.splitlines()
    assert "do not work together (RuntimeError: operator torchvision::nms does not exist" in line
    assert line.startswith("error: ") and "one folder of https://download.pytorch.org/whl" in line


@pytest.mark.parametrize(("torch", "reason"), [
    ("2.14.1+cu130 13.0 no", "it is built for CUDA 13.0, and the driver supports 12.2 at most"),
    ("2.14.1+cpu none no", "it is a build without CUDA"),
    ("2.6.0+cu118 11.8 no", "no libcuda at all"),
])
def test_a_gpu_that_torch_does_not_see_is_said_with_the_versions(setup, torch, reason):
    program(setup.bin / "nvidia-smi", NVIDIA_SMI)
    for _ in range(2):  # each time, until it is mended
        *_, warning = setup(TORCH=torch).stderr.splitlines()
        assert warning.startswith(f"warning: torch {torch.split()[0]} does not see the GPU "
                                  f"(NVIDIA T4, 535.104), so runs are on the CPU: {reason}")
        assert "NERP_TORCH=cu126" in warning


@pytest.mark.parametrize("environment", [
    {"TORCH": "2.14.1+cu130 13.0 yes"}, {"CUDA_VISIBLE_DEVICES": ""}, {"NERP_TORCH": "cpu"},
])
def test_nothing_is_said_of_a_gpu_that_is_seen_or_not_wanted(setup, environment):
    program(setup.bin / "nvidia-smi", NVIDIA_SMI)
    assert "warning" not in setup(**environment).stderr


def test_nothing_is_said_without_a_gpu(setup):
    program(setup.bin / "nvidia-smi", "#!/bin/sh\necho no devices were found >&2\nexit 9\n")
    assert "warning" not in setup().stderr
