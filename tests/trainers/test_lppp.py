"""LP++'s functions compute what the published code computes."""

import numpy as np
import pytest
import torch
from conftest import GOLDEN

from nerp.clip.model import normalise
from nerp.trainers.lppp import fit, logits, start, step_sizes

LOGIT = {"atol": 1e-3, "rtol": 0}
TRAINED = {"atol": 1e-4, "rtol": 0}  # of tensors whose numbers reach 110


@pytest.fixture(scope="module")
def z():
    with np.load(GOLDEN / "LPpp.npz") as content:
        return {name: torch.from_numpy(content[name]) for name in content.files if name != "note"}


def test_the_first_tensors_and_the_step_sizes(z):
    features = normalise(z["train/features"])
    weight, alpha = start(features, z["train/labels"], z["text_features"])
    torch.testing.assert_close(weight, z["start/weight"], atol=1e-5, rtol=0)
    first = torch.full((7,), alpha)
    torch.testing.assert_close(first[None], z["start/alpha"], **TRAINED)
    found = logits(features, z["text_features"], weight, z["param/bias"], first)
    torch.testing.assert_close(found, z["start/logits"], **LOGIT)
    rates = step_sizes(features, z["text_features"])
    assert rates == pytest.approx((float(z["setting/lr_weight"]), float(z["setting/lr_alpha"])),
                                  abs=1e-5)


@pytest.mark.parametrize("epoch", [0, 9, 10, 59])
def test_the_steps(z, epoch):
    weight, bias, alpha, last = fit(z["train/features"], z["train/labels"], z["text_features"],
                                    z["param/bias"], epoch + 1)
    assert last == epoch
    torch.testing.assert_close(weight, z[f"epoch{epoch}/weight"], **TRAINED)
    torch.testing.assert_close(bias, z[f"epoch{epoch}/bias"], **TRAINED)
    torch.testing.assert_close(alpha, z["alpha_by_epoch"][epoch], **TRAINED)


def test_the_validation_images_choose_the_epoch(z):
    *found, epoch = fit(z["train/features"], z["train/labels"], z["text_features"], z["param/bias"],
                        int(z["setting/epochs"]), z["val/features"], z["val/labels"])
    assert epoch == int(z["best/epoch"])
    for name, tensor in zip(("weight", "bias", "alpha"), found, strict=True):
        torch.testing.assert_close(tensor, z[f"best/{name}"], **TRAINED)
    scores = logits(z["test/features"], z["text_features"], *found)
    torch.testing.assert_close(scores, z["best/logits"], **LOGIT)
