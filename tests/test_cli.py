"""The command line as a user meets it: the main job on a small EuroSAT, and mistakes."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import (
    EUROSAT,
    GOLDEN,
    GOLDEN_SETTINGS,
    LEARNING,
    TEMPLATE,
    golden_config,
    write_eurosat,
)
from PIL import Image
from plain_methods import PLAIN
from tiny_clip import Sizes, random_clip

from nerp.engine.checkpoint import checkpoint_file, read_checkpoint
from nerp.errors import NerpError
from nerp.registry import TRAINERS


def settings(method):
    """The golden settings of a method, and the views that it needs, as KEY VALUE pairs."""
    node = f"TRAINER.{TRAINERS[method].node}."
    keys = {node + key: value for key, value in GOLDEN_SETTINGS.get(method, {}).items()}
    keys["DATALOADER.K_TRANSFORMS"] = TRAINERS[method].views
    return [text for key, value in keys.items() for text in (key, str(value))]


@pytest.fixture
def common(eurosat_root, golden_weights):
    return ["--root", eurosat_root, "--dataset", "eurosat", "--seed", "1"], [
        "MODEL.BACKBONE.PATH", golden_weights, "DATASET.NUM_SHOTS", "4", "OPTIM.MAX_EPOCH", "2",
        "DATALOADER.TRAIN_X.BATCH_SIZE", "8",
    ]


@pytest.fixture
def trained(nerp, common, tmp_path):
    """A small MMRL run: its folder and the arguments to test it with."""
    flags, opts = common
    opts = [*opts, *settings("MMRL")]
    out = tmp_path / "train"
    status, _, error = nerp("train", "--trainer", "MMRL", *flags, "--output-dir", out,
                            *opts, "DATASET.SUBSAMPLE_CLASSES", "base")
    assert status == 0, error
    return out, flags, opts


def test_main_job(nerp, trained, tmp_path):
    out, flags, opts = trained
    log = (out / "log.txt").read_text()
    assert re.search(r"Finish training\n=> result\n\* total: 15\n\* correct: \d+\n\* accuracy: "
                     r"[\d.]+%\n\* error: [\d.]+%\n\* macro_f1: [\d.]+%\n", log)
    assert "** Configuration **" in log and "torch: " in log
    assert (out / "MultiModalRepresentationLearner" / "checkpoint").read_text() == (
        "model.pth.tar-2\n"
    )
    assert not (out / "training_state.pt").exists()
    saved = torch.load(out / "MultiModalRepresentationLearner" / "model.pth.tar-2",
                       weights_only=True)
    assert set(saved["state_dict"]) == {
        n.removeprefix("param/") for n in np.load(GOLDEN / "MMRL.npz").files if "param/" in n
    }
    test = tmp_path / "test"
    status, text, _ = nerp("test", "--trainer", "MMRL_NeRP", *flags, "--model-dir", out,
                           "--output-dir", test, "--save-logits", *opts,
                           "DATASET.SUBSAMPLE_CLASSES", "new")
    assert status == 0 and "looked at nothing" in text
    result = json.loads((test / "result.json").read_text())
    z = np.load(test / "predictions.npz")
    assert set(z.files) == {"logits", "corrected_logits", "labels", "paths", "classnames",
                            "text_prior", "image_prior", "pairs"}
    assert z["logits"].shape == (15, 5) and z["pairs"].shape[1] == 2
    assert list(result["per_class_accuracy"]) == z["classnames"].tolist()
    right = (z["corrected_logits"].argmax(1) == z["labels"]).mean()
    assert result["accuracy"] == pytest.approx(100 * right)
    assert result["uncorrected_accuracy"] == pytest.approx(
        100 * (z["logits"].argmax(1) == z["labels"]).mean()
    )
    assert result["flips"] == result["helped"] + result["hurt"] + result["neutral"] == (
        z["logits"].argmax(1) != z["corrected_logits"].argmax(1)
    ).sum()


def test_a_finished_run_is_skipped_and_another_one_does_not_replace_it(nerp, trained):
    out, flags, opts = trained
    command = ["train", "--trainer", "MMRL", *flags, "--output-dir", out, *opts,
               "DATASET.SUBSAMPLE_CLASSES", "base"]
    before = (out / "result.json").read_text()
    status, text, _ = nerp(*command)
    assert status == 0 and "finished already, skipped" in text
    status, _, error = nerp(*command, "OPTIM.LR", "0.5")
    assert status == 1 and "OPTIM.LR: 0.001 -> 0.5" in error and "--overwrite" in error
    assert (out / "result.json").read_text() == before
    status, _, _ = nerp(*command, "--overwrite", "OPTIM.LR", "0.5")
    assert status == 0 and (out / "result.json").read_text() != before


@pytest.mark.parametrize("method", ["PromptSRC", "CoPrompt"])  # averages epochs; draws sentences
def test_interrupted_training_goes_on_to_the_same_numbers(
    method, nerp, common, tmp_path, monkeypatch
):
    from nerp.engine.train import TrainingRun

    flags, opts = common
    command = ["train", "--trainer", method, *flags, *opts, *settings(method),
               "DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.MAX_EPOCH", "4"]
    assert nerp(*command, "--output-dir", tmp_path / "whole")[0] == 0
    finish = TrainingRun._finish_epoch

    def interrupt(run, epoch):
        finish(run, epoch)
        if epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "_finish_epoch", interrupt)
        status, _, error = nerp(*command, "--output-dir", tmp_path / "cut")
        assert status == 130 and "the same command goes on" in error
    assert not (tmp_path / "cut" / "result.json").exists()
    status, text, _ = nerp(*command, "--output-dir", tmp_path / "cut")
    assert status == 0 and "resuming after epoch 2 of 4" in text
    whole, cut = (
        torch.load(tmp_path / d / TRAINERS[method].folder / "model.pth.tar-4")
        for d in ("whole", "cut")
    )
    assert all(torch.equal(whole["state_dict"][n], cut["state_dict"][n])
               for n in whole["state_dict"])


@pytest.mark.parametrize("method", LEARNING)
def test_every_method_trains_tests_and_takes_nerp(method, nerp, common, tmp_path):
    flags, opts = common
    opts = [*opts, *settings(method)]
    out = tmp_path / "train"
    status, _, error = nerp("train", "--trainer", method, *flags, "--output-dir", out, *opts,
                            "DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.MAX_EPOCH", "1")
    assert status == 0, error
    # Shape settings are not repeated: the checkpoint knows them.
    status, _, error = nerp(
        "test", "--trainer", f"{method}_NeRP", *flags, "--model-dir", out, "--output-dir",
        tmp_path / "test", *common[1], "DATASET.SUBSAMPLE_CLASSES", "new",
    )
    assert status == 0, error
    result = json.loads((tmp_path / "test" / "result.json").read_text())
    assert result["total"] == 15 and "flips" in result
    takes_texts = any(key.endswith("TEXTS") for key in TRAINERS[method].defaults)
    given = any(str(opt).endswith("TEXTS") for opt in opts)  # in training alone
    training = json.loads((out / "result.json").read_text())
    for found, stands_in in ((result, takes_texts), (training, takes_texts and not given)):
        assert bool(found.get("substitute")) == stands_in


@pytest.mark.parametrize("which", ["base", "new"])
@pytest.mark.parametrize("method", LEARNING)
def test_published_checkpoints(method, which, nerp, eurosat_root, golden_weights, golden_model,
                               tmp_path):
    """A published checkpoint on a EuroSAT folder, from the command line to predictions.npz,
    against the plain formulation on images read with Pillow alone."""
    model_dir = tmp_path / "model"
    shutil.copytree(GOLDEN / "checkpoints" / method, model_dir)
    status, _, error = nerp(
        "test", "--root", eurosat_root, "--dataset", "eurosat", "--trainer", method, "--model-dir",
        model_dir, "--output-dir", tmp_path / "out", "--save-logits", "MODEL.BACKBONE.PATH",
        golden_weights, "DATASET.SUBSAMPLE_CLASSES", which, *settings(method),
    )
    assert status == 0, error
    saved = np.load(tmp_path / "out/predictions.npz")
    tensors = read_checkpoint(checkpoint_file(model_dir, TRAINERS[method].folder)).tensors
    node = golden_config().TRAINER[TRAINERS[method].node]
    names = saved["classnames"].tolist()
    plain = PLAIN[method](golden_model, names, TEMPLATE, tensors, node, seen=which == "base")
    images = torch.stack([pixels(eurosat_root / "eurosat/2750" / p) for p in saved["paths"]])
    with torch.no_grad():
        wanted = plain.logits(images).numpy()
    np.testing.assert_allclose(saved["logits"], wanted, atol=1e-3)


def pixels(path):
    """CLIP's test transform at 32 pixels, written with Pillow and numpy."""
    with Image.open(path) as image:
        image = image.convert("RGB")
    width, height = image.size
    scale = 32 / min(width, height)
    image = image.resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
    left, top = round((image.width - 32) / 2), round((image.height - 32) / 2)
    array = np.asarray(image.crop((left, top, left + 32, top + 32)), np.float32) / 255
    mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
    std = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
    return torch.from_numpy(((array - mean) / std).transpose(2, 0, 1))


