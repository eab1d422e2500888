"""A folder of one's own pictures becomes a benchmark: looked at, split, listed, refused."""

import json

import numpy as np
import pytest
from made import write
from PIL import Image

from nerp.base.errors import NerpError
from nerp.data.benchmark import SPLITS, open_benchmark
from nerp.data.doubts import doubts
from nerp.data.own import look, stratified
from nerp.settings.cards import find_card, open_card


def class_folders(root, count=10, names=("blue_jay", "crow", "dove", "owl")):
    for name in names:
        for i in range(count):
            write(root / name / f"{i}.jpg")
    return root


def opened(card):
    return open_benchmark(open_card(card, str(card.parent)))


def test_a_flat_folder_gets_a_split_and_a_card_and_the_next_commands(nerp, tmp_path):
    folder = class_folders(tmp_path / "birds")
    status, out, error = nerp("data", "new", folder)
    assert status == 0, error
    card = tmp_path / "birds.yaml"
    bench = opened(card)
    assert bench.classnames == ["blue jay", "crow", "dove", "owl"]
    assert [len(getattr(bench, split)) for split in SPLITS] == [20, 8, 12]
    assert f"--datasets {card} --root {tmp_path}" in out and "nerp table output" in out
    assert nerp("data", "check", card, "--root", tmp_path)[1].startswith("birds: ok")
    assert nerp("data", "new", folder)[0] == 0  # the same again
    card.write_text(card.read_text().replace("a photo of a {}.", "a drawing of a {}."))
    status, _, error = nerp("data", "new", folder)
    assert status == 1 and f"{card} is there already and differs; --overwrite" in error


def test_another_split_is_asked_for_before_it_replaces_one(nerp, tmp_path):
    folder = class_folders(tmp_path / "birds")
    command = ["data", "split", folder, "--fractions", "0.6", "0", "0.4"]
    assert nerp(*command)[0] == 0
    before = (folder / "split.json").read_text()
    assert {split: len(items) for split, items in json.loads(before).items()
            if split in SPLITS} == {
        "train": 24, "val": 0, "test": 16}
    status, _, error = nerp(*command, "--seed", "2")
    assert status == 1 and "split.json is there already and differs" in error
    assert (folder / "split.json").read_text() == before
    assert nerp(*command, "--seed", "2", "--overwrite")[0] == 0
    assert (folder / "split.json").read_text() != before
    status, _, error = nerp("data", "split", folder, "--fractions", "1", "1", "1")
    assert status == 1 and "three numbers that sum to 1" in error


def test_a_split_is_stratified_repeatable_and_a_class_has_its_own():
    by_class = {"a": [f"a/{i}" for i in range(10)], "b": ["b/0", "b/1"], "c": ["c/0"], "d": []}
    splits = stratified(by_class, (0.5, 0.2, 0.3), 1)
    assert [[sum(item.classname == name for item in splits[split]) for split in SPLITS]
            for name in "abc"] == [[5, 2, 3], [1, 0, 1], [1, 0, 0]]
    assert {item.path for items in splits.values() for item in items} == {
        path for paths in by_class.values() for path in paths}
    assert stratified(dict(reversed(by_class.items())), (0.5, 0.2, 0.3), 1) == splits
    alone = stratified({"a": by_class["a"]}, (0.5, 0.2, 0.3), 1)
    assert alone["train"] == [item for item in splits["train"] if item.classname == "a"]
    assert stratified(by_class, (0.5, 0.2, 0.3), 2) != splits


@pytest.mark.parametrize("inner", ["", "images/"])
def test_split_folders_are_recognised_one_level_deeper_too(inner, nerp, tmp_path):
    for split in ("train", "test"):
        class_folders(tmp_path / "birds" / inner / split, 3)
    assert look(tmp_path / "birds") == (
        {"LAYOUT": "folders", "IMAGE_FOLDER": inner.rstrip("/")}, True)
    assert nerp("data", "new", tmp_path / "birds")[0] == 0
    assert len(opened(tmp_path / "birds.yaml").train) == 12
    status, _, error = nerp("data", "split", tmp_path / "birds")
    assert status == 1 and "have splits already" in error


