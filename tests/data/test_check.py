"""nerp data check: everything that is wrong is reported, and nothing that is not."""

import json
import os

import pytest
from made import card, classnames_text, jpeg, wnids, write

from nerp.data.benchmark import Benchmark, Item
from nerp.data.check import check
from nerp.data.published import differences, published


@pytest.fixture
def dataset(tmp_path):
    """A sound EuroSAT of six images in two classes, and its configuration."""
    lists = {
        "train": [["Forest/1.jpg", 0, "Forest"], ["Forest/2.jpg", 0, "Forest"],
                  ["River/1.jpg", 1, "River"]],
        "val": [["River/2.jpg", 1, "River"]],
        "test": [["Forest/3.jpg", 0, "Forest"], ["River/3.jpg", 1, "River"]],
    }
    folder = tmp_path / "eurosat"
    write(folder / "split_zhou_EuroSAT.json", json.dumps(lists))
    for items in lists.values():
        for path, _, _ in items:
            write(folder / "2750" / path)
    return folder, card("eurosat", tmp_path, NUM_CLASSES=2, SPLIT_SIZES=[3, 1, 2])


def test_a_sound_dataset(dataset):
    folder, cfg = dataset
    assert list(check(cfg).lines()) == [
        "EuroSAT: ok", f"  {folder}: train 3, val 1, test 2; 2 classes", "  6 image files looked at"
    ]


def test_every_kind_of_damage_is_reported(dataset):
    folder, cfg = dataset
    cfg.DATASET.SPLIT_SIZES = [4, 1, 2]
    images = folder / "2750"
    (images / "Forest/1.jpg").unlink()
    write(images / "Forest/2.jpg", "<html></html>")
    write(images / "Forest/3.jpg", jpeg((64, 64))[:-9])
    write(images / "River/1.jpg", "")
    (images / "River/2.jpg").unlink()
    (images / "River/2.jpg").symlink_to("gone.jpg")
    report = check(cfg)
    text = "\n".join(report.lines())
    assert text.startswith("EuroSAT: NOT OK\n")
    assert report.problems.pop("counts that differ from the card's") == [
        "train: 3 images, the card says 4"
    ]
    assert report.problems.pop("missing files") == [f"{images}/Forest/1.jpg"]
    assert report.problems.pop("links that lead nowhere") == [f"{images}/River/2.jpg -> gone.jpg"]
    damaged = report.problems.pop("files that cannot be decoded")
    assert damaged[0] == f"{images}/Forest/2.jpg: cannot be decoded: not an image file"
    assert damaged[1].startswith(f"{images}/Forest/3.jpg: cannot be decoded: image file is trunc")
    assert damaged[2] == f"{images}/River/1.jpg: cannot be decoded: the file is empty"
    assert len(damaged) == 3 and not report.problems
    assert "  files that cannot be decoded: 3\n" in text


def test_labels_and_names_that_do_not_fit_are_all_reported(dataset):
    folder, cfg = dataset
    lists = json.loads((folder / "split_zhou_EuroSAT.json").read_text())
    lists["test"] += [["Forest/1.jpg", 0, "Woods"], ["River/1.jpg", 3, "Sea"]]
    write(folder / "split_zhou_EuroSAT.json", json.dumps(lists))
    assert check(cfg).problems["labels and class names that do not fit"] == [
        "label 0 is called both 'Forest' and 'Woods'",
        "labels must be 0..2, found 0..3, 3 of them",
        "3 classes, the card says 2 (DATASET.NUM_CLASSES)",
    ]


def test_a_dead_link_is_reported_once(dataset, tmp_path):
    folder, cfg = dataset
    (folder / "2750").rename(tmp_path / "away")
    (folder / "2750").symlink_to(tmp_path / "gone")
    assert check(cfg).problems == {
        "links that lead nowhere": [f"{folder}/2750 -> {tmp_path}/gone"]
    }


def test_many_problems_are_cut_short(dataset):
    folder, cfg = dataset
    lists = {"train": [], "val": [],
             "test": [[f"{i:03}.jpg", i % 2, "ab"[i % 2]] for i in range(100)]}
    write(folder / "split_zhou_EuroSAT.json", json.dumps(lists))
    cfg.DATASET.SPLIT_SIZES = [0, 0, 0]
    lines = list(check(cfg).lines())
    assert lines[3] == "  missing files: 100"
    assert lines[4:6] == [f"    {folder}/2750/000.jpg", f"    {folder}/2750/001.jpg"]
    assert lines[-1] == "    ... and 80 more" and len(lines) == 25


def test_a_list_that_cannot_be_read(dataset):
    folder, cfg = dataset
    write(folder / "split_zhou_EuroSAT.json", "<html>")
    assert "not a readable JSON file" in check(cfg).problems["it cannot be listed"][0]
    os.rename(folder, folder.with_name("away"))
    assert "no folder" in check(cfg).problems["it cannot be listed"][0]


def test_class_names_that_differ_from_imagenets(tmp_path):
    for wnid in wnids(3):
        write(tmp_path / "imagenet-adversarial" / "imagenet-a" / wnid / "1.jpg")
    write(tmp_path / "imagenet" / "classnames.txt", classnames_text(5))
    cfg = card("imagenet_a", tmp_path, NUM_CLASSES=3, SPLIT_SIZES=[0, 0, 3])
    assert not check(cfg).problems
    own = write(tmp_path / "imagenet-adversarial" / "classnames.txt", classnames_text(4))
    assert not check(cfg).problems
    own.write_text(classnames_text(4).replace("kind 1", "sort 1"))
    assert check(cfg).problems == {"class names that differ from ImageNet's": [
        f"{wnids(2)[1]} is 'great sort 1', in {tmp_path}/imagenet/classnames.txt 'great kind 1'"
    ]}


def test_names_and_draws_are_compared_with_the_published_ones(tmp_path):
    known = published()["EuroSAT"]
    items = [Item(f"{label}/{i}.jpg", label, name)
             for label, name in enumerate(known["classnames"]) for i in range(40)]
    bench = Benchmark("EuroSAT", tmp_path, tmp_path, items, items, [], list(known["classnames"]))
    names, lists = differences(card("eurosat", tmp_path).DATASET, bench)
    assert not names and lists == ["15 of 15 few-shot draws are not the published ones, so the "
                                   "lists are others, or in another order"]
    bench.classnames[8] = "Stream"
    assert differences(card("eurosat", tmp_path).DATASET, bench)[0] == [
        "class 8 is 'Stream', published 'River'"]
    assert published()["ImageNet"]["classnames"].count("missile") == 2
    short = bench.select(range(3))
    assert differences(card("eurosat", tmp_path).DATASET, short) == ([], [])
