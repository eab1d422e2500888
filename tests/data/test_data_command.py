"""`nerp data` as a user meets it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import write_eurosat
from made import card, classnames_text, wnids, write
from PIL import Image

from nerp.settings.cards import shipped_cards

SIZES = [60, 30, 30]  # of write_eurosat


@pytest.fixture
def own_card(tmp_path):
    """A card of the small EuroSAT that states its sizes."""
    root = write_eurosat(tmp_path / "data")
    keys = {"NAME": "Small", "DIRECTORY": "eurosat", "IMAGE_FOLDER": "2750",
            "SPLIT_FILE": "split_zhou_EuroSAT.json", "NUM_CLASSES": 10, "SPLIT_SIZES": SIZES}
    return write(tmp_path / "small.yaml", json.dumps({"DATASET": keys})), root


def test_list(nerp, own_card, tmp_path):
    _, root = own_card
    (root / "dtd").mkdir()
    status, out, _ = nerp("data", "list", "--root", root)
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines()[2:-2]}
    assert status == 0
    headings = [name for name in out.splitlines() if name.rstrip().endswith(":")]
    assert [h.strip() for h in headings] == ["CoOp's fifteen:", "medical:", "drawn:"]
    assert set(shipped_cards()) <= set(rows) and len(rows) == len(shipped_cards()) + len(headings)
    places = [list(rows).index(name) for name in ("eurosat", "btmri", "demo_objects")]
    assert places == sorted(places)
    assert rows["eurosat"] == "EuroSAT 10 13500 5400 8100 found"
    assert rows["btmri"] == "BTMRI 4 2854 1141 1717 missing"
    assert rows["dtd"] == "DescribableTextures 47 2820 1128 1692 no images"
    assert rows["imagenet"] == "ImageNet 1000 1281167 - 50000 missing"
    assert rows["demo_objects"].endswith("3000 drawn")
    assert out.endswith(f"there: in {root}; drawn: will be, on first use\n")


def test_check(nerp, own_card):
    file, root = own_card
    status, out, _ = nerp("data", "check", file, "--root", root)
    assert (status, out.splitlines()[0]) == (0, "Small: ok")
    next((root / "eurosat" / "2750" / "Forest").iterdir()).write_text("<html>")
    status, out, _ = nerp("data", "check", file, "--root", root)
    assert status == 1 and "not an image file" in out
    status, out, _ = nerp("data", "check", "--root", root)  # finds EuroSAT, which has more images
    assert status == 1 and "train: 60 images, the card says 13500" in out
    status, _, error = nerp("data", "check", "--root", root / "eurosat")
    assert status == 1 and "holds none of the datasets" in error


def test_prepare(nerp, tmp_path):
    status, out, _ = nerp("data", "prepare", "imagenet", "--root", tmp_path, "--dry-run")
    assert status == 0 and "by hand: images/train: agree to the terms" in out
    assert not list(tmp_path.iterdir())
    status, _, error = nerp("data", "prepare", "--root", tmp_path)
    assert status == 1 and "of which dataset? There are: " in error and "caltech101, " in error
    status, _, error = nerp("data", "prepare", "eurosta", "--root", tmp_path)
    assert status == 1 and "unknown dataset 'eurosta'. Did you mean eurosat?" in error


def test_prepare_a_dataset_that_was_put_there(nerp, tmp_path):
    write_eurosat(tmp_path)
    status, out, _ = nerp("data", "prepare", "eurosat", "--root", tmp_path)
    assert status == 1 and "2750: there\n" in out  # and a split file that is not the published one
    assert "instead of 3,006,492; delete" in out and "Not complete" in out


def test_reference(nerp, own_card):
    file, root = own_card
    status, out, _ = nerp("data", "reference", file, "--root", root)
    path, text = out.splitlines()
    assert status == 0 and Path(path).parent == root / "eurosat"
    assert "224x224 pixels, the mean of the 60 training images of Small" in text
    paths = [i[0] for i in json.loads((root / "eurosat/split_zhou_EuroSAT.json").read_text())
             ["train"]]
    pixels = [
        np.asarray(Image.open(root / "eurosat" / "2750" / p).resize((224, 224), Image.BICUBIC))
        for p in paths
    ]
    assert np.array_equal(Image.open(path), np.round(np.mean(pixels, 0)).astype(np.uint8))


def test_the_reference_of_a_variant_is_imagenets(nerp, tmp_path):
    cfg = card("imagenet", tmp_path).DATASET
    folder = tmp_path / "imagenet"
    write(folder / "classnames.txt", classnames_text(1000))
    for wnid in wnids(1000):
        (folder / "images" / "train" / wnid).mkdir(parents=True)
    write(folder / "images" / "train" / wnids(1)[0] / "1.JPEG")
    status, out, _ = nerp("data", "reference", "imagenet_a", "--root", tmp_path)
    assert status == 0 and f"the mean of the 1 training images of {cfg.NAME}" in out
    assert Path(out.splitlines()[0]).parent == folder
    shutil.rmtree(folder / "images" / "train" / wnids(1)[0])
    (folder / "images" / "train" / wnids(1)[0]).mkdir()
    (folder / "images" / "val" / wnids(1)[0]).mkdir(parents=True)
    write(folder / "images" / "val" / wnids(1)[0] / "1.JPEG")
    status, _, error = nerp("data", "reference", "imagenet_a", "--root", tmp_path)
    assert status == 1 and "there are no training images to take the mean of" in error


@pytest.mark.parametrize("content, message", [
    ({"NAME": "Own", "TEMPLATE": "a photo."},
     "DATASET.TEMPLATE is 'a photo.'; it takes a text with one {} for the class name"),
    ({"NAME": "Own", "IMAGE_FOLDER": 2750},
     "DATASET.IMAGE_FOLDER is 2750; it takes a path inside its folder"),
    ({"NAME": "Own", "LAYUOT": "folders"}, "'DATASET.LAYUOT'. Did you mean DATASET.LAYOUT?"),
    ({"TEMPLATE": "{}"}, "a dataset card needs DATASET.NAME"),
])
def test_mistakes_in_a_card_of_ones_own(content, message, nerp, tmp_path):
    file = write(tmp_path / "own.yaml", json.dumps({"DATASET": content}))
    status, _, error = nerp("data", "check", file, "--root", tmp_path)
    assert status == 1 and "own.yaml" in error and message in error
