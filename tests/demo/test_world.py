"""The procedural benchmarks and the weights that ship with them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.paths import shipped
from nerp.clip import tokenizer
from nerp.demo import canvas, world
from nerp.demo.world import BENCHMARK_SEED, IMAGES_PER_CLASS, PRETRAINING_SEED, WORLDS

WEIGHTS = Path(world.__file__).parent / "weights"
BACKBONES = ("tiny", "tiny-biased")


@pytest.fixture
def small(monkeypatch):
    """Two images per class and split: the layout without the wait."""
    monkeypatch.setattr(world, "IMAGES_PER_CLASS", {"train": 2, "val": 2, "test": 2})


def contents(folder):
    """Every file under a folder: its relative path -> its bytes."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def card(name):
    return CfgNode.load_cfg((shipped("datasets") / f"{name}.yaml").read_text()).DATASET


@pytest.mark.parametrize("name", WORLDS)
def test_an_image_depends_on_what_names_it_and_on_nothing_else(name):
    image = world.draw(name, 1, "test", 3, 5)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    np.random.seed(0)
    assert np.array_equal(image, world.draw(name, 1, "test", 3, 5))
    for other in ((2, "test", 3, 5), (1, "val", 3, 5), (1, "test", 4, 5), (1, "test", 3, 6)):
        assert not np.array_equal(image, world.draw(name, *other))


def test_pretraining_never_sees_a_benchmark_image():
    assert BENCHMARK_SEED != PRETRAINING_SEED


@pytest.mark.parametrize("name", WORLDS)
def test_every_class_can_be_drawn_many_times(name):
    for label in range(len(WORLDS[name].classnames)):
        images = np.stack([world.draw(name, 9, "any", label, i) for i in range(8)])
        assert images.std() > 5, "nothing to see"
        assert images.astype(float).std(0).mean() > 5, "no variation within the class"


def test_the_files_do_not_depend_on_the_number_of_processes(small, tmp_path, monkeypatch):
    drawn = []
    for cores in (1, 3):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        drawn.append(contents(world.build("demo_landcover", tmp_path / str(cores), progress=False)))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("name", WORLDS)
def test_a_card_describes_what_is_drawn(name, small, tmp_path):
    entry, drawn = card(name), WORLDS[name]
    assert drawn.registry_name == entry.NAME == entry.REFERENCE
    assert (name, len(drawn.classnames)) == (entry.DIRECTORY, entry.NUM_CLASSES)
    assert (drawn.template, drawn.neutral) == (entry.TEMPLATE, entry.NEUTRAL)
    assert [n * entry.NUM_CLASSES for n in IMAGES_PER_CLASS.values()] == entry.SPLIT_SIZES

    folder = world.build(name, tmp_path, progress=False)
    split_file = json.loads((folder / entry.SPLIT_FILE).read_text())
    paths = [path for split in ("train", "val", "test") for path, _, _ in split_file[split]]
    images = folder / entry.IMAGE_FOLDER
    assert {str(p.relative_to(images)) for p in images.rglob("*.jpg")} == set(paths)
    assert len(paths) == len(set(paths)) == 6 * entry.NUM_CLASSES
    for path, label, classname in split_file["train"]:
        assert classname == drawn.classnames[label]
        assert path.startswith(f"{classname.replace(' ', '')}/{classname.replace(' ', '')}_")
    labels = [label for _, label, _ in split_file["train"]]
    assert labels != sorted(labels), "the published splits are mixed"
    with Image.open(images / paths[0]) as image:
        assert (image.size, image.mode, image.format) == ((64, 64), "RGB", "JPEG")


def test_a_finished_benchmark_is_left_alone(small, tmp_path):
    folder = world.build("demo_objects", tmp_path, progress=False)
    (folder / "images" / "apple" / "apple_1.jpg").write_bytes(b"mine")
    world.build("demo_objects", tmp_path, progress=False)
    assert (folder / "images" / "apple" / "apple_1.jpg").read_bytes() == b"mine"


