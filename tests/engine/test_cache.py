"""Kept logits: used where the work is the same, and only there."""

import os

import numpy as np
import pytest
import torch
from conftest import write_eurosat
from PIL import Image

KEPT = "logits from"


@pytest.fixture
def tested(nerp, golden_weights, tmp_path):
    """Test a CoOp of this folder's own on images of its own; returns output and logits."""
    root = write_eurosat(tmp_path / "data", per_class=8)
    weights = tmp_path / "clip.pt"
    weights.write_bytes(golden_weights.read_bytes())
    common = ["--root", root, "--dataset", "eurosat", "MODEL.BACKBONE.PATH", weights,
              "TRAINER.COOP.N_CTX", "4"]
    status, _, error = nerp("train", "--trainer", "CoOp", *common, "--output-dir",
                            tmp_path / "train", "OPTIM.MAX_EPOCH", "1", "TEST.NO_TEST", "True",
                            "DATASET.SUBSAMPLE_CLASSES", "base")
    assert status == 0, error
    count = iter(range(100))

    def run(trainer, *args):
        out = tmp_path / f"test{next(count)}"
        status, text, error = nerp(
            "test", "--trainer", trainer, *common, "--model-dir", tmp_path / "train",
            "--output-dir", out, "--save-logits", "DATASET.SUBSAMPLE_CLASSES", "new", *args,
        )
        assert status == 0, error
        return text, np.load(out / "predictions.npz")["logits"]

    run.folder = tmp_path
    return run


def test_nerp_after_the_plain_test_encodes_nothing(tested, monkeypatch):
    text, plain = tested("CoOp")
    assert KEPT not in text
    monkeypatch.setattr("nerp.engine.tested.compute_logits", None)
    text, corrected = tested("CoOp_NeRP")
    assert KEPT in text and np.array_equal(plain, corrected)


def test_no_cache(tested):
    tested("CoOp")
    text, _ = tested("CoOp", "--no-cache")
    assert KEPT not in text


def change_a_weight(folder):
    file = next(folder.glob("train/prompt_learner/model.pth.tar-1"))
    content = torch.load(file)
    content["state_dict"]["ctx"][0, 0] += 1
    torch.save(content, file)


def change_the_backbone(folder):
    state = torch.load(folder / "clip.pt")
    state["visual.proj"][0, 0] += 1
    torch.save(state, folder / "clip.pt")


def change_an_image(folder):
    file = folder / "data/eurosat/2750/River/River_4.jpg"
    Image.new("RGB", (40, 48), "red").save(file)


def change_an_image_and_hide_it(folder):
    """Other content of the same size, with the old time of modification."""
    file = folder / "data/eurosat/2750/River/River_4.jpg"
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-80:-40] = content[-80:-40][::-1]
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_the_split(folder):
    file = folder / "data/eurosat/split_zhou_EuroSAT.json"
    file.write_text(file.read_text().replace("River_4.jpg", "River_3.jpg"))


CHANGES = [change_a_weight, change_the_backbone, change_an_image,
           change_an_image_and_hide_it, change_the_split]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_has_changed_is_computed_anew(tested, change):
    _, before = tested("CoOp")
    change(tested.folder)
    text, after = tested("CoOp")
    assert KEPT not in text and not np.array_equal(before, after)
    assert np.array_equal(after, tested("CoOp", "--no-cache")[1])
    assert KEPT in tested("CoOp")[0]


@pytest.mark.parametrize("setting", [["INPUT.INTERPOLATION", "bilinear"],
                                     ["INPUT.EXACT_JPEG", "False"],
                                     ["TRAINER.COOP.CLASS_TOKEN_POSITION", "front"]])
def test_other_settings_are_other_work(tested, setting):
    tested("CoOp")
    text, _ = tested("CoOp", *setting)
    assert (KEPT not in text) == setting[0].startswith("INPUT.")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign"])
def test_a_damaged_entry_is_not_trusted(tested, damage):
    _, before = tested("CoOp")
    (entry,) = tested.folder.glob("train/prompt_learner/logits_cache/*.npz")
    data = bytearray(entry.read_bytes())
    if damage == "truncated":
        del data[len(data) // 2 :]
    elif damage == "flipped":
        with np.load(entry) as content:
            arrays = dict(content)
        arrays["logits"] = arrays["logits"] + 1
        np.savez(entry, **arrays)
        data = bytearray(entry.read_bytes())
    else:
        data = bytearray(b"not an archive")
    entry.write_bytes(data)
    text, after = tested("CoOp")
    assert KEPT not in text and np.array_equal(before, after)
