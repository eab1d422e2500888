"""NeRP by the command line: pairs, rules, references, what is recorded and what is left alone."""

import json

import numpy as np
import pytest
from PIL import Image


def test_pairs_and_sweeps(nerp, trained, tmp_path, monkeypatch):
    out, flags, opts = trained
    model = [*flags, "--model-dir", out, *opts, "DATASET.SUBSAMPLE_CLASSES", "new"]
    file = tmp_path / "pairs.json.gz"
    for source, looked_at in (("text", "nothing"), ("reference", "training images"),
                              ("unlabelled", "test images"), ("labels", "test labels")):
        status, text, error = nerp("pairs", "mine", file, "--trainer", "MMRL", *model,
                                   "NERP.PAIRS", source)
        assert status == 0 and f"looked at {looked_at}" in text, error
    monkeypatch.setenv("COLUMNS", "80")
    status, text, _ = nerp("pairs", "audit", file, "--trainer", "MMRL", *model)
    assert status == 0 and max(map(len, text.splitlines()[-16:])) <= 80
    words = " ".join(text.split())
    assert "closest to what labels yields, which has looked at test labels" in words
    assert "the classes that were trained on, and other classes are tested" in words
    test = tmp_path / "nerp"
    status, text, error = nerp("test", "--trainer", "MMRL_NeRP", *model, "--output-dir", test,
                               "--save-logits", "NERP.PAIRS", "bundle", "NERP.PAIRS_FILE", file)
    assert status == 0 and "(upper bound)" in text, error
    status, text, error = nerp("sweep-nerp", test, "--grid", "TAU=-100,0", "THRES=0:100:3")
    assert status == 0 and "6 settings on 15 images" in text and "upper bound" in text, error
    assert len((test / "sweep.csv").read_text().splitlines()) == 7
    with Image.open(test / "sweep.png") as picture:
        assert picture.width > 100
    status, _, error = nerp("sweep-nerp", out, "--grid", "TAU=0")
    assert status == 1 and "run nerp test --trainer <method>_NeRP --save-logits" in error


def test_calibrated_thresholds_look_at_base_classes_alone(nerp, trained, tmp_path):
    out, flags, opts = trained
    status, text, error = nerp(
        "test", "--trainer", "MMRL_NeRP", *flags, "--model-dir", out, "--output-dir", tmp_path,
        *opts, "DATASET.SUBSAMPLE_CLASSES", "new", "NERP.THRESHOLDS", "calibrated",
    )
    assert status == 0, error
    assert "calibrated on 15 validation images of the classes trained on" in text
    record = json.loads((tmp_path / "result.json").read_text())["nerp"]
    assert record["thresholds"] == "calibrated" and "calibration" in record


