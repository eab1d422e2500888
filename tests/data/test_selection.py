"""The few-shot draw, its file, and the base/novel cut."""

import json
import pickle
import re
import sys
import types
from pathlib import Path

import pytest
from conftest import GOLDEN
from made import card, write

from nerp.base.errors import NerpError
from nerp.data.benchmark import Item, open_benchmark, split_digest
from nerp.data.selection import few_shot, select_run

DRAWS = json.loads((GOLDEN / "few_shot.json").read_text())
KEPT = "split_fewshot/shot_16-seed_1.json"


@pytest.fixture
def bench(tmp_path):
    """The stand-in for EuroSAT whose draws are golden."""
    write(tmp_path / "eurosat" / "split_zhou_EuroSAT.json",
          (GOLDEN / "split_zhou_EuroSAT.json").read_bytes())
    return open_benchmark(card("eurosat", tmp_path))


def lists(bench):
    return [bench.train, bench.val, bench.test]


@pytest.mark.parametrize("key", DRAWS)
def test_draws_are_the_published_ones(key, bench):
    shots, seed, classes = re.fullmatch(r"shots(\d+)_seed(\d+)_(\w+)", key).groups()
    for _ in range(2):  # without the file, then with it
        run = select_run(bench, int(shots), int(seed), classes)
        for split in DRAWS[key].keys() & {"train", "val", "test"}:
            assert [list(item) for item in getattr(run, split)] == DRAWS[key][split]
        assert run.classnames == DRAWS[key]["classnames"]


def test_no_shots_is_every_image_and_keeps_no_file(bench):
    assert select_run(bench, 0, 1, "all") == bench
    assert not (bench.directory / "split_fewshot").exists()


def test_a_class_with_too_few_images_is_kept_whole(bench):
    run = few_shot(bench, 1000, 1)
    assert sorted(run.train) == sorted(bench.train)
    assert [sum(i.label == c for i in run.val) for c in range(10)] == [4] * 10


def test_the_file_is_written_once_while_it_stays_the_same(bench, monkeypatch):
    select_run(bench, 16, 1, "all")
    monkeypatch.setattr("nerp.data.selection.write_text", None)
    select_run(bench, 16, 1, "all")


def test_a_file_that_says_something_else_is_never_taken_for_the_draw(bench):
    """One with fitting digests either: a stranger's data may bring it."""
    drawn = select_run(bench, 16, 1, "all")
    file = bench.directory / KEPT
    whole = file.read_text()
    content = json.loads(whole)
    content["train"] = content["train"][::16]  # one per class
    content["drawn"][0] = split_digest([Item(*entry) for entry in content["train"]])
    write(file, json.dumps(content) + "\n")
    assert lists(select_run(bench, 16, 1, "all")) == lists(drawn)
    assert file.read_text() == whole


def test_another_list_is_drawn_from_anew(bench):
    select_run(bench, 16, 1, "all")
    file = bench.directory / KEPT
    before = file.read_text()
    bench.train.append(Item("River/River_99.jpg", 8, "River"))
    assert lists(select_run(bench, 16, 1, "all")) == lists(few_shot(bench, 16, 1))
    assert file.read_text() != before


