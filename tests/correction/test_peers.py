"""The published corrections give what their published functions gave (golden/corrections.npz)."""

import math

import numpy as np
import pytest
import torch
from conftest import GOLDEN

from nerp.base.errors import NerpError
from nerp.correction import (
    adjusted,
    anchored_bias,
    batch_bias,
    contextual_bias,
    contextual_scores,
    guarded_bias,
    labelled_bias,
    normalise_distribution,
    shift,
    sinkhorn,
    stationary_bias,
    stray,
    transport,
    uniform_bias,
)
from nerp.correction.peers import sinkhorn_bias, stationary_prior


def load():
    with np.load(GOLDEN / "corrections.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


G = load()
Z = G["input/logits"]
NEUTRAL = G["input/content_free"]
ANCHOR = 0.3 * (NEUTRAL.mean(0) - NEUTRAL.mean())
IMAGE, TEXT = G["input/image_features"], G["input/text_features"]
RAW_IMAGE, RAW_TEXT = G["input/raw_image_features"], G["input/raw_text_features"]

# Array -> what gives it.
FLOATS = {
    "contextual_diagonal/scores": lambda: contextual_scores(Z, NEUTRAL),
    "contextual_identity/scores": lambda: contextual_scores(Z, NEUTRAL, "identity"),
    "batch_calibration/logits": lambda: Z - batch_bias(Z),
    "batch_calibration_half/logits": lambda: Z - batch_bias(Z, 0.5),
    "match/bias": lambda: uniform_bias(Z),
    "match_shares/bias": lambda: uniform_bias(Z, G["input/shares"]),
    "anchored_match/bias": lambda: anchored_bias(Z, ANCHOR, 0.5),
    "anchored_match_uniform/bias": lambda: anchored_bias(Z, width=1.0),
    "sinkhorn_gamma0/probabilities": lambda: sinkhorn(Z),
    "sinkhorn_gamma1/probabilities": lambda: sinkhorn(Z, power=1.0),
    "frolic/first_prior": lambda: stationary_prior(Z, torch.zeros(7, dtype=Z.dtype)),
    "frolic/logits": lambda: Z - stationary_bias(Z),
    "dn/cosines": lambda: normalise_distribution(
        IMAGE, TEXT, G["input/unlabelled_features"].mean(0), TEXT.mean(0)),
    "dn_raw/cosines": lambda: normalise_distribution(
        RAW_IMAGE, RAW_TEXT, G["input/raw_unlabelled_features"].mean(0), RAW_TEXT.mean(0)),
}


@pytest.mark.parametrize("name", FLOATS)
def test_the_golden_numbers(name):
    torch.testing.assert_close(FLOATS[name](), G[name], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("form", ["diagonal", "identity"])
def test_the_golden_predictions_of_contextual_calibration(form):
    predicted = contextual_scores(Z, NEUTRAL, form).argmax(1)
    assert torch.equal(predicted, G[f"contextual_{form}/predictions"])


@pytest.mark.parametrize(("name", "shares"), [("uniform", None), ("shares", G["input/shares"])])
def test_the_golden_transport_but_for_images_that_are_split(name, shares):
    different = int((transport(Z, shares) != G[f"otter_{name}/predictions"]).sum())
    assert different <= Z.shape[1] - 1


def test_the_golden_log_prior_of_labelled_images():
    bias = labelled_bias(G["input/labelled_logits"], G["input/labelled_labels"])
    torch.testing.assert_close(bias, G["gla/log_prior"], rtol=0, atol=1e-5)


def test_the_golden_distance_of_a_test_set_from_an_anchor():
    assert stray(Z, ANCHOR) == pytest.approx(
        (float(G["stray/distance"]), float(G["stray/noise"])), rel=1e-9)
    assert torch.equal(guarded_bias(Z, ANCHOR, limit=0.1), ANCHOR - ANCHOR.mean())


def test_in_single_precision_the_numbers_are_nearly_the_same():
    z = Z.float()
    for found, name in ((z - batch_bias(z), "batch_calibration/logits"),
                        (z - stationary_bias(z), "frolic/logits"),
                        (uniform_bias(z), "match/bias"),
                        (anchored_bias(z, ANCHOR.float(), 0.5), "anchored_match/bias")):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), G[name], rtol=0, atol=1e-4)
    torch.testing.assert_close(sinkhorn(z).double(), G["sinkhorn_gamma0/probabilities"],
                               rtol=0, atol=1e-5)


