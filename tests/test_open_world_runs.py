"""The open world by the command line: one test of all classes and what it stands for."""

import json

import numpy as np
import pytest
import torch
from conftest import LEARNING, WITH_DEPT, eurosat_classes, golden_config, golden_options

from nerp import api
from nerp.base.registry import TRAINERS
from nerp.engine.measures import OPEN_WORLD
from nerp.trainers.plot import Transport
from nerp.trainers.texts import Classes

OPEN = ["TASK", "OW"]
ON_IMAGES = [name for name in TRAINERS.names() if not TRAINERS[name].on_features]
# Those that a small run trains by themselves.
ALONE = [name for name in ON_IMAGES if not TRAINERS[name].builds_on and name != "CasPL"
         and not TRAINERS[name].own_classes]


def record(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.fixture
def tested(nerp, small_run, tmp_path):
    """Test a checkpoint, or what learns nothing; its record."""
    flags, opts = small_run

    def run(method, model, name, *more):
        folder = tmp_path / "tests" / name
        given = ["--model-dir", model] if model else []
        status, _, error = nerp("test", "--trainer", method, *flags, *given, "--output-dir", folder,
                                *opts, *golden_options(method.split("_")[0]), *more)
        assert status == 0, error
        return record(folder)

    return run


@pytest.fixture
def model(nerp, small_run, tmp_path):
    """Train a method on base classes."""
    flags, opts = small_run

    def run(method, *more):
        if method not in LEARNING:
            return ""
        folder = tmp_path / "trained" / method
        epochs = "2" if method == "DeCoOp" else "1"  # it has two phases
        status, _, error = nerp("train", "--trainer", method, *flags, "--output-dir", folder,
                                *opts, *golden_options(method), "DATASET.SUBSAMPLE_CLASSES", "base",
                                "TEST.NO_TEST", "True", "OPTIM.MAX_EPOCH", epochs, *more)
        assert status == 0, error
        return folder

    return run


@pytest.mark.parametrize("method", [*ALONE, "CoOp_DePT"])
def test_one_open_test_has_the_numbers_of_both_base_to_novel_tests(method, model, tested):
    folder = model(method)
    found = tested(method, folder, "open", *OPEN)
    assert set(OPEN_WORLD) <= found.keys()
    stands_for = found["open_world"]["stands_for"]
    if TRAINERS[method].independent:
        assert stands_for == (["new"] if TRAINERS[method].two_heads else ["base", "new"])
    else:
        assert stands_for == []
    for half, part in (("base", "base"), ("new", "novel")):
        alone = tested(method, folder, half, "DATASET.SUBSAMPLE_CLASSES", half)
        if half in stands_for:
            assert found[f"{part}_alone"] == alone["accuracy"]
            for name, value in found["alone"][part].items():
                assert value == pytest.approx(alone[name], abs=1e-3), name


@pytest.mark.parametrize("method", [*(n for n in ON_IMAGES if not TRAINERS[n].own_classes),
                                    *WITH_DEPT])
def test_a_method_says_whether_other_classes_or_training_matter(method, golden_clip, inputs):
    """`independent` and `two_heads` are what the logits do."""
    cfg = golden_config()
    cfg.TRAINER.NAME = method
    torch.manual_seed(0)
    trainer = TRAINERS[method](cfg, golden_clip, eurosat_classes("base"))
    base, new = eurosat_classes("base"), eurosat_classes("new")
    if method == "DeCoOp":  # what some images pass
        scores = trainer.scores(trainer.image_features(inputs[0]), trainer.detectors())
        trainer.threshold.fill_(scores.detach().median())

    def logits(names, seen):
        classes = Classes(tuple(names), base.template, base.neutral, seen, "EuroSAT")
        with torch.no_grad():
            return trainer.for_classes(classes).logits(inputs[0]).log_softmax(1)

    together = logits(base.names + new.names, seen=False)[:, :5].log_softmax(1)
    apart = logits(base.names, seen=False)
    if not isinstance(trainer, Transport):  # see tests/trainers/test_plot.py
        assert torch.allclose(together, apart, atol=1e-3) == TRAINERS[method].independent
    assert torch.allclose(logits(base.names, seen=True), apart, atol=1e-3) != \
        TRAINERS[method].two_heads


def test_an_open_test_encodes_no_image_that_the_other_tests_have_encoded(
    model, tested, monkeypatch
):
    folder = model("CoOp")
    for half in ("base", "new"):
        tested("CoOp", folder, half, "DATASET.SUBSAMPLE_CLASSES", half)
    monkeypatch.setattr("nerp.engine.evaluate.encode_images", None)
    assert tested("CoOp", folder, "open", *OPEN)["total"] == 30


def test_predicting_all_classes_as_trained_ones_is_said(model, tested):
    folder = model("MMRL")
    novel = tested("MMRL", folder, "open", *OPEN)
    trained = tested("MMRL", folder, "as_trained", *OPEN, "TEST.AS_TRAINED", "True")
    assert novel["open_world"]["predicted_as"] == "novel"
    assert trained["open_world"]["predicted_as"] == "trained"
    assert trained["open_world"]["stands_for"] == ["base"]
    base = tested("MMRL", folder, "base", "DATASET.SUBSAMPLE_CLASSES", "base")
    assert trained["base_alone"] == base["accuracy"] and trained["ece"] != novel["ece"]


@pytest.mark.parametrize("rule", [["NERP.RULE", "shift"], ["NERP.RULE", "match"],
                                  ["NERP.RULE", "flip", "NERP.THRES", "100", "NERP.TAU", "-100"]])
def test_nerp_corrects_base_and_novel_classes_together(rule, model, tested, tmp_path):
    folder = model("CoOp")
    plain = tested("CoOp", folder, "plain", *OPEN)
    found = tested("CoOp_NeRP", folder, "nerp", *OPEN, *rule)
    for name in (*OPEN_WORLD, "ece", "nll"):
        assert found[f"uncorrected_{name}"] == plain[name]
    assert found["nerp"]["on_base"] and found["open_world"]["stands_for"] == []


@pytest.mark.parametrize("method", ["CoOp", "CoCoOp", "MMRL"])
@pytest.mark.parametrize("calibration", ["temperature", "dac"])
def test_calibration_changes_no_prediction(calibration, method, model, tested):
    folder = model(method)
    plain = tested(method, folder, "plain", *OPEN)
    found = tested(method, folder, "calibrated", *OPEN, "TEST.CALIBRATION", calibration)
    for name in ("accuracy", "base", "novel", "h", "base_alone", "novel_alone", "macro_f1"):
        assert found[name] == plain[name], name
    looked_at = "training labels" if calibration == "temperature" else \
        "training images" if method == "CoCoOp" else "nothing"
    said = found["calibration"]
    assert (said["name"], said["looked_at"]) == (calibration, looked_at)
    assert said["uncalibrated"] == {name: plain[name] for name in said["uncalibrated"]}
    assert found["nll"] != plain["nll"]


def test_what_is_saved_can_be_drawn(nerp, model, tested, tmp_path):
    folder = model("CoOp")
    flags = ["NERP.RULE", "shift", "TEST.CALIBRATION", "dac", "--save-logits"]
    found = tested("CoOp_NeRP", folder, "nerp", *OPEN, *flags)
    run = tmp_path / "tests" / "nerp"
    with np.load(run / "predictions.npz") as arrays:
        assert arrays["base"].tolist() == [1] * 5 + [0] * 5
        calibrated = arrays["calibrated_logits"]
        assert np.array_equal(calibrated.argmax(1), arrays["corrected_logits"].argmax(1))
        right = 100 * float((calibrated.argmax(1) == arrays["labels"]).mean())
    assert right == pytest.approx(found["accuracy"])
    status, text, error = nerp("plot", run, "--output-dir", tmp_path / "figures")
    assert status == 0 and "reliability.png" in text, error
    drawn = (tmp_path / "figures" / "reliability.svg").read_text()
    for title in ("Uncorrected", "Corrected", "Calibrated", "Base alone", "Novel alone"):
        assert title in drawn
    assert f"Calibrated: ECE {found['ece']:.1f} %" in drawn


@pytest.mark.parametrize(("more", "message"), [
    (["DATASET.SUBSAMPLE_CLASSES", "new"], "tests all classes at once"),
    (["TASK", "B2N", "TEST.AS_TRAINED", "True"], "it is of the open world"),
    (["NERP.ON_BASE", "True"], "in the open world base and novel classes are corrected together"),
])
def test_what_the_open_world_refuses(more, message, nerp, small_run):
    flags, opts = small_run
    status, _, error = nerp("test", "--trainer", "ZeroshotCLIP", *flags, *opts, *OPEN, *more)
    assert status == 1 and message in error and len(error.strip().splitlines()) == 1


def test_training_for_the_open_world_is_on_base_classes(nerp, small_run):
    flags, opts = small_run
    status, _, error = nerp("train", "--trainer", "CoOp", *flags, *opts, *OPEN)
    assert status == 1 and "trained on base classes" in error


def test_who_cannot_tell_base_from_novel_says_so(nerp, small_run, model, tmp_path):
    flags, opts = small_run
    folder = model("CoOp")
    (file,) = folder.glob("*/model.pth.tar-1")
    content = torch.load(file)

    def message(more):
        torch.save({**content, **more}, file)
        status, _, error = nerp("test", "--trainer", "CoOp", *flags, "--model-dir", folder,
                                "--output-dir", tmp_path / "open", "--no-cache", *opts, *OPEN,
                                "--overwrite", *golden_options("CoOp"))
        return error if status else ""

    assert "trained on none of the 10 classes" in message({"classnames": ["Dog", "Cat"]})
    everything = [*eurosat_classes("base").names, *eurosat_classes("new").names]
    assert "trained on all of the 10 classes" in message({"classnames": everything})
    assert not message({"classnames": []})  # the configuration beside it says base
    assert "which are of ImageNet" in message({"classnames": [], "dataset": "ImageNet"})
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("SUBSAMPLE_CLASSES: base",
                                                 "SUBSAMPLE_CLASSES: all"))
    assert "base and novel classes cannot be told apart" in message({"classnames": []})
    assert not message({"classnames": ["forest", "River"]})  # whichever they are
    assert record(tmp_path / "open")["open_world"]["base_classes"] == ["Forest", "River"]


