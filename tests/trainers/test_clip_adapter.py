"""CLIP-Adapter: what its ratio mixes, and the backbones that it takes."""

import json

import pytest
import torch
from conftest import eurosat_classes, golden_config
from trainers.test_fake_cuda import resnet

from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip, normalise
from nerp.trainers.clip_adapter import CLIPAdapter, adapted_image


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_the_ratio_mixes_what_is_not_normalised(ratio):
    u, down, up = torch.randn(3, 8), torch.randn(2, 8), torch.randn(8, 2)
    adapted = ((u @ down.t()).clamp(min=0) @ up.t()).clamp(min=0)
    wanted = normalise(ratio * adapted + (1 - ratio) * u)
    torch.testing.assert_close(adapted_image(u, down, up, ratio), wanted)


def test_a_resnet_is_adapted_too():
    model = resnet().eval().requires_grad_(False)
    trainer = CLIPAdapter(golden_config(), Clip(model, "fp32", torch.device("cpu"), "small"),
                          eurosat_classes("base"))
    trainer.loss(torch.randn(2, 3, 32, 32), torch.tensor([0, 3])).backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in trainer.parameters())


def test_it_has_its_published_name_too():
    assert TRAINERS["CLIP_Adapter"] is CLIPAdapter


FIXED = ["INPUT.TRANSFORMS", "['center_crop', 'normalize']"]


@pytest.mark.parametrize("method", ["CLIPAdapter", "TaskRes"])
def test_images_that_look_alike_in_every_epoch_are_encoded_once(
    method, nerp, small_run, tmp_path, monkeypatch
):
    flags, opts = small_run

    def train(name, *more):
        status, _, error = nerp("train", "--trainer", method, *flags, "--output-dir",
                                tmp_path / name, *opts, *FIXED, "TEST.NO_TEST", "True",
                                "DATASET.SUBSAMPLE_CLASSES", "base", *more)
        assert status == 0, error
        return torch.load(tmp_path / name / TRAINERS[method].folder / "model.pth.tar-2",
                          weights_only=True)["state_dict"]

    first = train("first")
    with monkeypatch.context() as patch:
        patch.setattr("nerp.engine.training_features.encode_set",
                      lambda *args, **kwargs: pytest.fail("an image is encoded"))
        again = train("again")
    monkeypatch.setattr("nerp.engine.epochs.draws", lambda cfg: True)
    anew = train("anew", "DATALOADER.FEATURES_MB", "0")
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]) and torch.equal(tensor, anew[name])
    passes = [json.loads((tmp_path / name / "result.json").read_text())["features"]
              for name in ("first", "again", "anew")]
    assert passes[0]["read"] + passes[0]["encoded"] == 1
    assert passes[1:] == [{"read": 1, "encoded": 0}, {"read": 0, "encoded": 2}]
