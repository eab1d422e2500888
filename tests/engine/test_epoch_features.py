"""Epochs of augmented images, encoded once for methods that leave the image encoder as it is."""

import csv
import json

import pytest
import torch
from conftest import eurosat_classes, golden_config, write_eurosat

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.data.benchmark import Benchmark, Item
from nerp.engine.cache import Kept, keep, read_kept, trim
from nerp.engine.epochs import EpochFeatures
from nerp.engine.training_features import TrainingFeatures
from nerp.settings.catalogue import learns_on_outputs
from nerp.trainers.coop import CoOp

FOLDER = "eurosat/features_cache"
EPOCHS = 3


@pytest.fixture
def train(nerp, golden_weights, tmp_path):
    """Trains a method on few images below `tmp_path / "data"`; the run's folder."""
    root = write_eurosat(tmp_path / "data", per_class=8)

    def run(trainer, name, *opts):
        out = tmp_path / name
        status, _, error = nerp(
            "train", "--trainer", trainer, "--root", root, "--dataset", "eurosat",
            "--output-dir", out, "MODEL.BACKBONE.PATH", golden_weights, "DATASET.NUM_SHOTS", "2",
            "DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.MAX_EPOCH", EPOCHS,
            "DATALOADER.TRAIN_X.BATCH_SIZE", "4", "TEST.NO_TEST", "True", *opts,
        )
        assert status == 0, error
        return out

    run.kept = root / FOLDER
    return run


def features(run):
    return json.loads((run / "result.json").read_text())["features"]


def numbers(run):
    """Losses to the last digit, and the checkpoint."""
    with open(run / "metrics.csv", newline="") as file:
        losses = [row["loss"] for row in csv.DictReader(file)]
    (file,) = run.glob("*/model.pth.tar-*")
    return losses, torch.load(file, weights_only=True)["state_dict"]


def assert_same(one, other):
    assert one[0] == other[0]
    assert all(torch.equal(one[1][name], tensor) for name, tensor in other[1].items())


def test_the_second_method_encodes_no_training_image(train, monkeypatch):
    assert features(train("CoOp", "first")) == {"read": 0, "encoded": EPOCHS}
    monkeypatch.setattr("nerp.engine.training_features.encode_set", None)
    for method in ("KgCoOp", "CoCoOp", "CoOp_SAR", "CoOp_DePT"):
        assert features(train(method, method)) == {"read": EPOCHS, "encoded": 0}


@pytest.mark.parametrize("method", ["KgCoOp", "KgCoOp_DePT"])
def test_with_it_without_it_and_with_half_of_it_the_numbers_are_the_same(method, train):
    without = train(method, "without", "DATALOADER.FEATURES_MB", "0")
    assert not train.kept.exists() and features(without) == {"read": 0, "encoded": EPOCHS}
    train("CoOp", "first")
    for file in sorted(train.kept.glob("*-drawn*.npz"))[::2]:
        file.unlink()
    half = train(method, "half")
    assert features(half) == {"read": 1, "encoded": 2}
    whole = train(method, "whole")
    assert features(whole) == {"read": EPOCHS, "encoded": 0}
    for run in (half, whole):
        assert_same(numbers(without), numbers(run))


def test_a_damaged_epoch_is_encoded_again(train):
    first = train("CoOp", "first")
    file = sorted(train.kept.glob("*-drawn*.npz"))[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    again = train("CoOp", "again")
    assert features(again) == {"read": EPOCHS - 1, "encoded": 1}
    assert_same(numbers(first), numbers(again))


@pytest.mark.parametrize("change", [
    ("INPUT.RRCROP_SCALE", "(0.5, 1.0)"), ("INPUT.TRANSFORMS", "['center_crop', 'normalize']"),
])
def test_other_transforms_and_seeds_are_other_images(change, train):
    train("CoOp", "first")
    assert features(train("CoOp", "other", *change))["read"] == 0


@pytest.mark.parametrize(("epochs", "kept"), [(819, True), (820, False)])
def test_a_training_that_takes_more_than_the_bound_keeps_nothing(
    epochs, kept, golden_clip, tmp_path, monkeypatch
):
    """Five images of 64 numbers in an epoch, and a bound of 1 MiB."""
    asked = []
    monkeypatch.setattr(TrainingFeatures, "drawn", lambda images, number, keep: (
        asked.append(keep) or torch.zeros(5, 64)))
    cfg = golden_config()
    cfg.DATALOADER.FEATURES_MB, cfg.OPTIM.MAX_EPOCH = 1, epochs
    items = [Item(f"{n}.jpg", n, str(n)) for n in range(5)]
    bench = Benchmark("EuroSAT", tmp_path, tmp_path, items, [], [], list("01234"))
    trainer = CoOp(cfg, golden_clip, eurosat_classes("base"))
    (shown,), labels = next(iter(EpochFeatures(trainer, bench, cfg, tmp_path)))
    assert asked == [kept]
    assert shown.shape == (5, 64) and sorted(labels.tolist()) == [0, 1, 2, 3, 4]


def test_the_longest_unused_epochs_go_first(tmp_path):
    places = [Kept(tmp_path / "features_cache" / f"x-drawn{n}-y.npz", tmp_path) for n in range(4)]
    places[0].file.parent.mkdir()
    for n, place in enumerate(places):
        keep([place], "key", {"features": torch.rand(50, 8)})
        torch.os.utime(place.file, (n, n))
    size = places[0].file.stat().st_size
    assert read_kept(places[0].file, "key", {"features": (50, 8)})  # used just now
    trim(tmp_path, "*-drawn*.npz", 2 * size)
    assert [place.file.exists() for place in places] == [True, False, False, True]


def test_numbers_of_half_precision_are_kept_in_half_the_space(tmp_path):
    exact, rounded = torch.rand(300, 64), torch.rand(300, 64).half().float()
    sizes = []
    for name, tensor in (("exact", exact), ("rounded", rounded)):
        file = tmp_path / f"{name}.npz"
        keep([Kept(file, tmp_path)], "key", {"features": tensor})
        found = read_kept(file, "key", {"features": (300, 64)})["features"]
        assert found.dtype == torch.float32 and torch.equal(found, tensor)
        sizes.append(file.stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]


def test_the_table_names_the_methods_that_share_them(golden_clip):
    shared = set()
    for name in TRAINERS.names():
        try:
            trainer = TRAINERS[name](golden_config(), golden_clip, eurosat_classes("base"))
        except NerpError:  # needs the checkpoint of another
            continue
        if trainer.learns_on_outputs and trainer.parameters() and not trainer.on_features:
            shared.add(name)
    assert shared == {name for name in TRAINERS.names() if learns_on_outputs(name)}


def test_a_loss_of_ones_own_gets_images_unless_it_says_otherwise(golden_clip):
    class Own(CoOp):
        def loss(self, images, labels):
            return super().loss(images, labels)

    class Said(Own):
        loss_by_features = True

    class Both(CoOp):
        loss_by_features = True

        def loss(self, images, labels):
            return super().loss(images, labels)

    found = [kind(golden_config(), golden_clip, eurosat_classes("base")).learns_on_outputs
             for kind in (CoOp, Own, Said, Both)]
    assert found == [True, False, False, True]