def test_stacking_looks_at_base_validation_images_and_its_ceiling_at_test_labels(model, tested):
    folder = model("CoOp")
    found = tested("CoOp_NeRP", folder, "stacking", *OPEN, "NERP.RULE", "stacking")
    ceiling = tested("CoOp_NeRP", folder, "ceiling", *OPEN, "NERP.RULE", "stacking_ceiling")
    given = tested("CoOp_NeRP", folder, "given", *OPEN, "NERP.RULE", "stacking",
                   "NERP.STRENGTH", "1.5")
    assert found["nerp"]["rule"]["strengths"]["trained"] >= 0
    assert given["nerp"]["rule"]["strengths"] == {"trained": 1.5}
    assert (found["nerp"]["looked_at"], ceiling["nerp"]["looked_at"]) == (
        "training labels", "test labels")
    assert ceiling["h"] >= max(found["h"], found["uncorrected_h"])
    assert found["base"] <= found["uncorrected_base"]


def test_stacking_has_nothing_to_calibrate(nerp, small_run, model):
    flags, opts = small_run
    status, _, error = nerp("test", "--trainer", "CoOp_NeRP", *flags, "--model-dir", model("CoOp"),
                            *opts, *golden_options("CoOp"), *OPEN, "NERP.RULE", "stacking",
                            "NERP.THRESHOLDS", "calibrated")
    assert status == 1 and error.splitlines()[-1].endswith("NERP.RULE shift or flip")


def test_stacking_is_for_the_open_world(nerp, small_run, model):
    flags, opts = small_run
    status, _, error = nerp("test", "--trainer", "CoOp_NeRP", *flags, "--model-dir", model("CoOp"),
                            *opts, *golden_options("CoOp"), "DATASET.SUBSAMPLE_CLASSES", "new",
                            "NERP.RULE", "stacking")
    assert status == 1 and "none of trained suits these classes" in error


def test_python_gets_the_calibrated_probabilities(model, small_run, tmp_path):
    flags, opts = small_run
    options = dict(zip(opts[::2], opts[1::2], strict=True))
    asked = {"root": str(flags[1]), "task": "OW", "output_dir": tmp_path / "python",
             "options": {**options, "TRAINER.COOP.N_CTX": 4, "TEST.CALIBRATION": "temperature"}}
    found = api.test("CoOp", "eurosat", model("CoOp"), **asked)
    p = found.probabilities
    assert np.allclose(p.sum(1), 1) and np.array_equal(p.argmax(1), found.predictions)
    of_label = p[np.arange(len(p)), found.labels]
    assert -np.log(of_label).mean() == pytest.approx(found.record["nll"], rel=1e-5)
