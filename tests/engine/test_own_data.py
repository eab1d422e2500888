"""Tests on data of one's own: what a test does not need is not asked for, and names decide."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import golden_config, write_eurosat

from nerp.base.registry import TRAINERS
from nerp.correction.wrapper import looks_at_reference
from nerp.data.benchmark import Benchmark, Item, open_benchmark
from nerp.engine import tested as under_test
from nerp.engine.doubtful import warn
from nerp.engine.tested import seen_benchmark
from nerp.settings.defaults import default_config
from nerp.trainers.base import Trainer
from nerp.trainers.texts import Classes


@pytest.fixture
def only_tested(tmp_path):
    """A --root with test images alone, and the card of it."""
    root = write_eurosat(tmp_path / "data")
    file = root / "eurosat" / "split_zhou_EuroSAT.json"
    lists = json.loads(file.read_text())
    file.write_text(json.dumps({**lists, "train": [], "val": []}))
    return root


@pytest.mark.parametrize("opts", [
    ["NERP.RULE", "match"], ["NERP.RULE", "shift", "NERP.REFERENCES", "text"],
], ids=["match", "text reference"])
def test_a_correction_without_training_images_needs_none(
    opts, only_tested, nerp, golden_weights, tmp_path
):
    flags = ["--trainer", "ZeroshotCLIP_NeRP", "--root", only_tested, "--dataset", "eurosat"]
    opts = ["MODEL.BACKBONE.PATH", golden_weights, *opts]
    out = tmp_path / "out"
    status, _, error = nerp("test", *flags, "--output-dir", out, "--save-logits", *opts)
    assert status == 0, error
    names = set(np.load(out / "predictions.npz").files)
    assert "text_prior" in names and "image_prior" not in names
    status, _, error = nerp("test", *flags, "--output-dir", tmp_path / "image", *opts[:2],
                            "NERP.RULE", "flip")
    assert status == 1 and "no training images to take the mean of" in error


def test_features_need_no_training_images(only_tested, nerp, golden_weights, tmp_path):
    file = tmp_path / "features.npz"
    status, _, error = nerp("features", file, "--trainer", "ZeroshotCLIP", "--root", only_tested,
                            "--dataset", "eurosat", "MODEL.BACKBONE.PATH", golden_weights)
    assert status == 0, error
    found = np.load(file)
    assert found["reproduces"] and "logits" not in found


def test_features_of_a_method_with_its_own_classifier_come_with_its_logits(
    trained, nerp, tmp_path
):
    out, flags, opts = trained
    file = tmp_path / "features.npz"
    status, text, error = nerp("features", file, "--trainer", "MMRL", *flags, "--model-dir", out,
                               *opts, "DATASET.SUBSAMPLE_CLASSES", "base")
    assert status == 0, error
    found = np.load(file)
    assert not found["reproduces"] and "does not predict by the cosine" in text + error
    result = json.loads((out / "result.json").read_text())
    right = (found["logits"].argmax(1) == found["labels"]).mean()
    assert 100 * right == pytest.approx(result["accuracy"])


def test_which_methods_predict_by_a_cosine_follows_from_what_they_define():
    others = {name for name in TRAINERS.names() if not TRAINERS[name].is_cosine()}
    assert {"CoCoOp", "MMRL"} <= others and not others & {"ZeroshotCLIP", "CoOp", "MaPLe"}
    assert Trainer.is_cosine()


def test_what_looks_at_the_mean_image_follows_from_rule_references_and_pairs():
    node = default_config().NERP
    for rule, references, pairs, looks in (
        ("flip", ["text"], "text", True), ("match", ["image"], "text", False),
        ("shift", ["gap", "image"], "text", True), ("shift", ["gap"], "text", False),
        ("shift", ["text"], "reference", True),
    ):
        node.RULE, node.REFERENCES, node.PAIRS = rule, references, pairs
        assert looks_at_reference(node, False) == looks
        assert looks_at_reference(node, True)


@pytest.mark.parametrize("task, classes, trained, seen", [
    ("B2N", "new", ["a", "b"], True), ("B2N", "new", ["c"], False), ("B2N", "new", [], False),
    ("B2N", "base", ["A"], False), ("B2N", "base", ["A", "B"], True), ("FS", "all", [], True),
    ("CD", "all", ["a", "b"], False),
])
def test_trained_names_decide_where_they_are_known(task, classes, trained, seen):
    cfg = default_config()
    cfg.TASK, cfg.DATASET.SUBSAMPLE_CLASSES, cfg.TRAINER.NAME = task, classes, "CoOp"
    cfg.DATASET.NAME = "Mine"
    tested = SimpleNamespace(cfg=cfg, source="Other" if task == "CD" else "Mine",
                             resolved=SimpleNamespace(method="CoOp"),
                             checkpoint=SimpleNamespace(classnames=tuple(trained)),
                             bench=SimpleNamespace(classnames=["a", "b"]))
    tested._is_elsewhere = under_test.Tested._is_elsewhere.fget(tested)
    tested.contradiction = under_test.Tested.contradiction.func(tested)
    assert under_test.Tested.is_seen.fget(tested) == seen


def test_a_model_of_all_classes_tested_on_new_ones_is_no_base_to_novel_test(
    nerp, small_run, tmp_path
):
    flags, opts = small_run
    opts = [*opts, "TRAINER.COOP.N_CTX", "4", "TASK", "B2N", "DATASET.SUBSAMPLE_CLASSES"]
    for trained, contradicts in (("base", False), ("all", True)):
        run, out = tmp_path / trained, tmp_path / f"test {trained}"
        assert nerp("train", "--trainer", "CoOp", *flags, "--output-dir", run, *opts, trained,
                    "TEST.NO_TEST", "True")[0] == 0
        status, said, error = nerp("test", "--trainer", "CoOp_NeRP", *flags, "--model-dir", run,
                                   "--output-dir", out, *opts, "new")
        assert status == 0, error
        record = json.loads((out / "result.json").read_text())
        assert ("contradiction" in record) == ("all of the tested classes" in said) == contradicts
        assert ("nerp" in record) != contradicts
    status, _, error = nerp("table", tmp_path / "test all")
    assert status == 1 and "every result contradicts its protocol" in error
    assert nerp("table", tmp_path / "test base")[0] == 0


def test_the_classes_trained_on_are_found_by_their_names(tmp_path):
    cfg = default_config()
    cfg.DATASET.ROOT, cfg.DATASET.NAME = str(write_eurosat(tmp_path)), "EuroSAT"
    cfg.DATASET.update({"DIRECTORY": "eurosat", "IMAGE_FOLDER": "2750",
                        "SPLIT_FILE": "split_zhou_EuroSAT.json"})
    cfg.TASK = "B2N"
    names = open_benchmark(cfg).classnames
    assert seen_benchmark(cfg, "EuroSAT")[1].classnames == names[:5]
    assert seen_benchmark(cfg, "EuroSAT", {}, names)[1].classnames == names
    assert seen_benchmark(cfg, "EuroSAT", {}, names[5:])[1].classnames == names[5:]


def test_class_features_that_coincide_and_classes_with_few_images_are_named(
    golden_clip, eurosat_root
):
    cfg = golden_config(DATASET={"NUM_SHOTS": 4})
    trainer = TRAINERS["CoOp"](cfg, golden_clip, Classes(("cat", "Cat", "dog"), "a {}.", "a", True))
    item = Item("x.jpg", 0, "cat")
    bench = Benchmark("B", eurosat_root, eurosat_root, [item] * 4 + [item._replace(label=2)], [],
                      [], ["cat", "Cat", "dog"])
    lines: list[str] = []
    with heard(lines.append):
        assert warn(trainer, bench, cfg) == {"fewer_images": {"Cat (1)": 0, "dog": 1}}
    assert lines[0] == "fewer training images than the 4 of DATASET.NUM_SHOTS: Cat (1) 0, dog 1"
    assert "the same class features for cat = Cat: it does not know" in lines[1]
    assert len(lines) == 2


@contextmanager
def heard(write):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nerp.engine.doubtful.say", write)
        yield
