"""A finished run is known again by what its numbers depend on, and by nothing else."""

import json
import os
import shutil

import pytest
from conftest import write_eurosat
from hostile import bounded, is_one_line
from PIL import Image

from nerp.base.errors import NerpError
from nerp.data.benchmark import Item
from nerp.data.digests import images_digest, images_state
from nerp.engine.identity import training_identity
from nerp.engine.tested import run_benchmark
from nerp.settings.resolve import Request, resolve


@pytest.fixture
def root(tmp_path):
    """A small EuroSAT of its own, to be changed."""
    return write_eurosat(tmp_path / "data", per_class=4, size=16)


@pytest.fixture
def identity(root, tmp_path):
    """Of a training: the arguments are the trainer and KEY VALUE pairs."""

    def identity(trainer="CoOp", *opts, root=root):
        request = Request(trainer, "eurosat", root=str(root), opts=[
            "DATASET.NUM_SHOTS", "2", "DATASET.SUBSAMPLE_CLASSES", "base", *map(str, opts)])
        cfg = resolve(request).cfg
        return training_identity(cfg, run_benchmark(cfg, tmp_path / "run"))

    return identity


def image(root, name, wanted=0):
    """An image of the class with the label `wanted` that the split `name` lists."""
    (file,) = root.glob("eurosat/split*.json")
    path = next(path for path, label, _ in json.loads(file.read_text())[name] if label == wanted)
    return root / "eurosat" / "2750" / path


def repaint(file):
    """Another picture under the same name, of another size in bytes."""
    Image.new("RGB", (16, 24), (200, 10, 10)).save(file, quality=30)


def test_images_count_by_name_label_and_content(tmp_path):
    items = [Item(f"{i}.png", i % 2, f"class {i % 2}") for i in range(6)]
    for item in items:
        (tmp_path / item.path).write_bytes(b"x" * (item.label + 1))
    first = images_digest(items, tmp_path)
    assert first == images_digest(items, tmp_path)
    assert first != images_digest(items[:5], tmp_path)
    assert first != images_digest([items[0]._replace(label=1), *items[1:]], tmp_path)
    state = images_state(items, tmp_path)
    os.utime(tmp_path / "3.png", (1, 1))
    assert first == images_digest(items, tmp_path)
    assert state != images_state(items, tmp_path)
    (tmp_path / "3.png").write_bytes(b"yy")  # as many bytes as before
    os.utime(tmp_path / "3.png", (1, 1))
    assert first != images_digest(items, tmp_path)
    (tmp_path / "3.png").unlink()
    with pytest.raises(NerpError, match=f"{tmp_path}/3.png: no such file"):
        images_digest(items, tmp_path)


def test_a_copy_of_the_data_elsewhere_is_the_same(root, identity, tmp_path):
    shutil.copytree(root, tmp_path / "copy")  # with new times
    assert identity(root=root) == identity(root=tmp_path / "copy")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_training_depends_on_the_images_it_trains_and_is_tested_on(split, root, identity):
    before, untested = identity(), identity("CoOp", "TEST.NO_TEST", True)
    repaint(image(root, split))
    assert (identity() == before) is False
    assert (identity("CoOp", "TEST.NO_TEST", True) == untested) is (split == "test")


NAMED = {
    "TRAINER.CoPrompt.TEXTS": "CoPrompt", "TRAINER.ANPROMPT.MAIN_TEXTS": "ANPrompt",
    "TRAINER.ANPROMPT.NOISE_TEXTS": "ANPrompt", "TRAINER.SAR.NOVEL_FILE": "CoOp_SAR",
    "MODEL.BACKBONE.PATH": "CoOp",
}


@pytest.mark.parametrize("key", NAMED)
def test_a_file_that_a_key_names_counts_by_content(key, identity, tmp_path):
    file = tmp_path / "named.json"
    file.write_text("{}")
    before = identity(NAMED[key], key, file)
    assert identity(NAMED[key], key, file) == before
    file.write_text('{"EuroSAT": 1}')
    assert identity(NAMED[key], key, file) != before


