"""A trained model by itself: nerp.load, nerp predict."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import EUROSAT, GOLDEN
from PIL import Image

import nerp
from nerp.base.errors import NerpError
from nerp.correction.running import Running, run


@pytest.fixture
def alone(trained, tmp_path):
    """The checkpoint's folder of a trained MMRL, with nothing else beside it; its options."""
    out, _, opts = trained
    folder = tmp_path / "model"
    shutil.copytree(out / "MultiModalRepresentationLearner", folder)
    place = opts.index("MODEL.BACKBONE.PATH")
    return folder, {"MODEL.BACKBONE.PATH": str(opts[place + 1])}


@pytest.fixture
def tested(nerp, trained, tmp_path):
    """predictions.npz of the same model's test on its base classes, and the images' folder."""
    out, flags, opts = trained
    folder = tmp_path / "test"
    status, _, _ = nerp("test", "--trainer", "MMRL", *flags, "--model-dir", out, "--output-dir",
                        folder, "--save-logits", *opts, "DATASET.SUBSAMPLE_CLASSES", "base")
    assert status == 0
    root = flags[flags.index("--root") + 1]
    return np.load(folder / "predictions.npz"), root / "eurosat" / "2750"


def test_it_predicts_what_its_test_did_with_nothing_but_the_checkpoint(alone, tested):
    folder, options = alone
    arrays, images = tested
    model = nerp.load(folder, options=options)
    assert model.classes == tuple(arrays["classnames"])
    paths = [images / path for path in arrays["paths"]]
    names, probabilities = model.predict(paths)
    logits = arrays["logits"]
    wanted = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(probabilities, wanted / wanted.sum(1, keepdims=True), atol=1e-6)
    assert names == [model.classes[i] for i in logits.argmax(1)]
    opened = [Image.open(path) for path in paths[:2]]
    for pictures in (opened, [np.array(image) for image in opened]):
        np.testing.assert_allclose(model.predict(pictures)[1], probabilities[:2], atol=1e-5)
    assert model.predict(paths[0])[0] == names[:1] and model.predict([])[0] == []


def test_a_stream_corrects_each_image_by_those_before_it(alone, tested):
    folder, options = alone
    arrays, images = tested
    model = nerp.load(folder, options=options)
    paths, classes = [images / path for path in arrays["paths"][:6]], len(model.classes)
    stream = Running("batch", classes)
    found = np.concatenate([model.predict(paths[:4], stream)[1],
                            model.predict(paths[4:], stream)[1]])
    logits = torch.from_numpy(arrays["logits"][:6])
    wanted = (logits - run(Running("batch", classes), logits)).softmax(1)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    with pytest.raises(NerpError, match="logits are"):
        model.predict(paths, Running("batch", classes + 1))


def test_other_classes_are_told_apart_as_novel_ones(alone, tested):
    folder, options = alone
    model = nerp.load(folder, options=options)
    assert model.trainer.classes.seen
    other = model.for_classes(["Sea_or_Lake", "River"])
    assert other.classes == ("Sea or Lake", "River") and not other.trainer.classes.seen
    back = other.for_classes(model.classes)
    assert back.trainer.classes == model.trainer.classes
    loaded = nerp.load(folder, ["Sea or Lake", "River"], options=options)
    picture = np.zeros((40, 40, 3), np.uint8)
    np.testing.assert_array_equal(loaded.predict(picture)[1], other.predict(picture)[1])


def test_a_published_checkpoint_is_told_its_classes(golden_weights):
    file = GOLDEN / "checkpoints" / "CoOp" / "prompt_learner"
    options = {"MODEL.BACKBONE.PATH": golden_weights}
    with pytest.raises(NerpError, match=r"does not say the names of its classes.*them .classes,"):
        nerp.load(file, options=options)
    model = nerp.load(file, ["River", "Forest"], dataset="eurosat", options=options)
    assert model.trainer.classes.template == "a centered satellite photo of {}."
    assert model.predict(np.zeros((40, 40, 3), np.uint8))[1].sum() == pytest.approx(1)


@pytest.mark.parametrize(("names", "says"), [
    (["River", "River"], "'River' occurs more than once"),
    (["Sea_or_Lake", "Sea or Lake"], "more than once"), (["", "River"], "none of them empty"),
])
def test_class_names_that_cannot_be_told_apart_are_refused(alone, names, says):
    folder, options = alone
    with pytest.raises(NerpError, match=says):
        nerp.load(folder, names, options=options)


def test_other_weights_than_those_trained_with_are_refused(alone, tmp_path):
    import torch
    from tiny_clip import random_clip

    torch.save(random_clip(1), tmp_path / "other.pt")
    with pytest.raises(NerpError, match="trained on other weights.*MODEL.BACKBONE.PATH FILE"):
        nerp.load(alone[0], options={"MODEL.BACKBONE.PATH": tmp_path / "other.pt"})


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_an_array_of_another_form_is_refused(alone, image):
    folder, options = alone
    with pytest.raises(NerpError, match=r"image 0: .*uint8 \[H, W, 3\]"):
        nerp.load(folder, options=options).predict([image])