@pytest.fixture
def mistake(nerp, common, tmp_path):
    """Run `nerp test` with something wrong: the one line it prints. Nothing may be left behind."""

    def run(*args, trainer="ZeroshotCLIP", command="test", flags=None):
        out = tmp_path / "out"
        status, _, error = nerp(
            command, "--trainer", trainer, *(common[0] if flags is None else flags),
            "--output-dir", out, *args,
        )
        assert status == 1 and error.startswith("nerp: error: ")
        assert len(error.strip().splitlines()) == 1
        assert not out.exists()
        return error

    return run


def test_unknown_names(mistake, nerp):
    assert "unknown trainer 'MMLR'. Did you mean MMRL? There are: " in mistake(trainer="MMLR")
    assert "--import the module that registers it" in mistake(trainer="Mine")
    assert "unknown dataset 'eurosta'. Did you mean eurosat?" in mistake(
        flags=["--dataset", "eurosta"]
    )
    assert "unknown configuration key 'DATASET.SHOTS'" in (line := mistake("DATASET.SHOTS", "4"))
    assert "DATASET.NUM_SHOTS" in line
    assert "unknown configuration key 'OPTIMS.LR'. Did you mean OPTIM?" in mistake("OPTIMS.LR", "4")
    assert "expected KEY VALUE pairs" in mistake("OPTIM.LR")
    assert "OPTIM.LR is 'fast'; it takes a number" in mistake("OPTIM.LR", "fast")
    assert nerp("tarin")[0] == 1


