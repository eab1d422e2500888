"""A dataset in the form that the Hugging Face hub has, from a local folder."""

import io

import numpy as np
import pytest
from PIL import Image

from nerp.base.errors import NerpError
from nerp.data.benchmark import SPLITS, open_benchmark
from nerp.data.decode import open_image
from nerp.data.hub import _load
from nerp.settings.cards import open_card

datasets = pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
NAMES = ["red fox", "grey wolf", "owl"]


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(folder, counts, labels=lambda i: i % 3):
    """One parquet file a split: images numbered by their grey, labels in turn."""
    features = datasets.Features({"image": datasets.Image(),
                                  "label": datasets.ClassLabel(names=NAMES)})
    folder.mkdir()
    for split, count in counts.items():
        rows = {"image": [{"bytes": png(i), "path": None} for i in range(count)],
                "label": [labels(i) for i in range(count)]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(
            str(folder / f"{split}-00000-of-00001.parquet"))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """What the package `datasets` keeps goes with the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def opened(root, name):
    return open_benchmark(open_card(root / f"{name}.yaml", str(root)))


def test_a_parquet_dataset_becomes_images_a_split_and_a_card(nerp, tmp_path):
    source = write_parquet(tmp_path / "animals", {"train": 6, "validation": 3, "test": 3})
    root = tmp_path / "data"
    status, out, error = nerp("data", "prepare", f"hf:{source}", "--root", root)
    assert status == 0 and f"--datasets {root}/animals.yaml" in out, error
    bench = opened(root, "animals")
    assert bench.classnames == NAMES
    assert [len(getattr(bench, split)) for split in SPLITS] == [6, 3, 3]
    item = bench.train[4]
    assert item == ("train/000004.png", 1, "grey wolf")
    assert (bench.image_dir / item.path).read_bytes() == png(4)  # as it was encoded
    assert open_image(bench.image_dir / item.path).getpixel((0, 0)) == (4, 4, 4)
    assert [entry.name for entry in root.iterdir() if entry.name.startswith(".")] == []
    status, out, _ = nerp("data", "prepare", f"hf:{source}", "--root", root)
    assert status == 0 and "animals is there" in out


@pytest.mark.parametrize("labels, names", [
    (["owl", "red fox", "owl", "wolf"], ["owl", "red fox", "wolf"]),
    ([10, 2, 10, 3], ["2", "3", "10"]),
])
def test_a_table_of_another_programs_bytes_and_labels_is_one_too(labels, names, nerp, tmp_path):
    folder = tmp_path / "animals"
    folder.mkdir()
    for split, some in (("train", labels), ("test", labels[3:])):  # which has one class alone
        rows = {"image": [{"bytes": png(i), "path": f"{i}.png"} for i in range(len(some))],
                "label": some}
        parquet.write_table(pyarrow.table(rows), folder / f"{split}.parquet")
    status, _, error = nerp("data", "prepare", f"hf:{folder}", "--root", tmp_path / "data")
    assert status == 0, error
    bench = opened(tmp_path / "data", "animals")
    assert bench.classnames == names
    assert [item.classname for item in bench.train] == list(map(str, labels))
    assert [item.label for item in bench.test] == [names.index(str(labels[3]))]


def test_without_a_test_split_validation_is_for_testing_and_one_split_is_split(nerp, tmp_path):
    write_parquet(tmp_path / "two", {"train": 6, "validation": 3})
    write_parquet(tmp_path / "one", {"train": 30})
    write_parquet(tmp_path / "half", {"train": 30, "test": 3}, lambda i: i % 3)
    root = tmp_path / "data"
    for name, sizes in (("two", [6, 0, 3]), ("one", [15, 6, 9]), ("half", [30, 0, 3])):
        assert nerp("data", "prepare", f"hf:{tmp_path / name}", "--root", root)[0] == 0
        assert [len(getattr(opened(root, name), split)) for split in SPLITS] == sizes


def test_what_is_no_labelled_image_dataset_is_refused_and_leaves_nothing(nerp, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    datasets.Dataset.from_dict({"text": ["a"], "label": [0]}).to_parquet(
        str(folder / "train-00000-of-00001.parquet"))
    status, _, error = nerp("data", "prepare", f"hf:{folder}", "--root", tmp_path / "data")
    assert status == 1 and "no one image column: none of text, label" in error
    assert list((tmp_path / "data").iterdir()) == []
    status, _, error = nerp("data", "prepare", f"hf:{tmp_path}/none/such", "--root", tmp_path)
    assert status == 1 and error.count("\n") == 1 and "cannot be loaded" in error


def test_splits_are_known_by_any_usual_name(tmp_path, monkeypatch, caplog):
    found = dict.fromkeys(["Training", "dev", "tst", "unlabeled"], "a table")
    monkeypatch.setattr(datasets, "load_dataset", lambda name: found)
    assert sorted(_load("owner/name")) == sorted(SPLITS)
    assert "hf:owner/name: ignored, because they name no split: unlabeled" in caplog.text
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {"all": "a table"})
    with pytest.raises(NerpError, match="its splits are all; expected train, validation or test"):
        _load("owner/name")
