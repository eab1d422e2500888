"""Folders as people have them: other names of splits, loose and broken pictures, odd names."""

import json
import re

import pytest
from made import jpeg, write

from nerp.base.errors import NerpError
from nerp.correction.bundle import match_names
from nerp.data.benchmark import SPLITS, distinct, open_benchmark
from nerp.data.check import check
from nerp.data.doubts import name_doubts
from nerp.data.own import look
from nerp.data.splits import split_named, split_of, template_of
from nerp.settings.cards import open_card


def pictures(folder, names=("cat", "dog"), count=3):
    for name in names:
        for i in range(count):
            write(folder / name / f"{i}.jpg")
    return folder


def sizes(card):
    bench = open_benchmark(open_card(card, str(card.parent)))
    return [len(getattr(bench, split)) for split in SPLITS], bench


@pytest.mark.parametrize("train, val, test", [
    ("Training", "Validation", "Testing"), ("Train", "dev", "Test"), ("train", "valid", "test"),
    ("TRN", "val", "TST"), ("training", "validation", "testing"),
    ("Training Set", "dev-set", "test_images"), ("seg_train/seg_train", "val", "seg_test/seg_test"),
])
def test_split_folders_have_any_usual_name(train, val, test, nerp, tmp_path):
    for count, split in enumerate((train, val, test), 1):
        pictures(tmp_path / "pets" / split, count=count)
    status, out, error = nerp("data", "new", tmp_path / "pets")
    assert status == 0, error
    assert "2 classes (cat, dog); images: train 2, val 4, test 6" in out
    assert sizes(tmp_path / "pets.yaml")[0] == [2, 4, 6]
    assert [split_of(name.split("/")[0]) for name in (train, val, test)] == list(SPLITS)


def test_two_folders_of_one_split_are_not_chosen_between(tmp_path):
    for split in ("val", "valid"):
        pictures(tmp_path / split)
    with pytest.raises(NerpError, match="val and valid both mean the split val"):
        look(tmp_path)
    assert split_named(["Train", "cat"], tmp_path) == {"train": "Train"}
    assert split_named(["train_images", "train"], tmp_path) == {"train": "train"}
    assert not split_named(["trained", "test tube", "data", "training wheels", ""], tmp_path)


def test_a_folder_of_test_images_alone_is_recommended_what_trains_nothing(nerp, tmp_path):
    pictures(tmp_path / "pets" / "test", ("cat", "cow", "dog", "hen"))
    status, out, error = nerp("data", "new", tmp_path / "pets")
    assert status == 0, error
    assert "nerp sweep --protocol few_shot --methods ZeroshotCLIP --datasets" in out


def test_a_class_folder_in_a_doubled_split_that_is_empty_is_named(nerp, tmp_path):
    pictures(tmp_path / "pets" / "seg_train" / "seg_train")
    (tmp_path / "pets" / "seg_train" / "seg_train" / "cow").mkdir()
    assert f"{tmp_path}/pets/seg_train/seg_train/cow: it is empty" in nerp(
        "data", "new", tmp_path / "pets")[1]


def test_tables_are_found_by_the_split_in_their_names(nerp, tmp_path):
    folder = tmp_path / "pets"
    pictures(folder / "images")
    write(folder / "pets_train.csv", "path,label\ncat\\0.jpg,cat\ndog\\1.jpg,dog\n")
    write(folder / "pets_Testing.csv", "path,label\ncat/2.jpg,cat\n")
    status, _, error = nerp("data", "new", folder)
    assert status == 0, error
    counts, bench = sizes(tmp_path / "pets.yaml")
    assert counts == [2, 0, 1] and bench.train[0].path == "cat/0.jpg"
    assert template_of("train.csv") == "{}.csv" and template_of("all.csv") == ""
    assert template_of("val_list.tsv") == "{}_list.tsv"


def test_backslashes_stay_where_a_file_has_them_in_its_name(tmp_path):
    write(tmp_path / "pets" / "a\\b.jpg")
    lists = {"train": [["a\\b.jpg", 0, "a"], ["c\\d.jpg", 0, "a"]], "val": [], "test": []}
    write(tmp_path / "pets" / "split.json", json.dumps(lists))
    card = write(tmp_path / "pets.yaml", json.dumps(
        {"DATASET": {"NAME": "P", "DIRECTORY": "pets", "SPLIT_FILE": "split.json"}}))
    assert [item.path for item in sizes(card)[1].train] == ["a\\b.jpg", "c/d.jpg"]
    write(tmp_path / "pets" / "split.json", json.dumps({"train": {"a.jpg": "a"}}))
    with pytest.raises(NerpError, match="'train' is a mapping; it takes a list"):
        sizes(card)


def test_a_table_without_a_header_is_told_so(tmp_path):
    pictures(tmp_path)
    write(tmp_path / "all.csv", "cat/0.jpg,cat\n")
    with pytest.raises(NerpError, match="all.csv: it has no header; its first line must name"):
        look(tmp_path)


