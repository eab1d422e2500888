"""Two processes do the work of one: the same tensors, every image counted once."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import GOLDEN_SETTINGS

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.data.images import EpochBatches


def launch(processes, *args):
    """`python -m ARGS` under torchrun, on the CPU."""
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone", "--nproc-per-node", processes, "-m"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([str(a) for a in (*command, *args)], capture_output=True,
                          text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


# MaPLe's deepest prompts are for layers that this backbone does not have.
SETTINGS = GOLDEN_SETTINGS | {"MaPLe": {"PROMPT_DEPTH": 9}}


@pytest.mark.parametrize("method", [
    "MMRL", *(pytest.param(name, marks=pytest.mark.slow)
              for name in ("PromptSRC", "MaPLe", "ProGrad", "PromptKD"))])
def test_train_and_test(method, eurosat_root, golden_weights, tmp_path):
    node = TRAINERS[method].node
    common = ["--root", eurosat_root, "--dataset", "eurosat", "MODEL.BACKBONE.PATH",
              golden_weights, "DATASET.NUM_SHOTS", "3", "OPTIM.LR", "0.0025"]
    for key, value in SETTINGS[method].items():
        common += [f"TRAINER.{node}.{key}", value]
    results = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        # Batches of 5 are shared as 3 and 2; 15 tested images as 8 and 7.
        launch(processes, "nerp", "train", "--trainer", method, "--output-dir", out / "train",
               *common, "DATALOADER.TRAIN_X.BATCH_SIZE", "5", "OPTIM.MAX_EPOCH", "2",
               "DATASET.SUBSAMPLE_CLASSES", "base")
        text = launch(processes, "nerp", "test", "--trainer", f"{method}_NeRP", "--model-dir",
                      out / "train", "--output-dir", out / "test", "--save-logits", *common,
                      "DATASET.SUBSAMPLE_CLASSES", "new")
        assert text.count("=> result") == 1  # one process talks
        file = out / "train" / TRAINERS[method].folder / "model.pth.tar-2"
        results.append((
            torch.load(file, weights_only=True)["state_dict"],
            np.load(out / "test" / "predictions.npz"),
            json.loads((out / "test" / "result.json").read_text()),
        ))
    (one, saved_one, record_one), (two, saved_two, record_two) = results
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=1e-3)
    assert record_one["total"] == record_two["total"] == 15
    assert saved_one["paths"].tolist() == saved_two["paths"].tolist()
    np.testing.assert_allclose(saved_one["logits"], saved_two["logits"], atol=5e-2)


def test_no_thread_of_the_group_outlives_it(tmp_path, monkeypatch):
    (tmp_path / "steps.py").write_text(
        "import torch\n"
        "from pathlib import Path\n"
        "from nerp.base.distributed import agree, is_main, processes\n"
        "def running():\n"
        "    return {file.read_text().strip() for file in Path('/proc/self/task').glob('*/comm')}\n"
        "with processes():\n"
        "    weights = torch.ones(3, requires_grad=True)\n"
        "    weights.sum().backward()\n"
        "    torch.optim.SGD([weights], 0.1).step()\n"
        "    talks, during = is_main(), agree(running())\n"
        "if talks:\n"
        "    print([sum('gloo' in name for name in names) for names in (during, running())])\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    during, after = json.loads(launch(2, "steps"))
    assert during > 0 and after == 0


def test_where_one_process_finds_nothing_all_compute(tmp_path, monkeypatch):
    """As where another command removes what is kept between one process's look and the next's."""
    (tmp_path / "looks.py").write_text(
        "import sys\n"
        "import torch\n"
        "from pathlib import Path\n"
        "from nerp.base.distributed import interleave, processes, rank\n"
        "from nerp.engine import cache\n"
        "place = cache.Kept(Path(sys.argv[1]) / 'x.npz', Path(sys.argv[1]))\n"
        "def compute():\n"  # which all have to take part in
        "    return interleave(torch.full((1, 3), 1.0 + rank()), 2)\n"
        "with processes():\n"
        "    if rank() == 0:\n"
        "        cache.keep([place], 'key', {'features': torch.zeros(2, 3)})\n"
        "    else:\n"
        "        cache.read_kept = lambda *args: None\n"
        "    found = cache.cached([place], 'key', 'features', (2, 3), compute)\n"
        "    assert found.tolist() == [[1.0] * 3, [2.0] * 3]\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    launch(2, "looks", tmp_path)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_item_of_a_batch_has_one_process(processes):
    whole = list(EpochBatches(11, 4, seed=1))
    shares = [list(EpochBatches(11, 4, 1, rank, processes)) for rank in range(processes)]
    assert len(whole) == 2
    for i, batch in enumerate(whole):
        together = [item for share in shares for item in share[i]]
        assert sorted(together) == sorted(batch) and len(batch) == 4


def test_a_batch_too_small_to_share_is_refused():
    with pytest.raises(NerpError, match="batches of 1 images cannot be shared by 2 processes"):
        EpochBatches(10, 1, seed=1, rank=0, processes=2)
