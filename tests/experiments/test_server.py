"""Forked runs are what processes of their own would be: results, output, exit status, isolation."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import GOLDEN_SETTINGS

from nerp.commands.forked import FORKED, FRESH
from nerp.experiments.server import KILLED, Server

# Measured, so never the same twice.
MEASURED = ("seconds", "peak_memory_mib", "start", "end", "features")


@pytest.fixture(scope="module")
def server():
    server = Server(FORKED)
    yield server
    server.close()


def run(server, argv, folder, **environment) -> tuple[int, str]:
    """The exit status and the output of a run."""
    with open(folder / "output.txt", "w+b") as output:
        status = server.start([str(arg) for arg in argv], output.fileno(), environment).wait()
        output.seek(0)
        return status, output.read().decode()


def run_lines(folder, root, weights):
    """Training, its test and NeRP's, in `folder`."""
    settings = [x for key, value in GOLDEN_SETTINGS["CoCoOp"].items()
                for x in (f"TRAINER.COCOOP.{key}", str(value))]
    for phase, name, classes in (("train", "CoCoOp", "base"), ("test", "CoCoOp", "new"),
                                 ("test", "CoCoOp_NeRP", "new")):
        line = [phase, "--trainer", name, "--dataset", "eurosat", "--root", root, "--seed", "5",
                "--output-dir", folder / f"{name}_{phase}"]
        if phase == "test":
            line += ["--model-dir", folder / "CoCoOp_train", "--no-cache", "--save-logits"]
        yield [*line, "DATASET.NUM_SHOTS", "2", "DATASET.SUBSAMPLE_CLASSES", classes,
               "OPTIM.MAX_EPOCH", "2", "MODEL.BACKBONE.PATH", weights, *settings]


def test_results_and_checkpoints_are_those_of_a_process_of_its_own(
    server, eurosat_root, golden_weights, tmp_path
):
    fresh = Server(FRESH)
    outputs = {}
    for name, place in (("forked", server), ("fresh", fresh)):
        folder = tmp_path / "runs"  # the same for both: it is in their records
        folder.mkdir()
        outputs[name] = []
        for line in run_lines(folder, eurosat_root, golden_weights):
            status, output = run(place, line, folder)
            assert status == 0, output
            outputs[name].append([said.split(":")[0] for said in output.splitlines()
                                  if not said.startswith("features from")])
        folder.rename(tmp_path / name)
    fresh.close()
    found, wanted = tmp_path / "forked", tmp_path / "fresh"
    for file in sorted(wanted.rglob("result.json")):
        ours, theirs = (json.loads((top / file.relative_to(wanted)).read_text())
                        for top in (found, wanted))
        for record in (ours, theirs):
            for key in MEASURED:
                record.pop(key, None)
            # A digest of the file, in which torch.save puts the name that it had while written.
            record["identity"].pop("checkpoint", None)
        assert ours == theirs
    for file in sorted(wanted.rglob("model.pth.tar-*")):
        ours, theirs = (torch.load(top / file.relative_to(wanted), weights_only=True)
                        for top in (found, wanted))
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs["state_dict"].items():
            assert torch.equal(ours["state_dict"][name], tensor)
    assert len(list(found.rglob("result.json"))) == 3
    assert outputs["forked"] == outputs["fresh"]


@pytest.mark.parametrize("named", ["--import", "NERP_IMPORT"])
def test_a_run_imports_code_of_the_users_own_as_it_then_is(
    named, server, eurosat_root, golden_weights, tmp_path
):
    file = tmp_path / f"own_{named.strip('-').lower()}.py"
    for number in (1, 2):  # edited while the server stays
        file.write_text(f"""
from nerp.base.registry import TRAINERS
from nerp.trainers.zeroshot import ZeroshotCLIP

@TRAINERS.register("Own")
class Own(ZeroshotCLIP):
    node = "OWN"
    paper = "edition {number}"
""")
        line = ["methods", "--backbone", "tiny"]
        own = {} if named == "--import" else {named: str(file)}
        status, output = run(server, line if own else [*line, "--import", file], tmp_path, **own)
        assert status == 0 and f"edition {number}" in output, output
    test = ["test", "--import", file, "--trainer", "Own", "--dataset", "eurosat", "--root",
            eurosat_root, "--output-dir", tmp_path / "run", "MODEL.BACKBONE.PATH", golden_weights]
    status, output = run(server, test, tmp_path)
    assert status == 0 and "accuracy" in output, output


