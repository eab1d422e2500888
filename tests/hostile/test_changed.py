"""What changes under a run, or was another's: a number counts for what it was computed from."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_eurosat

from nerp.base.errors import NerpError
from nerp.base.own_code import own_code
from nerp.data.benchmark import Item
from nerp.data.digests import images_digest
from nerp.engine import tested as module
from nerp.engine.record_file import check_owner, run_digest
from nerp.experiments.plan import plan
from nerp.experiments.selection import Selection
from nerp.files.digest import read_digested


@pytest.mark.parametrize("settled", [True, False])
def test_a_file_that_changes_while_it_is_read_is_an_error(settled, tmp_path):
    file = tmp_path / "a"
    file.write_text("one")
    if settled:
        os.utime(file, (1, 1))
        time.sleep(0 if os.stat(file).st_ctime < time.time() - 2 else 2.1)

    def read(path):
        text = path.read_text()
        path.write_text("two")  # as long as it was
        return text

    with pytest.raises(NerpError, match="was changed while it was read"):
        read_digested(file, read)
    assert read_digested(file, Path.read_text) == ("two", read_digested(file, Path.read_bytes)[1])


def test_a_checkpoint_retrained_under_a_test_leaves_no_logits_of_the_old_one(
    trained, nerp, tmp_path, monkeypatch
):
    """The file is replaced when it has been read."""
    out, flags, opts = trained
    line = ["test", "--trainer", "MMRL", *flags, "--model-dir", out, *opts, "--save-logits",
            "DATASET.SUBSAMPLE_CLASSES", "new"]
    (file,) = out.glob("*/model.pth.tar-2")
    read = module.read_checkpoint

    def replaced(path, *args):
        found = read(path, *args)
        content = torch.load(path, weights_only=True)
        content["state_dict"] = {name: tensor + 0.5 if tensor.is_floating_point() else tensor
                                 for name, tensor in content["state_dict"].items()}
        torch.save(content, path)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(module, "read_checkpoint", replaced)
        assert nerp(*line, "--output-dir", tmp_path / "old")[0] == 0
    assert file.exists()
    assert nerp(*line, "--output-dir", tmp_path / "kept")[0] == 0
    assert nerp(*line, "--output-dir", tmp_path / "anew", "--no-cache")[0] == 0
    kept, anew = (np.load(tmp_path / name / "predictions.npz")["logits"]
                  for name in ("kept", "anew"))
    assert np.array_equal(kept, anew)


def test_pixels_changed_under_the_same_name_size_and_time_are_another_run(
    golden_weights, nerp, tmp_path
):
    write_eurosat(tmp_path, per_class=4)
    line = ["test", "--trainer", "ZeroshotCLIP", "--root", tmp_path, "--dataset", "eurosat",
            "--output-dir", tmp_path / "run", "MODEL.BACKBONE.PATH", golden_weights]
    assert nerp(*line)[0] == 0
    assert "finished already" in nerp(*line)[1]
    for file in tmp_path.glob("eurosat/2750/*/*.jpg"):
        data, state = bytearray(file.read_bytes()), file.stat()
        data[-20] ^= 1
        file.write_bytes(data)
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    status, _, error = nerp(*line)
    assert status == 1 and "the tested images (names, labels or content)" in error


def test_the_digest_of_images_is_kept_and_then_only_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("nerp.data.digests.SETTLED", -1e9)
    items = [Item(f"{i}.png", 0, "a") for i in range(200)]
    for item in items:
        (tmp_path / item.path).write_text(item.path)
    first = images_digest(items, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("nerp.data.digests.file_digest", None)
        assert images_digest(items, tmp_path) == first
    note = tmp_path / "cache" / "nerp" / "images.json"
    note.write_text("damaged")
    assert images_digest(items, tmp_path) == first
    (tmp_path / "7.png").write_text("8.png")
    assert images_digest(items, tmp_path) != first


def test_predictions_are_of_the_run_beside_them(tmp_path):
    record = {"identity": {"config": "00", "images": {"test": "11"}}}
    check_owner(run_digest(record["identity"]), record, tmp_path / "predictions.npz")
    for said in ("", "x", run_digest({"config": "00"})):
        with pytest.raises(NerpError, match=r"predictions.npz: it is of another run"):
            check_owner(said, record, tmp_path / "predictions.npz")


def test_what_a_killed_run_left_is_not_taken_for_the_next_ones(golden_weights, nerp, tmp_path):
    write_eurosat(tmp_path, per_class=4)
    line = ["test", "--trainer", "ZeroshotCLIP", "--root", tmp_path, "--dataset", "eurosat",
            "--output-dir", tmp_path / "run", "MODEL.BACKBONE.PATH", golden_weights]
    assert nerp(*line, "--save-logits", "--save-confusion")[0] == 0
    (tmp_path / "run" / "result.json").unlink()  # killed just before
    assert nerp(*line, "DATASET.SUBSAMPLE_CLASSES", "new")[0] == 0
    assert not (tmp_path / "run" / "predictions.npz").exists()
    assert not (tmp_path / "run" / "confusion.csv").exists()


def test_what_own_code_imports_counts(tmp_path, monkeypatch):
    package = tmp_path / "ownpack"
    package.mkdir()
    texts = {
        "__init__.py": "", "entry.py": "from . import near\nfrom ownpack.far import X\n\n\n"
        "def entry():\n    import ownlazy\n    return ownlazy, near, X\n",
        "near.py": "import importlib\nY = importlib.import_module('ownpack.named')\n",
        "far.py": "X = 1\n", "named.py": "Z = 1\n",
    }
    for name, text in texts.items():
        (package / name).write_text(text)
    (tmp_path / "ownlazy.py").write_text("W = 1\n")
    (tmp_path / "unrelated.py").write_text("V = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import ownpack.entry

    first = own_code(ownpack.entry.entry)
    assert first == own_code(ownpack.entry.entry) != ""
    (tmp_path / "unrelated.py").write_text("V = 2\n")
    assert own_code(ownpack.entry.entry) == first
    for file in (*(package / name for name in texts), tmp_path / "ownlazy.py"):
        before = file.read_text()
        file.write_text(before + "\nCHANGED = True\n")
        assert own_code(ownpack.entry.entry) != first, file.name
        file.write_text(before)
    assert own_code(ownpack.entry.entry) == first


def test_a_sweep_knows_the_files_that_a_configuration_names(tmp_path):
    texts, folder = tmp_path / "texts.json", tmp_path / "folder"
    texts.write_text("{}")
    folder.mkdir()
    (folder / "EuroSAT.json").write_text("{}")
    config = tmp_path / "mine.yaml"
    config.write_text(json.dumps({"TRAINER": {"ANPROMPT": {
        "MAIN_TEXTS": str(texts), "NOISE_TEXTS": str(folder)}}}))
    (run, *_) = plan(Selection("B2N", ("ANPrompt",), ("eurosat",), (1,), (4,),
                               config=(str(config),)))
    assert {config, texts, folder / "EuroSAT.json"} <= {*run.inputs}


def test_a_module_that_exits_is_a_line(tmp_path, nerp):
    (tmp_path / "quits.py").write_text("raise SystemExit(0)\n")
    status, _, error = nerp("methods", "--import", tmp_path / "quits.py")
    assert status == 1 and "quits.py: it cannot be imported: SystemExit" in error


def test_a_second_interruption_leaves_no_traceback(tmp_path):
    code = ("import atexit, sys, time; from nerp import cli; import nerp.commands.methods as m\n"
            "atexit.register(time.sleep, 30)\n"
            "def wait(args):\n    print('begun', flush=True)\n    time.sleep(30)\n"
            "m.main = wait\ncli.main(['methods'])\n")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    line = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert line.startswith("nerp: interrupted") and rest == ""
    assert process.returncode == -signal.SIGINT