@pytest.mark.parametrize("damage", [
    lambda text: "",
    lambda text: text[: len(text) // 2],
    lambda text: "[" * 100_000,
    lambda text: "[]",
    lambda text: text.replace("River_", "Other_", 1),
    lambda text: json.dumps(json.loads(text) | {"train": json.loads(text)["train"][:-1]}),
    lambda text: json.dumps(json.loads(text) | {"val": [["a", 0]]}),
    lambda text: b"\xff\xfe",
])
def test_a_damaged_file_is_drawn_and_written_anew(damage, bench):
    drawn = select_run(bench, 16, 1, "all")
    file = bench.directory / KEPT
    whole = file.read_text()
    write(file, damage(whole))
    assert lists(select_run(bench, 16, 1, "all")) == lists(drawn)
    assert file.read_text() == whole


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_published_pickles_are_not_read(bench, tmp_path):
    trap = pickle.dumps({"train": [], "val": [], "trap": Trap(tmp_path / "sprung")})
    file = write(bench.directory / "split_fewshot" / "shot_16-seed_1.pkl", trap)
    run = select_run(bench, 16, 1, "all")
    assert lists(run) == lists(few_shot(bench, 16, 1))
    assert not (tmp_path / "sprung").exists() and file.read_bytes() == trap


def test_read_only_data_keep_the_draw_in_the_output_folder(bench, tmp_path):
    # A file in the folder's place cannot be written into by any user, root included.
    write(bench.directory / "split_fewshot", "")
    run = select_run(bench, 16, 1, "base", fallback=tmp_path / "output")
    assert (tmp_path / "output" / KEPT).is_file()
    assert lists(select_run(bench, 16, 1, "base", fallback=tmp_path / "output")) == lists(run)
    assert lists(select_run(bench, 16, 1, "base")) == lists(run)  # kept nowhere


def test_test_images_alone_can_be_selected_from(tmp_path):
    lists = {"train": [], "val": [], "test": [["a.jpg", 0, "a_b"], ["c.jpg", 2, "c"],
                                              ["b.jpg", 1, "b"]]}
    write(tmp_path / "eurosat" / "split_zhou_EuroSAT.json", json.dumps(lists))
    bench = open_benchmark(card("eurosat", tmp_path, NUM_CLASSES=3))
    base, novel = (select_run(bench, 16, 1, classes) for classes in ("base", "new"))
    assert base.test == [Item("a.jpg", 0, "a_b"), Item("b.jpg", 1, "b")]
    assert novel.test == [Item("c.jpg", 0, "c")]
    assert (base.classnames, novel.classnames) == (["a b", "b"], ["c"])
    assert base.train == novel.train == [] and not (bench.directory / "split_fewshot").exists()


def dassl_pickle(file, **splits):
    """A draw as Dassl's code keeps it: objects of a class that is not at hand."""
    module = types.ModuleType("dassl.data.datasets.base_dataset")
    module.Datum = type("Datum", (), {"__module__": module.__name__})
    content = {}
    for split, items in splits.items():
        content[split] = [module.Datum() for _ in items]
        for datum, item in zip(content[split], items, strict=True):
            datum.__dict__.update(_impath=f"/home/x/DATA/eurosat/2750/{item.path}", _domain=0,
                                  _label=item.label, _classname=item.classname)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("dassl", "dassl.data", "dassl.data.datasets", module.__name__):
            patch.setitem(sys.modules, name, module)
        return write(file, pickle.dumps(content, pickle.HIGHEST_PROTOCOL))


@pytest.mark.parametrize("older", [False, True])
def test_a_published_draw_is_taken_where_it_is_asked_for(older, bench, tmp_path):
    drawn = few_shot(bench, 4, 2)
    file = dassl_pickle(tmp_path / "draw.pkl", train=drawn.train,
                        **({} if older else {"val": drawn.val}))
    run = select_run(bench, 4, 1, "all", file=str(file))
    assert run.train == drawn.train and run.val == ([] if older else drawn.val)
    base = select_run(bench, 4, 1, "base", file=str(file))
    assert len(base.train) == 20 and base.classnames == bench.classnames[:5]


def test_a_published_draw_in_the_folder_is_compared_with_ours(bench, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("nerp.data.selection.say", said.append)
    ours, other = few_shot(bench, 4, 1), few_shot(bench, 4, 2)
    file = bench.directory / "split_fewshot" / "shot_4-seed_1.pkl"
    dassl_pickle(file, train=ours.train, val=ours.val)
    assert select_run(bench, 4, 1, "all").train == ours.train and not said
    dassl_pickle(file, train=other.train, val=ours.val)
    assert select_run(bench, 4, 1, "all").train == ours.train
    lacking = len(set(ours.train) - set(other.train))
    assert said == [f"{file}: {lacking} of the 80 images drawn here are not in it; "
                    f"DATASET.FEW_SHOT_FILE {file} takes its draw"]


@pytest.mark.parametrize("content, message", [
    (b"\x80\x04N.", "not a few-shot draw"), (b"no pickle", "not a few-shot draw"),
    (pickle.dumps({"train": ["a.jpg"]}), "an entry has no path of an image"),
])
def test_what_is_no_draw_is_refused(content, message, bench, tmp_path):
    file = write(tmp_path / "draw.pkl", content)
    with pytest.raises(NerpError, match=message):
        select_run(bench, 4, 1, "all", file=str(file))


def test_a_draw_of_another_dataset_is_refused(bench, tmp_path):
    file = dassl_pickle(tmp_path / "draw.pkl", train=[Item("cat/1.jpg", 0, "cat")])
    with pytest.raises(NerpError, match="1 of its images are not in the training and validation"):
        select_run(bench, 4, 1, "all", file=str(file))