def test_wrong_sentences(mistake, common, tmp_path):
    file = tmp_path / "texts.json"
    texts = {name: [f"{name}.", "a place."] for name in EUROSAT}
    for changes, views, message in (
        ({"River": ["a river."]}, 2, "1 sentences for the class 'River', 2 for "),
        ({"River": None}, 2, "has no sentences for the class 'River'"),
        ({}, 1, "DATALOADER.K_TRANSFORMS is 1; CoPrompt learns from 2 views of an image"),
    ):
        kept = {name: own for name, own in (texts | changes).items() if own}
        file.write_text(json.dumps(kept))
        assert message in mistake(*common[1], "TRAINER.CoPrompt.TEXTS", file,
                                  "TRAINER.CoPrompt.PROMPT_DEPTH", "3",
                                  "DATALOADER.K_TRANSFORMS", views, trainer="CoPrompt",
                                  command="train")


def test_wrong_files(mistake, tmp_path, common, golden_weights):
    assert "no folder" in mistake(flags=["--root", tmp_path, "--dataset", "eurosat"])
    (tmp_path / "eurosat").mkdir()
    flags = ["--root", tmp_path, "--dataset", "eurosat"]
    assert "split_zhou_EuroSAT.json; DATASETS.md says where" in mistake(flags=flags)
    split = tmp_path / "eurosat" / "split_zhou_EuroSAT.json"
    for content, message in (
        ("{", "not a readable JSON file"),
        ('{"train": 3}', "must be a list of [path, label, class name]"),
        ('{"train": [["a.jpg", 0, "A"]], "val": [], "test": []}', "1 classes"),
        ('{"train": [["a.jpg", 0, "A"], ["b.jpg", 0, "B"]], "val": [], "test": []}', "both"),
    ):
        split.write_text(content)
        assert message in mistake(flags=flags)
    assert "no file" in mistake("MODEL.BACKBONE.PATH", tmp_path / "none.pt")
    assert "no such method configuration" in mistake(
        flags=[*common[0], "--config-file", "configs/trainers/MMRL/none.yaml"]
    )
    (tmp_path / "bad.yaml").write_text("a: [")
    assert "not a readable YAML file" in mistake(
        flags=[*common[0], "--config-file", tmp_path / "bad.yaml"]
    )
    assert "needs --model-dir" in mistake(trainer="CoOp")
    assert "NeRP trains nothing" in mistake(trainer="CoOp_NeRP", command="train")
    assert "learns nothing" in mistake(command="train")


