"""NeRP on checkpoints in the published layout, from the command line, with the release's keys: the
priors are the golden ones and the predictions those of a plain loop over the images."""

import shutil

import numpy as np
import pytest
import torch
from conftest import GOLDEN, LEARNING, asked, golden_options
from correction.test_flipping import plain_flip
from PIL import Image
from trainers.test_golden import tensors

from nerp.base.registry import TRAINERS
from nerp.correction.flipping import Rule
from nerp.engine.checkpoint import checkpoint_file
from nerp.files.tensors import load_inert

RESIDUAL = {"RESIDUAL_TEXT_PRIOR": True, "RESIDUAL_IMAGE_PRIOR": True, "TEXT_PRIOR_COE": 0.8,
            "IMAGE_PRIOR_COE": 0.6}
SETTINGS = {
    "as released": ({}, Rule(0.0, 2.0, "OR", False, False, 1.0)),
    "residual": (
        {"TAU": -1.5, "THRES": 3.0, "FLIP_BY_ENTROPY": True, "ENTROPY_THRES": 1.2, **RESIDUAL},
        Rule(-1.5, 3.0, "OR", True, False, 1.2),
    ),
    "both": (
        {"TAU": -20.0, "THRES": 6.0, "FLIP_RULE": "AND", "FLIP_BY_PROB": True},
        Rule(-20.0, 6.0, "AND", False, True, 1.0),
    ),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with a published checkpoint a method that has the golden tensors, and the reference
    image."""
    folder = tmp_path_factory.mktemp("published")
    for method in LEARNING:
        if method == "CLIPLoRA":  # whose published file has a layout of its own
            save_lora(folder / method / "vitb16/eurosat/16shots/seed1/lora_weights.pt")
            continue
        shutil.copytree(GOLDEN / "checkpoints" / method, folder / method)
        file = checkpoint_file(folder / method, TRAINERS[method].folder)
        content = load_inert(file)
        state = content["state_dict"]
        own = {name: tensor for name, tensor in tensors(method, "param").items()
               if not name.startswith("teacher.")}  # no published file has it
        assert state.keys() >= own.keys()
        torch.save({**content, "state_dict": {**state, **own}, "epoch": 2}, file)
    mean = np.load(GOLDEN / "inputs.npz")["mean_image"]
    Image.fromarray(mean).save(folder / "reference.png")
    return folder


def save_lora(file):
    """The golden tensors as CLIP-LoRA's code leaves them."""
    weights = {}
    for name, tensor in tensors("CLIPLoRA", "param").items():
        layer, part, leaf = name.split(".")
        weights.setdefault(layer, {}).setdefault(part, {})[leaf] = tensor
    said = {"r": 3, "alpha": 2, "encoder": "both", "params": ["q", "k", "v"], "position": "all"}
    file.parent.mkdir(parents=True)
    torch.save({"weights": weights, "metadata": said}, file)


@pytest.mark.parametrize("which", SETTINGS)
@pytest.mark.parametrize("method", LEARNING)
def test_priors_and_flips(method, which, published, nerp, eurosat_root, golden_weights, tmp_path):
    keys, rule = SETTINGS[which]
    status, _, error = nerp(
        "test", "--root", eurosat_root, "--dataset", "eurosat", "--trainer", f"{method}_NeRP",
        "--model-dir", published / method, "--output-dir", tmp_path / "out", "--save-logits",
        "--no-cache", "MODEL.BACKBONE.PATH", golden_weights, "DATASET.SUBSAMPLE_CLASSES",
        asked(method), "NERP.ON_BASE", "True", "NERP.RULE", "flip", "NERP.REFERENCE_IMAGE",
        published / "reference.png",
        *golden_options(method), *(f"TEST.{key}={value}" for key, value in keys.items()),
    )
    assert status == 0, error
    saved = np.load(tmp_path / "out" / "predictions.npz")
    text, image = saved["text_prior"], saved["image_prior"]
    golden = np.load(GOLDEN / f"{method}.npz")
    kind = "residual" if which == "residual" else "plain"
    if method != "CoOp":  # for which nothing is published
        np.testing.assert_allclose(text, golden[f"nerp/{kind}/text_prior"], atol=1e-3)
        np.testing.assert_allclose(image, golden[f"nerp/{kind}/image_prior"], atol=1e-3)
    pairs = saved["pairs"].tolist()
    wanted = [plain_flip(z, text, image, pairs, rule) for z in saved["logits"]]
    assert saved["corrected_logits"].argmax(1).tolist() == wanted