def test_pictures_beside_class_folders_are_named_and_are_no_split(nerp, tmp_path):
    pictures(tmp_path / "pets" / "train")
    for i in range(4):
        write(tmp_path / "pets" / "test" / f"{i}.jpg")
    status, out, error = nerp("data", "new", tmp_path / "pets")
    assert status == 0, error
    found = f"{tmp_path}/pets/test: 4 (0.jpg, 1.jpg, 2.jpg, 3.jpg); nothing says what they show"
    assert found in out and "there are no test images" in out
    report = check(open_card(tmp_path / "pets.yaml", str(tmp_path)))
    assert report.problems["pictures in no class folder"][0].startswith(found)
    assert report.problems["splits without images"][0].startswith("test: there are no test images")
    for split in ("train", "test"):
        write(tmp_path / "flat" / split / "1.jpg")
    with pytest.raises(NerpError, match="test, train hold pictures and no class folders"):
        look(tmp_path / "flat")
    write(tmp_path / "loose" / "1.jpg")
    with pytest.raises(NerpError, match=r"nor a split JSON; 1 pictures lie in it"):
        look(tmp_path / "loose")


def test_one_command_goes_from_an_awkward_folder_to_a_sound_card(nerp, tmp_path):
    folder = pictures(tmp_path / "my pets" / "Training").parent
    pictures(folder / "Testing")
    write(folder / "Training" / "cat" / "9.jfif")
    write(folder / "Training" / "cat" / "without_suffix")
    write(folder / "Training" / "cat" / "7.heic", "heic")
    write(folder / "Training" / "cat" / "5.jpg", jpeg((64, 64))[:-9])
    write(folder / "Testing" / "dog" / "4.jpg", "")
    (folder / "Training" / "cow").mkdir()
    write(folder / "extra" / "notes.txt", "notes")
    status, out, error = nerp("data", "new", folder)
    assert status == 0, error
    assert "2 classes (cat, dog); images: train 8, val 0, test 6" in out
    for line in ("Training/cat/5.jpg: cannot be decoded: image file is truncated",
                 "Testing/dog/4.jpg: cannot be decoded: the file is empty",
                 f"{folder}/Training/cow: it is empty", f"{folder}/extra/", ".heic: 1 (Training/"):
        assert line in out
    card = tmp_path / "my pets.yaml"
    status, report, _ = nerp("data", "check", card, "--root", tmp_path)
    assert status == 1 and "class folders without an image: 1" in report
    assert "left out of the split: Testing/dog/4.jpg: cannot be decoded" in report
    (folder / "Training" / "cow").rmdir()
    assert nerp("data", "check", card, "--root", tmp_path)[0] == 0


def test_repaired_files_are_counted_and_an_edited_template_stays(nerp, tmp_path):
    folder = pictures(tmp_path / "my pets", count=4)
    broken = write(folder / "cat" / "broken.png", "<html>")
    command = ("data", "new", folder)
    assert "images: train 4, val 2, test 2" in nerp(*command)[1]
    card = tmp_path / "my pets.yaml"
    card.write_text(card.read_text().replace("a photo of a {}.", "a drawing of a {}."))
    broken.write_bytes(jpeg())
    status, _, error = nerp(*command)
    assert status == 1 and "split.json is there already and differs; --overwrite" in error
    status, out, _ = nerp(*command, "--overwrite")
    assert status == 0 and "images: train 5, val 2, test 2" in out and "left out" not in out
    assert '"a drawing of a {}."' in card.read_text()
    status, out, _ = nerp("data", "split", folder, "--seed", "2", "--overwrite")
    assert status == 0 and f"Next: nerp data new '{folder}' --overwrite" in out
    assert "seed 2" in nerp("data", "new", folder, "--overwrite")[1]


@pytest.mark.parametrize("names, said", [
    (["01_cat", "02_dog"], "begin with numbers, which prompts repeat: 01_cat"),
    (["001.Black Albatross", "002.Laysan Albatross"], "begin with numbers"),
    (["n01440764", "n01443537"], "are WordNet's identifiers"),
    (["0", "1"], "are numbers, which say nothing to CLIP"),
    (["Blue Jay", "blue_jay"], "their prompts are the same to CLIP: Blue Jay = blue_jay"),
    (["missile", "cat", "missile"], "several classes of one name, .*: missile"),
    (["2000 AM General Hummer", "2000 Acura", "2012 Acura"], None),
    (["747-300", "A340"], None),
])
def test_class_names_that_clip_cannot_use_are_named(names, said):
    text = "\n".join(name_doubts(names))
    assert text == "" if said is None else re.search(said, text)


def test_classes_of_one_name_have_names_of_their_own():
    names = ["missile", "cat", "missile", "Cat"]
    assert distinct(names) == ["missile (0)", "cat (1)", "missile (2)", "Cat (3)"]
    pairs = [("missile (0)", "missile (2)"), ("cat (1)", "MISSILE_(0)")]
    assert match_names(pairs, names).pairs == [(0, 2), (1, 0)]
    assert match_names([("a b", "c")], ["A_b", "c"]).pairs == [(0, 1)]
