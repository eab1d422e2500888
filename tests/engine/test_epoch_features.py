"""Epochs of augmented images, encoded once for methods that leave the image encoder as it is."""

import csv
import json
import os

import pytest
import torch
from conftest import eurosat_classes, golden_config, write_eurosat

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.data.benchmark import Benchmark, Item
from nerp.engine.cache import DRAWN, Kept, cached, keep, read_kept, trim
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
        run = train(method, method)
        assert features(run) == {"read": EPOCHS, "encoded": 0}
        log = (run / "log.txt").read_text()
        assert "computed by an earlier run" in log and "--no-cache" not in log  # which tests have


@pytest.mark.parametrize("method", ["KgCoOp", "KgCoOp_DePT"])
def test_with_it_without_it_and_with_half_of_it_the_numbers_are_the_same(method, train):
    without = train(method, "without", "DATALOADER.FEATURES_MB", "0")
    assert not train.kept.exists() and features(without) == {"read": 0, "encoded": EPOCHS}
    train("CoOp", "first")
    for file in sorted(train.kept.glob(f"*{DRAWN}"))[::2]:
        file.unlink()
    half = train(method, "half")
    assert features(half) == {"read": 1, "encoded": 2}
    whole = train(method, "whole")
    assert features(whole) == {"read": EPOCHS, "encoded": 0}
    for run in (half, whole):
        assert_same(numbers(without), numbers(run))


def test_a_method_built_from_features_keeps_none_where_none_are_wanted(train):
    train("CoOp", "first")
    before = {file.name for file in train.kept.glob(f"*{DRAWN}")}
    assert len(before) == EPOCHS
    built = train("TipAdapter", "built", "TRAINER.TIPADAPTER.AUGMENT", "2", "TRAINER.TIPADAPTER."
                  "STEPS", "[4, 3]", "INPUT.RRCROP_SCALE", "(0.5, 1.0)", "DATALOADER.FEATURES_MB",
                  "0")
    assert features(built)["encoded"] >= 2
    assert {file.name for file in train.kept.glob(f"*{DRAWN}")} == before


def test_a_damaged_epoch_is_encoded_again(train):
    first = train("CoOp", "first")
    file = sorted(train.kept.glob(f"*{DRAWN}"))[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    again = train("CoOp", "again")
    assert features(again) == {"read": EPOCHS - 1, "encoded": 1}
    assert_same(numbers(first), numbers(again))


@pytest.mark.parametrize("change", [
    ("INPUT.RRCROP_SCALE", "(0.5, 1.0)"), ("INPUT.TRANSFORMS", "['center_crop', 'normalize']"),
    ("SEED", "2"),
])
def test_other_transforms_and_seeds_are_other_images(change, train):
    every = ("DATASET.NUM_SHOTS", "0")  # the same images, whatever the seed
    train("CoOp", "first", *every)
    assert features(train("CoOp", "again", *every))["read"] == EPOCHS
    assert features(train("CoOp", "other", *every, *change))["read"] == 0


@pytest.mark.parametrize(("epochs", "bound", "kept", "said"), [
    (819, 1, True, 0), (820, 1, False, 1), (1, 0, False, 0),
])
def test_a_training_that_takes_more_than_the_bound_keeps_nothing(
    epochs, bound, kept, said, golden_clip, tmp_path, monkeypatch, caplog
):
    """Five images of 64 numbers in an epoch, and a bound in MiB."""
    asked = []
    monkeypatch.setattr(TrainingFeatures, "_kept", lambda features, items, *rest: (
        asked.append(rest[-1]) or torch.zeros(len(items), 64)))
    cfg = golden_config()
    cfg.DATALOADER.FEATURES_MB, cfg.OPTIM.MAX_EPOCH = bound, epochs
    items = [Item(f"{n}.jpg", n, str(n)) for n in range(5)]
    bench = Benchmark("EuroSAT", tmp_path, tmp_path, items, [], [], list("01234"))
    shown_in = EpochFeatures(CoOp(cfg, golden_clip, eurosat_classes("base")), bench, cfg, tmp_path)
    with caplog.at_level("INFO", "nerp"):
        for _ in range(2):
            (shown,), labels = next(iter(shown_in))
    assert asked == [kept]  # of one epoch, once
    assert caplog.text.count("820 passes over augmented training images take 1 MiB") == said
    assert shown.shape == (5, 64) and sorted(labels.tolist()) == [0, 1, 2, 3, 4]


def test_the_longest_unused_epochs_go_first(tmp_path):
    places = kept_epochs(tmp_path)
    size = places[0].file.stat().st_size
    assert read_kept(places[0].file, "key", {"features": (50, 8)})  # used just now
    trim(tmp_path, 2 * size)
    assert [place.file.exists() for place in places] == [True, False, False, True]


def kept_epochs(folder):
    """The features of four epochs, of which the first was used longest ago."""
    places = [Kept(folder / "features_cache" / f"{n}{DRAWN}", folder) for n in range(4)]
    places[0].file.parent.mkdir()
    for n, place in enumerate(places):
        keep([place], "key", {"features": torch.rand(50, 8)})
        os.utime(place.file, (n, n))
    return places


def test_what_another_process_holds_stays_and_so_do_locks_and_other_features(tmp_path):
    places = kept_epochs(tmp_path)
    other = tmp_path / "features_cache" / "hand-drawn-all-train.npz"
    other.write_bytes(b"features of a dataset of this name")
    shape = {"features": (50, 8)}
    held = []

    def compute():
        trim(tmp_path, 0)
        held.append(places[1].file.exists())
        return torch.ones(50, 8)

    cached([places[1]], "another key", "features", (50, 8), compute)
    assert held == [True] and read_kept(places[1].file, "another key", shape)
    assert [place.file.exists() for place in places] == [False, True, False, False]
    trim(tmp_path, 0)
    assert not places[1].file.exists() and other.exists()
    assert len(list(other.parent.glob("*.lock"))) == 4


def test_nothing_is_removed_behind_a_link(tmp_path):
    places = kept_epochs(tmp_path)
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "features_cache").symlink_to(places[0].file.parent)
    trim(tmp_path / "dataset", 0)
    assert all(place.file.exists() for place in places)


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
