"""The command line as a user meets it: the main job on a small EuroSAT."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import (
    GOLDEN,
    GOLDEN_SETTINGS,
    HALVES,
    LEARNING,
    TEACHER,
    TEMPLATE,
    WITH_DEPT,
    asked,
    golden_config,
    golden_options,
)
from PIL import Image
from plain_methods import PLAIN
from tiny_clip import open_clip_model, random_clip

from nerp.base.registry import TRAINERS
from nerp.engine.checkpoint import checkpoint_file, read_checkpoint
from nerp.settings.protocols import bare_name


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
    assert set(z.files) == {"identity", "logits", "corrected_logits", "labels", "paths",
                            "classnames", "text_prior", "image_prior", "pairs"}
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
    accuracy = json.loads(before)["accuracy"]
    assert status == 0 and f"finished already, skipped: {out} (accuracy: {accuracy:.2f}%)" in text
    status, _, error = nerp(*command, "OPTIM.LR", "0.5")
    assert status == 1 and "OPTIM.LR: 0.001 -> 0.5" in error and "--overwrite" in error
    assert (out / "result.json").read_text() == before
    status, _, _ = nerp(*command, "--overwrite", "OPTIM.LR", "0.5")
    assert status == 0 and (out / "result.json").read_text() != before


# One averages epochs, one draws sentences, one compares with what there was before the first step.
@pytest.mark.parametrize("method", ["PromptSRC", "CoPrompt", "RESTORE"])
def test_interrupted_training_goes_on_to_the_same_numbers(
    method, nerp, stopped, small_run, tmp_path
):
    flags, opts = small_run
    command = ["train", "--trainer", method, *flags, *opts, *golden_options(method),
               "DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.MAX_EPOCH", "4"]
    assert nerp(*command, "--output-dir", tmp_path / "whole")[0] == 0
    status, _, error = stopped(*command, "--output-dir", tmp_path / "cut")
    assert status == 130 and "the same command continues" in error
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
def test_every_method_trains_tests_and_takes_nerp(method, nerp, small_run, tmp_path):
    flags, opts = small_run
    opts = [*opts, *golden_options(method)]
    out, epochs = tmp_path / "train", "2" if method == "DeCoOp" else "1"  # it has two phases
    status, _, error = nerp("train", "--trainer", method, *flags, "--output-dir", out, *opts,
                            "DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.MAX_EPOCH", epochs)
    assert status == 0, error
    # Shape settings are not repeated: the checkpoint knows them.
    status, _, error = nerp(
        "test", "--trainer", f"{method}_NeRP", *flags, "--model-dir", out, "--output-dir",
        tmp_path / "test", *small_run[1], *backbone_of_a_teacher(method),
        "DATASET.SUBSAMPLE_CLASSES", asked(method), "NERP.ON_BASE", "True",
        "OPTIM.WARMUP_EPOCH", "0",
    )
    assert status == 0, error
    result = json.loads((tmp_path / "test" / "result.json").read_text())
    assert result["total"] == 15 and "flips" in result
    takes_texts = any(key.endswith("TEXTS") for key in TRAINERS[method].defaults)
    given = any(str(opt).endswith("TEXTS") for opt in opts)  # in training alone
    training = json.loads((out / "result.json").read_text())
    for found, stands_in in ((result, takes_texts), (training, takes_texts and not given)):
        assert bool(found.get("substitute")) == stands_in


def backbone_of_a_teacher(method):
    """What a test has to be told besides, as KEY VALUE."""
    key = "TRAINER.PROMPTKD.TEACHER_PATH"
    return [key, GOLDEN_SETTINGS["PromptKD"]["TEACHER_PATH"]] if method == "PromptKD" else []


@pytest.mark.parametrize(("method", "which"), HALVES)
def test_published_checkpoints(method, which, nerp, eurosat_root, golden_weights, golden_model,
                               tmp_path):
    """A published checkpoint on a EuroSAT folder, from the command line to predictions.npz,
    against the plain formulation on images read with Pillow alone."""
    model_dir = tmp_path / "model"
    shutil.copytree(GOLDEN / "checkpoints" / method, model_dir)
    status, _, error = nerp(
        "test", "--root", eurosat_root, "--dataset", "eurosat", "--trainer", method, "--model-dir",
        model_dir, "--output-dir", tmp_path / "out", "--save-logits", "MODEL.BACKBONE.PATH",
        golden_weights, "DATASET.SUBSAMPLE_CLASSES", which, "DATASET.NUM_SHOTS", "2",
        *golden_options(method),
    )
    assert status == 0, error
    saved = np.load(tmp_path / "out/predictions.npz")
    own = TRAINERS[method].published_file(golden_config(
        DATASET={"NAME": "EuroSAT", "NUM_SHOTS": 2}))
    checkpoint = read_checkpoint(checkpoint_file(model_dir, TRAINERS[method].folder, published=own))
    node = golden_config().TRAINER[TRAINERS[method].node]
    node.update(checkpoint.settings)  # where a published file has some
    names = saved["classnames"].tolist()
    bare, tensors = bare_name(method), checkpoint.tensors
    if method in WITH_DEPT:
        tensors = TRAINERS[method].without_prefix(tensors)
    plain = PLAIN[bare](golden_model, names, TEMPLATE, tensors, node, seen=which == "base")
    if method == "DeCoOp":
        plain.trained = list(checkpoint.classnames)
    if method == "PromptKD":
        taught = read_checkpoint(GOLDEN / "checkpoints/PromptKD_teacher/VLPromptLearner"
                                 / "model.pth.tar-2").tensors
        plain.teacher = PLAIN["PromptSRC"](open_clip_model(random_clip(7, TEACHER)), names,
                                           TEMPLATE, taught, node)
    images = torch.stack([pixels(eurosat_root / "eurosat/2750" / p) for p in saved["paths"]])
    with torch.no_grad():
        wanted = plain.logits(images)
        if method in WITH_DEPT and which == "base":
            of = plain.image_output if method == "MaPLe_DePT" else golden_model.encode_image
            adjusted = of(images) * tensors["film_lp_img.scale"] + tensors["film_lp_img.bias"]
            head = adjusted @ tensors["linear_probe_proj.weight"].t()
            wanted = 0.4 * wanted + 0.6 * (head + tensors["linear_probe_proj.bias"])
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