@pytest.mark.parametrize("key", [key for key in NAMED if key.endswith("TEXTS")])
def test_of_a_folder_of_sentences_what_is_read_counts(key, identity, tmp_path):
    (tmp_path / "texts" / "more").mkdir(parents=True)
    read, others = tmp_path / "texts" / "EuroSAT.json", ("Food101.json", "x.txt", "more/a.json")
    read.write_text("{}")
    before = identity(NAMED[key], key, tmp_path / "texts")
    for other in others:
        (tmp_path / "texts" / other).write_text("other")
    assert identity(NAMED[key], key, tmp_path / "texts") == before
    read.write_text('{"Forest": ["trees"]}')
    assert identity(NAMED[key], key, tmp_path / "texts") != before


@pytest.mark.parametrize("key", NAMED)
def test_a_folder_of_everything_is_not_read(key, identity):
    with bounded(seconds=20):
        try:
            identity(NAMED[key], key, "/")
        except NerpError as error:
            assert is_one_line(error)


ZEROSHOT = ["test", "--dataset", "eurosat", "DATASET.NUM_SHOTS", "2",
            "DATASET.SUBSAMPLE_CLASSES", "new"]


@pytest.fixture
def test(nerp, root, golden_weights, tmp_path):
    """Tests zero-shot CLIP in a folder: (status, printed, error)."""

    def test(trainer, *more):
        return nerp(*ZEROSHOT, "--trainer", trainer, "--root", root, "--output-dir",
                    tmp_path / trainer, "MODEL.BACKBONE.PATH", golden_weights, *more)

    return test


def test_a_test_whose_images_have_changed_is_another_one(test, root):
    for trainer in ("ZeroshotCLIP", "ZeroshotCLIP_NeRP"):
        assert test(trainer)[0] == 0 and "finished already" in test(trainer)[1]
    (mean,) = root.glob("eurosat/*_train_image_mean-*.png")
    repaint(image(root, "train"))
    assert "finished already" in test("ZeroshotCLIP")[1]
    status, _, error = test("ZeroshotCLIP_NeRP")
    assert status == 1 and is_one_line(error)
    assert "(the images whose mean is the reference (names, labels or content)" in error
    assert test("ZeroshotCLIP_NeRP", "--overwrite")[0] == 0
    means = {*root.glob("eurosat/*_train_image_mean-*.png")}
    assert len(means) == 2
    assert len({Image.open(file).tobytes() for file in means}) == 2 and mean in means
    repaint(image(root, "test", 9))
    status, _, error = test("ZeroshotCLIP")
    assert status == 1 and "(the tested images (names, labels or content))" in error


def test_a_reference_image_that_is_given_leaves_the_training_images_out(test, root, tmp_path):
    Image.new("RGB", (16, 16), "grey").save(tmp_path / "grey.png")
    given = ["NERP.REFERENCE_IMAGE", tmp_path / "grey.png", "NERP.RULE", "flip"]
    assert test("ZeroshotCLIP_NeRP", *given)[0] == 0
    repaint(image(root, "train"))
    assert "finished already" in test("ZeroshotCLIP_NeRP", *given)[1]
    Image.new("RGB", (16, 16), "white").save(tmp_path / "grey.png")
    status, _, error = test("ZeroshotCLIP_NeRP", *given)
    assert status == 1 and "(NERP.REFERENCE_IMAGE: the file's content)" in error


def test_a_kept_mean_that_is_damaged_is_made_anew(test, root):
    assert test("ZeroshotCLIP_NeRP")[0] == 0
    (mean,) = root.glob("eurosat/*_train_image_mean-*.png")
    whole = Image.open(mean).tobytes()
    mean.write_bytes(mean.read_bytes()[:200])
    assert test("ZeroshotCLIP_NeRP", "--overwrite")[0] == 0
    assert Image.open(mean).tobytes() == whole