def test_contextual_calibration_of_one_input_is_the_shift_at_strength_one():
    one = NEUTRAL[:1]
    torch.testing.assert_close(shift(Z, contextual_bias(one)).predictions,
                               shift(Z, one[0] - one.mean()).predictions)
    shifted = Z - NEUTRAL.log_softmax(1).mean(0) + NEUTRAL.log_softmax(1).mean()
    torch.testing.assert_close(shifted, G["shift_one/logits"])


def test_batch_calibration_is_one_step_towards_match():
    torch.testing.assert_close(batch_bias(Z) + math.log(7), sinkhorn_bias(Z, rounds=1))
    many = sinkhorn_bias(Z, rounds=2000)
    torch.testing.assert_close(many - many.mean(), uniform_bias(Z), rtol=0, atol=1e-6)


def test_with_the_shares_that_it_starts_from_sinkhorn_corrects_nothing():
    torch.testing.assert_close(sinkhorn(Z, power=1.0), Z.softmax(1))


def test_given_shares_are_met_by_the_columns():
    wanted = G["input/shares"]
    found = sinkhorn(Z, wanted, rounds=500)
    torch.testing.assert_close(found.mean(0), wanted, rtol=0, atol=1e-6)


def test_dn_is_nearly_the_mean_feature_at_the_same_strength():
    mean = G["input/unlabelled_features"].mean(0)
    text = TEXT.mean(0)
    nearly = (IMAGE @ TEXT.t() - 0.25 * (TEXT @ mean)).argmax(1)
    exact = normalise_distribution(IMAGE, TEXT, mean, text).argmax(1)
    assert (nearly == exact).double().mean() > 0.8


def test_an_adjusted_model_is_both_less_the_zero_shot_models_preference():
    bias = torch.arange(7.0, dtype=Z.dtype)
    assert torch.equal(adjusted(Z, 2 * Z, bias), 3 * Z - bias)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: contextual_bias(NEUTRAL[0]), "expected"),
    (lambda: contextual_bias(NEUTRAL[:0]), "no images"),
    (lambda: contextual_scores(Z, NEUTRAL[:, :3]), "there are 7 classes"),
    (lambda: contextual_scores(Z, NEUTRAL, "round"), "diagonal or identity"),
    (lambda: batch_bias(Z[:, :1]), "one class"),
    (lambda: batch_bias(Z * math.nan), "not finite"),
    (lambda: sinkhorn(Z, torch.ones(7)), "sum to 7"),
    (lambda: transport(Z, torch.ones(3) / 3), "there are 7 classes"),
    (lambda: transport(Z[:, :1]), "one class"),
    (lambda: stationary_bias(Z * 0), "differ by more than 1/7"),
    (lambda: labelled_bias(Z, torch.zeros(3, dtype=torch.long)), "3 labels for 180 images"),
    (lambda: labelled_bias(Z, torch.zeros(180, dtype=torch.long)), "class 1 has no labelled"),
    (lambda: labelled_bias(Z, torch.full((180,), 9)), "a label is 9"),
    (lambda: adjusted(Z, Z[:3], torch.zeros(7)), "zero-shot"),
    (lambda: adjusted(Z, Z, torch.zeros(3)), "the log prior is"),
])
def test_bad_input_is_refused(call, message):
    with pytest.raises(NerpError, match=message):
        call()