def test_a_mistake_is_its_own(server, tmp_path):
    status, output = run(server, ["train", "--trainer", "CoOpp"], tmp_path)
    assert status == 1
    assert output.startswith("nerp: error: unknown trainer")
    assert run(server, ["methods"], tmp_path)[0] == 0


def test_a_signal_ends_one_run_alone(server, eurosat_root, golden_weights, tmp_path):
    long = [*next(run_lines(tmp_path, eurosat_root, golden_weights)), "OPTIM.MAX_EPOCH", "200"]
    with open(tmp_path / "output.txt", "wb") as output:
        children = [server.start([str(x) for x in [*long, "SEED", i]], output.fileno(), {})
                    for i in (1, 2)]
    os.kill(children[0].pid, signal.SIGKILL)
    assert children[0].wait() == -signal.SIGKILL
    assert children[1].poll() is None
    os.kill(children[1].pid, signal.SIGTERM)
    assert children[1].wait() == -signal.SIGTERM


def test_the_environment_is_the_runs_own(server, tmp_path):
    before = dict(os.environ)
    run(server, ["methods"], tmp_path, CUDA_VISIBLE_DEVICES="7")
    child = Server([sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"])
    assert run(child, [], tmp_path, CUDA_VISIBLE_DEVICES="7") == (0, "7\n")
    child.close()
    assert dict(os.environ) == before


def test_a_server_that_was_killed_takes_its_runs_along_and_is_replaced(tmp_path):
    server = Server([sys.executable, "-c", "import time; time.sleep(60)"])
    child = server.start([], None, {})
    child.again = True  # it has been started anew once
    os.kill(server._process.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(child.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.02)
    else:
        pytest.fail("the run is still there")
    server.program = [sys.executable, "-c", "raise SystemExit(3)"]
    assert server.start([], None, {}).wait() == 3
    server.close()


def test_what_a_run_imports_is_there_and_cuda_is_not_touched(
    eurosat_root, golden_weights, tmp_path
):
    """In one process: what the server does first, then what runs do."""
    lines = [[str(x) for x in line] for line in run_lines(tmp_path, eurosat_root, golden_weights)]
    code = f"""
import sys, torch
from nerp.commands import forked

def touched(*args, **kwargs):
    raise AssertionError("CUDA")

real = torch._C._cuda_getDeviceCount, torch.cuda.is_available, torch.cuda.device_count
torch._C._cuda_getDeviceCount = torch.cuda.is_available = torch.cuda.device_count = touched
torch.cuda._lazy_init = touched
state = torch.get_rng_state()
forked.import_everything()
lines = {lines!r}
for line in lines:
    forked.read_backbone(line)
assert torch.equal(torch.get_rng_state(), state)
torch._C._cuda_getDeviceCount, torch.cuda.is_available, torch.cuda.device_count = real
from nerp.clip import model
assert len(model._ahead) == 1
before = set(sys.modules)
from nerp import cli
for line in lines:
    assert cli.run(line) == 0
assert not model._ahead
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
assert not new & {{"torch", "torchvision", "sympy", "numpy", "PIL", "open_clip"}}, \\
    sorted(set(sys.modules) - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("times", [1, 2])
def test_a_killed_server_is_started_anew_once_a_run(times, tmp_path):
    server = Server((sys.executable, "-c", "import time; time.sleep(0.5); print('done')"))
    with open(tmp_path / "output.txt", "w+b") as output:
        child = server.start([], output.fileno(), {})
        for _ in range(times):
            os.kill(server._process.pid, signal.SIGKILL)
            while child.poll() is None and child.again is False:
                time.sleep(0.01)
        status = child.wait()
        output.seek(0)
        assert (status, output.read()) == ((0, b"done\n") if times == 1 else (KILLED, b""))
    other = server.start([], None, {})  # the next run has a server again
    assert other.wait() == 0
    server.close()