@pytest.mark.parametrize(("opts", "arrays", "looked_at", "mark"), [
    (["NERP.RULE", "shift"], {"gap_prior", "matched_prior"}, "training labels", ""),
    (["NERP.REFERENCES", "others,text", "NERP.STRENGTH", "0.2,0.1"], {"others_prior"},
     "training images", ""),
    (["NERP.SCOPE", "pairs", "NERP.PAIRS", "labels"], {"gap_prior", "matched_prior"},
     "test labels", "(upper bound)"),
    (["NERP.RULE", "match"], set(), "test images", "(transductive)"),
])
def test_every_rule_is_recorded_and_can_be_taken_up_again(
    nerp, trained, tmp_path, opts, arrays, looked_at, mark
):
    out, flags, model = trained
    status, text, error = nerp(
        "test", "--trainer", "MMRL_NeRP", *flags, "--model-dir", out, "--output-dir", tmp_path,
        "--save-logits", *model, "DATASET.SUBSAMPLE_CLASSES", "new", *opts,
    )
    assert status == 0 and f"has looked at {looked_at}{mark and ' ' + mark}" in text, error
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["nerp"]["looked_at"] == looked_at
    z = np.load(tmp_path / "predictions.npz")
    assert set(z.files) - {"identity", "logits", "corrected_logits", "labels", "paths",
                           "classnames", "text_prior", "image_prior", "pairs"} == arrays
    assert result["accuracy"] == pytest.approx(
        100 * (z["corrected_logits"].argmax(1) == z["labels"]).mean())
    rule = result["nerp"]["rule"]
    if "0.2,0.1" in opts:
        assert rule["strengths"] == {"others": 0.2, "text": 0.1}
        assert result["nerp"]["references"] == {"others": "training images", "text": "nothing"}
        bias = sum(s * (z[f"{n}_prior"] - z[f"{n}_prior"].mean())
                   for n, s in rule["strengths"].items())
        np.testing.assert_allclose(z["corrected_logits"], z["logits"] - bias, atol=1e-5)
    status, text, error = nerp("explain", tmp_path)
    assert status == 0, error
    status, text, error = nerp("sweep-nerp", tmp_path, "--grid", "SCOPE=all,pairs")
    assert status == 0 and f"the rule: {rule['name']}" in text, error
    status, text, error = nerp("correct", tmp_path, "--rules", f"{rule['name']},batch")
    assert status == 0 and f"{result['accuracy']:.2f}" in text, error
    status, text, error = nerp("plot", tmp_path, "--output-dir", tmp_path / "figures")
    assert status == 0 and (tmp_path / "figures" / "corrections.svg").is_file(), error


def test_a_reference_that_shows_the_tested_classes_is_left_out(nerp, trained, tmp_path):
    out, flags, model = trained
    command = ["test", "--trainer", "MMRL_NeRP", *flags, "--model-dir", out, *model,
               "DATASET.SUBSAMPLE_CLASSES", "base", "NERP.ON_BASE", "True"]
    status, text, error = nerp(*command, "--output-dir", tmp_path / "two",
                               "NERP.REFERENCES", "others,image")
    assert status == 0 and "the reference others is left out: the training images show" in text
    record = json.loads((tmp_path / "two" / "result.json").read_text())["nerp"]
    assert record["rule"]["strengths"] == {"image": 0.0625}
    status, _, error = nerp(*command, "--output-dir", tmp_path / "one", "NERP.REFERENCES", "others")
    assert status == 1 and "none of others suits these classes" in error


def test_a_strength_for_each_reference(nerp, trained, tmp_path):
    out, flags, model = trained
    status, _, error = nerp("test", "--trainer", "MMRL_NeRP", *flags, "--model-dir", out, *model,
                            "--output-dir", tmp_path, "DATASET.SUBSAMPLE_CLASSES", "new",
                            "NERP.STRENGTH", "0.1,0.2")
    assert status == 1 and "a number for each of 3 references (gap, image, matched)" in error


def test_base_classes_are_left_alone_and_weights_untouched(nerp, trained, tmp_path):
    out, flags, opts = trained
    file = out / "MultiModalRepresentationLearner" / "model.pth.tar-2"
    before = file.read_bytes()
    model = [*flags, "--model-dir", out, "--save-logits", *opts, "DATASET.SUBSAMPLE_CLASSES",
             "base"]
    results = []
    for trainer in ("MMRL", "MMRL_NeRP"):
        directory = tmp_path / trainer
        status, text, error = nerp("test", "--trainer", trainer, *model, "--output-dir", directory)
        assert status == 0, error
        results.append(json.loads((directory / "result.json").read_text()))
    assert "nothing is corrected" in text
    assert results[0]["accuracy"] == results[1]["accuracy"] and results[1]["flips"] == 0
    status, text, error = nerp("test", "--trainer", "MMRL_NeRP", *model, "--output-dir",
                               tmp_path / "corrected", "NERP.ON_BASE", "True", "NERP.TAU", "-99",
                               "NERP.THRES", "99")
    assert status == 0, error
    assert json.loads((tmp_path / "corrected" / "result.json").read_text())["flips"] == 15
    assert file.read_bytes() == before