def test_wrong_checkpoints(mistake, golden_weights, tmp_path):
    backbone = ["MODEL.BACKBONE.PATH", golden_weights]
    checkpoints = GOLDEN / "checkpoints"
    test = {"trainer": "MMRL"}
    assert "no checkpoint" in mistake(*backbone, "--model-dir", tmp_path, **test)
    assert "no checkpoint of epoch 9; there are: 2" in mistake(
        *backbone, "--model-dir", checkpoints / "MMRL", "--load-epoch", "9", **test
    )
    line = mistake(*backbone, "--model-dir", checkpoints / "CoOp" / "prompt_learner", **test)
    assert "a checkpoint of CoOp, the trainer is MMRL" in line
    small = tmp_path / "small.pt"
    torch.save(random_clip(0, Sizes(vision_width=64, text_width=64)), small)
    line = mistake("MODEL.BACKBONE.PATH", small, "--model-dir", checkpoints / "CoOp",
                   trainer="CoOp")
    assert "ctx is (4, 128), this run needs (4, 64)" in line
    content = torch.load(checkpoints / "MMRL" / "MultiModalRepresentationLearner" /
                         "model.pth.tar-2", weights_only=False)
    del content["state_dict"]["representation_learner.compound_rep_tokens_r2tproj.1.bias"]
    torch.save({"state_dict": content["state_dict"]}, tmp_path / "model.pth.tar-3")
    line = mistake(*backbone, "--model-dir", tmp_path, "TRAINER.MMRL.REP_LAYERS", "[2,3,4]", **test)
    assert "lacks representation_learner.compound_rep_tokens_r2tproj.1.bias" in line


def test_an_image_that_cannot_be_decoded_is_named(nerp, tmp_path, golden_weights):
    root = write_eurosat(tmp_path / "data", per_class=4)
    broken = root / "eurosat" / "2750" / "River" / "River_4.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    status, _, error = nerp(
        "test", "--trainer", "ZeroshotCLIP", "--root", root, "--dataset", "eurosat", "--output-dir",
        tmp_path / "out", "MODEL.BACKBONE.PATH", golden_weights,
    )
    assert status == 1 and "River_4.jpg: cannot be decoded" in error
    assert not (tmp_path / "out" / "result.json").exists()


def test_debug_shows_the_traceback(nerp):
    with pytest.raises(NerpError):
        nerp("test", "--debug", "--trainer", "None", "--dataset", "eurosat")


def test_help_and_version(nerp):
    status, text, _ = nerp("--help")
    assert status == 0 and "methods" in text
    assert nerp("help") == (0, text, "")
    assert nerp("--version")[1].startswith("nerp ")


def test_help_explains_a_command(nerp, capsys):
    for words in (["help", "pairs"], ["pairs", "--help"]):
        with pytest.raises(SystemExit) as end:
            nerp(*words)
        assert end.value.code == 0
        assert "usage: nerp pairs" in (text := capsys.readouterr().out) and "audit" in text
    status, _, error = nerp("help", "tarin")
    assert status == 1 and "unknown command 'tarin'. Did you mean train?" in error


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
    assert "the classes that were trained on, and these are others" in words
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
    (["NERP.RULE", "shift"], {"gap_prior"}, "training labels", ""),
    (["NERP.REFERENCES", "others,text", "NERP.STRENGTH", "0.2,0.1"], {"others_prior"},
     "training images", ""),
    (["NERP.SCOPE", "pairs", "NERP.PAIRS", "labels"], {"gap_prior"}, "test labels",
     "(upper bound)"),
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
    assert set(z.files) - {"logits", "corrected_logits", "labels", "paths", "classnames",
                           "text_prior", "image_prior", "pairs"} == arrays
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


def test_a_reference_that_shows_the_tested_classes_is_left_out(nerp, trained, tmp_path):
    out, flags, model = trained
    command = ["test", "--trainer", "MMRL_NeRP", *flags, "--model-dir", out, *model,
               "DATASET.SUBSAMPLE_CLASSES", "base", "NERP.ON_BASE", "True"]
    status, text, error = nerp(*command, "--output-dir", tmp_path / "two",
                               "NERP.REFERENCES", "others,image")
    assert status == 0 and "the reference others is left out: the training images show" in text
    record = json.loads((tmp_path / "two" / "result.json").read_text())["nerp"]
    assert record["rule"]["strengths"] == {"image": 0.05}
    status, _, error = nerp(*command, "--output-dir", tmp_path / "one", "NERP.REFERENCES", "others")
    assert status == 1 and "none of others suits these classes" in error


def test_a_strength_for_each_reference(nerp, trained, tmp_path):
    out, flags, model = trained
    status, _, error = nerp("test", "--trainer", "MMRL_NeRP", *flags, "--model-dir", out, *model,
                            "--output-dir", tmp_path, "DATASET.SUBSAMPLE_CLASSES", "new",
                            "NERP.STRENGTH", "0.1,0.2,0.3")
    assert status == 1 and "a number for each of 2 references (gap, image)" in error


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