TABLES = {
    "all.csv": "path,label,split\nx/1.jpg,crow,train\nx/2.jpg,owl,validation\nx/3.jpg,owl,test\n",
    "semicolons.csv": "\ufeffLabel;File;Split\ncrow;x/1.jpg;train\nowl;x/2.jpg;val\n"
                      "owl;x/3.jpg;test\n",
    "tabs.tsv": "file_name\tclass\tset\nx/1.jpg\tcrow\ttrain\nx/2.jpg\towl\tdev\n"
                "x/3.jpg\towl\ttest\n",
    "lines.jsonl": '{"path": "x/1.jpg", "label": "crow", "split": "train"}\n\n'
                   '{"path": "x/2.jpg", "label": "owl", "split": "val"}\n'
                   '{"path": "x/3.jpg", "label": "owl", "split": "test"}\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_lists_the_images(name, nerp, tmp_path):
    for i in (1, 2, 3):
        write(tmp_path / "birds" / "pictures" / "x" / f"{i}.jpg")
    write(tmp_path / "birds" / name, TABLES[name])
    status, _, error = nerp("data", "new", tmp_path / "birds")
    assert status == 0, error
    bench = opened(tmp_path / "birds.yaml")
    assert bench.classnames == ["crow", "owl"] and bench.image_dir.name == "pictures"
    assert [getattr(bench, split) for split in SPLITS] == [
        [("x/1.jpg", 0, "crow")], [("x/2.jpg", 1, "owl")], [("x/3.jpg", 1, "owl")]]


def test_a_table_a_split_and_a_file_of_class_names(tmp_path):
    folder = tmp_path / "birds"
    for i, split in enumerate(("train", "test")):
        write(folder / f"{i}.jpg")
        write(folder / f"{split}.csv", f"path,label\n{i}.jpg,{i}\n")
    write(folder / "names.txt", "owl\ncrow\nheron\n")
    keys, has_splits = look(folder)
    assert has_splits and keys["SPLIT_FILE"] == "{}.csv"
    card = write(tmp_path / "birds.yaml", json.dumps({"DATASET": {
        "NAME": "Birds", "DIRECTORY": "birds", "CLASS_FILE": "names.txt", **keys}}))
    bench = opened(card)
    assert bench.classnames == ["owl", "crow", "heron"]
    assert bench.train == [("0.jpg", 0, "owl")] and bench.test == [("1.jpg", 1, "crow")]


def test_a_table_without_splits_is_split(nerp, tmp_path):
    folder = tmp_path / "birds"
    lines = [f"{name}{i}.jpg,{name}" for name in ("crow", "owl") for i in range(10)]
    for line in lines:
        write(folder / line.split(",")[0])
    write(folder / "all.csv", "\n".join(["path,label", *lines]))
    assert nerp("data", "new", folder)[0] == 0
    assert [len(getattr(opened(tmp_path / "birds.yaml"), split)) for split in SPLITS] == [10, 4, 6]


@pytest.mark.parametrize("table, message", [
    ("path,label\n../x.jpg,crow\n", r"all.csv, line 2: '../x.jpg' is no path inside"),
    ("path,label\n1.jpg,\n", "all.csv, line 2: there is no label"),
    ("path\n1.jpg\n", "all.csv, line 2: no column label or class .*; there are: path"),
    ('path,label\n"1.jpg,crow\n', "all.csv, line [12]: "),
    ("path,label\n2.jpg,crow\n", "lists 2.jpg, which is neither in"),
    ("path,label\n", "lists no images"),
])
def test_a_table_that_is_none_is_refused_by_file_and_line(table, message, tmp_path):
    write(tmp_path / "all.csv", table)
    with pytest.raises(NerpError, match=message):
        look(tmp_path)


def test_a_folder_of_something_else_is_refused(nerp, tmp_path):
    write(tmp_path / "a.jpg")
    with pytest.raises(NerpError, match="found neither class folders with images, nor"):
        look(tmp_path)
    write(tmp_path / "split.json", '{"train": 3}')
    with pytest.raises(NerpError, match="split.json: not a split"):
        look(tmp_path)
    assert "no such folder" in nerp("data", "new", tmp_path / "none")[2]
    assert "of which folder?" in nerp("data", "new")[2]


def test_nested_folders_and_links_belong_to_their_class(tmp_path):
    folder = class_folders(tmp_path / "birds" / "train", 1)
    write(tmp_path / "elsewhere" / "deep" / "9.jpg")
    (folder / "owl" / "more").symlink_to(tmp_path / "elsewhere")
    write(folder / "owl" / ".hidden" / "1.jpg")
    card = write(tmp_path / "birds.yaml",
                 "DATASET: {NAME: B, DIRECTORY: birds, LAYOUT: folders}")
    paths = [item.path for item in opened(card).train if item.classname == "owl"]
    assert paths == ["train/owl/0.jpg", "train/owl/more/deep/9.jpg"]
    (folder / "owl" / "round").symlink_to(folder)
    with pytest.raises(NerpError, match="owl/round: a link to a folder that it is in"):
        opened(card)


def test_file_names_that_are_not_utf8_are_refused(tmp_path):
    folder = class_folders(tmp_path / "birds" / "train", 1)
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(str(folder / "owl" / "\udcff.png").encode(
        "utf-8", "surrogateescape").decode("utf-8", "surrogateescape"))
    with pytest.raises(NerpError, match=r"owl: '\\udcff.png': a file name with control codes"):
        look_and_open(tmp_path)


def look_and_open(root):
    card = write(root / "b.yaml", "DATASET: {NAME: B, DIRECTORY: birds, LAYOUT: folders}")
    return opened(card)


def test_names_that_may_not_be_meant_are_pointed_at(tmp_path):
    names = ("a_b", "a b", "<i>Rosa</i> &amp; co", "long " * 10, "3")
    class_folders(tmp_path / "birds" / "train", 1, [name.replace("/", "") for name in names])
    text = "\n".join(doubts(look_and_open(tmp_path)))
    assert "no test images" in text and "of one name, which no prompt tells apart: a b" in text
    assert "with markup, which prompts repeat: <i>Rosa<i> &amp; co" in text


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31mred", " "])
def test_a_class_name_that_no_prompt_can_say_is_refused(name, tmp_path):
    lists = {"train": [["a.jpg", 0, name]], "val": [], "test": []}
    write(tmp_path / "birds" / "split.json", json.dumps(lists))
    card = write(tmp_path / "b.yaml",
                 "DATASET: {NAME: B, DIRECTORY: birds, SPLIT_FILE: split.json}")
    message = "label 0 is called .*, which cannot stand in a prompt|split.json: "
    with pytest.raises(NerpError, match=message):
        opened(card)


def test_the_file_of_a_card_stands_wherever_a_name_does(nerp, eurosat_root, tmp_path):
    card = write(tmp_path / "small.yaml", json.dumps({"DATASET": {
        "NAME": "Small", "DIRECTORY": "eurosat", "IMAGE_FOLDER": "2750",
        "SPLIT_FILE": "split_zhou_EuroSAT.json"}}))
    assert find_card(str(card)) == card
    status, out, error = nerp("sweep", "--protocol", "base_to_novel", "--datasets", card,
                              "--methods", "ZeroshotCLIP,CoOp", "--root", eurosat_root,
                              "--seeds", "1", "--dry-run")
    assert status == 0, error
    assert all(f"--dataset {card} " in line for line in out.splitlines())
    assert "train_base/small/shots_16/CoOp/vit_b16_ep50_ctxv1/seed1" not in out
    assert "train_base/small/shots_16/CoOp/vit_b16_ctxv1/seed1" in out
    other = write(tmp_path / "else" / "small.yaml", card.read_text())
    status, _, error = nerp("sweep", "--protocol", "B2N", "--datasets", card, other, "--dry-run")
    assert status == 1 and "have one name, so their runs would share a folder" in error