def test_the_command_shows_a_line_per_image_and_says_what_it_cannot_read(
    nerp, alone, tested, tmp_path, monkeypatch
):
    folder, options = alone
    arrays, images = tested
    good, bad = images / arrays["paths"][0], tmp_path / "bad.jpg"
    bad.write_text("no image")
    pairs = [word for pair in options.items() for word in pair]
    status, out, err = nerp("predict", folder, good, bad, *pairs, "--top", "2")
    assert status == 1 and out.startswith(f"{good}: ") and out.count(" %") == 2
    assert f"{bad}: cannot be decoded" in err and "1 of 2 files could not be read" in err
    status, out, _ = nerp("predict", folder, good, "--json", "--top", "9", *pairs)
    found = json.loads(out)
    assert status == 0 and found["file"] == str(good) and len(found["predictions"]) == 5
    assert sum(p["probability"] for p in found["predictions"]) == pytest.approx(1, abs=1e-4)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{good}\n\n"))
    status, out, _ = nerp("predict", folder, "-", "--csv", *pairs, "--classes", "River,Forest")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0 and [row["file"] for row in rows] == [str(good)]
    assert rows[0]["class"] in ("River", "Forest")


def test_the_command_takes_folders_and_a_file_of_names(nerp, alone, tested, tmp_path):
    folder, options = alone
    pairs = [word for pair in options.items() for word in pair]
    names = tmp_path / "names.txt"
    names.write_text("River\n\nForest\n")
    status, out, _ = nerp("predict", folder, tested[1] / "Forest", "--classes", names, *pairs)
    assert status == 0 and len(out.splitlines()) == 12
    (tmp_path / "empty").mkdir()
    status, _, err = nerp("predict", folder, tmp_path / "empty", *pairs)
    assert status == 1 and "a folder without images" in err
    status, _, err = nerp("predict", tmp_path / "nothing", names, *pairs)
    assert status == 1 and "no such file or folder" in err


def test_the_command_takes_a_part_of_a_datasets_classes(nerp, alone, tested):
    folder, options = alone
    arrays, images = tested
    pairs = [word for pair in options.items() for word in pair]
    root, picture = images.parents[1], images / arrays["paths"][0]
    status, out, err = nerp("predict", folder, picture, *pairs, "--classes", "novel", "--dataset",
                            "eurosat", "--root", root, "--top", "9", "--json")
    assert status == 0, err
    assert {p["class"] for p in json.loads(out)["predictions"]} == set(EUROSAT[5:])
    status, _, err = nerp("predict", folder, picture, *pairs, "--classes", "new")
    assert status == 1 and "--classes new: of which dataset?" in err
    status, _, err = nerp("predict", folder, picture, "--backbone", "tiny")
    assert status == 1 and "trained on other weights" in err


NOVEL = "DATASET.SUBSAMPLE_CLASSES"


def test_a_corrected_and_calibrated_model_says_what_its_test_does(nerp, trained, tmp_path):
    """On novel classes, given in the order of the test, by name alone."""
    import nerp as package

    out, flags, opts = trained
    folder, extra = tmp_path / "novel", ("NERP.RULE", "shift", "TEST.CALIBRATION", "temperature")
    status, _, err = nerp("test", "--trainer", "MMRL_NeRP", *flags, "--model-dir", out,
                          "--output-dir", folder, "--save-logits", *opts, NOVEL, "new", *extra)
    assert status == 0, err
    arrays = np.load(folder / "predictions.npz")
    root = flags[flags.index("--root") + 1]
    options = dict(zip(extra[::2], extra[1::2], strict=True))
    model = package.load(out, arrays["classnames"].tolist(), trainer="MMRL_NeRP", root=str(root),
                         options=options)
    images = [root / "eurosat" / "2750" / path for path in arrays["paths"]]
    names, probabilities = model.predict(images)
    wanted = np.exp(arrays["calibrated_logits"])
    np.testing.assert_allclose(probabilities, wanted / wanted.sum(1, keepdims=True), atol=1e-5)
    assert names == [model.classes[i] for i in arrays["corrected_logits"].argmax(1)]
    plain = package.load(out, arrays["classnames"].tolist())
    assert not np.allclose(plain.predict(images)[1], probabilities, atol=1e-3)


def test_a_correction_that_an_images_logits_do_not_decide_is_refused(trained, tmp_path):
    import nerp as package

    out, flags, _ = trained
    root, shares = flags[flags.index("--root") + 1], tmp_path / "shares.json"
    shares.write_text(json.dumps(dict.fromkeys(EUROSAT[5:], 0.2)))
    for says, options in (
        ("match corrects an image by other", {"NERP.RULE": "match"}),
        ("match corrects an image by other", {"NERP.RULE": "match", "NERP.SHARES": shares}),
        ("batch corrects an image by other", {"NERP.RULE": "batch", "NERP.STREAM": True}),
        ("look at the tested images of EuroSAT, and here", {"NERP.PAIRS": "unlabelled"}),
        ("look at the tested images of EuroSAT, and here", {"NERP.PAIRS": "labels"}),
        ("distribution needs more of an image", {"NERP.RULE": "distribution"}),
    ):
        with pytest.raises(NerpError, match=says):
            package.load(out, EUROSAT[5:], trainer="MMRL_NeRP", root=str(root), options=options)