def test_an_interrupted_drawing_leaves_nothing_and_the_next_one_starts_afresh(
    small, tmp_path, monkeypatch
):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(world.Path, "write_text", interrupt)
        with pytest.raises(KeyboardInterrupt):
            world.build("demo_landcover", tmp_path, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == [".demo_landcover.lock"]

    killed = tmp_path / ".demo_landcover.unfinished" / "images"
    killed.mkdir(parents=True)
    (killed / "half.jpg").touch()
    folder = world.build("demo_landcover", tmp_path, progress=False)
    assert not killed.exists() and not list(folder.rglob("half.jpg"))


def test_processes_that_build_at_once_agree(small, tmp_path):
    pool = world.multiprocessing.get_context("fork")
    callers = [
        pool.Process(target=world.build, args=("demo_landcover", tmp_path, False))
        for _ in range(3)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert [caller.exitcode for caller in callers] == [0, 0, 0]
    alone = world.build("demo_landcover", tmp_path / "alone", progress=False)
    assert contents(tmp_path / "demo_landcover") == contents(alone)


def test_an_unknown_benchmark_is_an_error_that_lists_the_known_ones(tmp_path):
    with pytest.raises(NerpError, match="demo_textures"):
        world.build("demo_texture", tmp_path)


def test_drawing_does_not_wait_for_torch():
    code = "import sys, nerp.demo.world; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_class_frequencies_are_a_long_tail_that_the_labels_do_not_tell():
    shares = [share for name in WORLDS for share in world.class_frequency(name).values()]
    assert sum(shares) == pytest.approx(1)
    descending = np.sort(shares)[::-1]
    assert descending == pytest.approx(descending[0] / np.arange(1, len(shares) + 1))
    for name in WORLDS:
        assert list(world.class_frequency(name)) == list(WORLDS[name].classnames)
        ranks = np.argsort(np.argsort(list(world.class_frequency(name).values())))
        assert abs(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) < 0.2


@pytest.mark.parametrize("backbone", BACKBONES)
def test_shipped_weights_know_every_word_of_the_worlds(backbone):
    file = WEIGHTS / f"{backbone}.safetensors"
    assert file.stat().st_size <= 4_000_000
    with safe_open(file, "np") as content:
        assert content.metadata() == {"format": "pt", "name": backbone, "activation": "quick_gelu"}
        rows = content.get_tensor("token_embedding.rows")
        table = content.get_tensor("token_embedding.weight")
        dtypes = {content.get_tensor(key).dtype for key in content.keys()}  # noqa: SIM118
    assert dtypes == {np.dtype("float16"), rows.dtype}
    assert table.shape[0] == len(rows) == len(set(rows.tolist()))
    for drawn in WORLDS.values():
        for template in (drawn.template, *drawn.captions):
            for classname in drawn.classnames:
                assert set(tokenizer.tokenize(template.format(classname))) <= set(rows.tolist())
        assert set(tokenizer.tokenize(drawn.neutral)) <= set(rows.tolist())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_record_of_a_backbone_says_what_it_was_trained_on(backbone):
    record = json.loads((WEIGHTS / f"{backbone}.json").read_text())
    for name in WORLDS:
        assert record["class_frequency"][name] == pytest.approx(world.class_frequency(name))


def test_the_records_say_how_to_make_the_weights_and_what_they_can():
    for backbone, loss in zip(BACKBONES, ("plain", "unique"), strict=True):
        record = json.loads((WEIGHTS / f"{backbone}.json").read_text())
        assert record["command"] == (
            f"python tools/making/pretrain_tiny_clip.py --loss {loss} "
            f"--out nerp/demo/weights/{backbone}.safetensors"
        )
        assert record["settings"]["seed"] == PRETRAINING_SEED
    record = json.loads((WEIGHTS / "tiny.json").read_text())
    for name, result in record["zero_shot"].items():
        assert 40 <= result["all"] <= 90, f"{name}: nothing to learn, or nothing to correct"


def test_the_benchmarks_camera_is_warmer_and_flatter():
    grey = np.full((64, 64, 3), 127, np.uint8)
    red, green, blue = canvas.other_camera(grey)[0, 0].astype(int)
    assert red > green > blue and abs(green - 127) <= 1
    black, white = (canvas.other_camera(np.full_like(grey, v))[0, 0, 1] for v in (0, 255))
    assert 0 < black < white < 255
