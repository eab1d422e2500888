"""Open-world and confidence numbers, and calibrators, against golden arrays and by definition."""

import itertools

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from sklearn.metrics import roc_auc_score

from nerp.base.errors import NerpError
from nerp.engine import confidence as confidences
from nerp.engine.calibrators import Distance, Temperature, distance_factors, least_nll
from nerp.engine.confidence import judge, measures, probabilities
from nerp.engine.measures import OPEN_WORLD
from nerp.engine.metrics import confidence, open_world


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN / "openworld_confidence.npz"))


def given_kinds(golden, *names):
    """The arrays as numpy and as torch have them."""
    arrays = [golden[name] for name in names]
    return arrays, [torch.from_numpy(array) for array in arrays]


def test_the_open_world_is_golden(golden):
    for arrays in given_kinds(golden, "logits", "labels", "base"):
        found = open_world(*arrays)
        assert tuple(found) == tuple(OPEN_WORLD)
        for name, value in found.items():
            if name != "h":
                assert value == pytest.approx(float(golden[f"open/{name}"]), abs=1e-9), name
        b, n = found["base"], found["novel"]
        assert found["h"] == pytest.approx(2 * b * n / (b + n))


def test_two_metrics_of_the_same_bins_sort_the_images_once(golden, monkeypatch):
    counts, binned = [], confidences._binned
    monkeypatch.setattr(confidences, "_binned", lambda judged, edges: (
        counts.append(len(edges) - 1) or binned(judged, edges)))
    judged = judge(golden["logits"], golden["labels"])
    for bins in (10, 15):
        measures(judged, bins)
    assert counts == [10, 10, 15, 15]  # of equal width, and of equally many images


@pytest.mark.parametrize("bins", [10, 15, 20])
def test_confidence_is_golden(bins, golden):
    for arrays in given_kinds(golden, "logits", "labels"):
        found = confidence(*arrays, bins=bins)
        for name in ("ece", "adaptive_ece", "mce"):
            assert found[name] == pytest.approx(float(golden[f"{name}/{bins}"]), abs=1e-9), name
        for name in ("nll", "brier"):
            assert found[name] == pytest.approx(float(golden[name]), abs=1e-9), name


def test_distance_factors_are_golden(golden):
    for zero_shot, tuned in given_kinds(golden, "zero_shot_text", "tuned_text"):
        base = golden["base"]
        for name, of in (("novel", ~base), ("base", base), ("all", base | True)):
            factors = distance_factors(zero_shot[base], zero_shot[of], tuned[base], tuned[of])
            assert type(factors) is type(tuned) and factors.dtype == tuned.dtype
            np.testing.assert_allclose(factors, golden[f"dac/{name}_factor"], atol=1e-5)


def test_dac_multiplies_by_the_predicted_classs_factor(golden):
    novel = ~golden["base"]
    logits = torch.from_numpy(golden["logits"][novel[golden["labels"]]][:, novel])
    calibrated = Distance(torch.from_numpy(golden["dac/novel_factor"])).apply(logits)
    np.testing.assert_allclose(calibrated, golden["dac/novel_logits"], atol=1e-5)
    assert torch.equal(calibrated.argmax(1), logits.argmax(1))


def pairwise(logits, labels, base):
    """openworld_auc as its definition says, pair by pair."""
    r = np.concatenate([p[:, base].max(1) for _, p, _ in probabilities(logits)])
    columns = np.arange(len(base))
    right = [columns[base == base[y]][z[base == base[y]].argmax()] == y
             for z, y in zip(logits, labels, strict=True)]
    shown = base[labels]
    pairs = list(itertools.product(np.flatnonzero(shown), np.flatnonzero(~shown)))
    won = [right[b] * right[n] * ((r[b] > r[n]) + (r[b] == r[n]) / 2) for b, n in pairs]
    return sum(won) / len(pairs), roc_auc_score(shown, r)


@pytest.mark.parametrize("seed", range(40))
def test_ranks_count_what_pairs_count(seed):
    rng = np.random.default_rng(seed)
    classes, images = rng.integers(2, 8), rng.integers(8, 25)
    base = np.arange(classes) < rng.integers(1, classes)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, images)])
    logits = rng.integers(-2, 3, (len(labels), classes)).astype(float)  # many ties
    found = open_world(logits, labels, base)
    expected = pairwise(logits, labels, base)
    assert found["openworld_auc"] == pytest.approx(expected[0])
    assert found["auroc"] == pytest.approx(expected[1])


def test_an_edge_belongs_to_the_bin_above_and_certainty_to_the_last():
    sure = np.array([[400.0, 0], [400.0, 0]])  # p is exactly 1
    assert confidence(sure, [0, 1])["ece"] == pytest.approx(0.5)
    even = np.zeros((2, 2))  # p is 1/2, an edge of two bins: right as often as it says
    assert confidence(even, [0, 1], bins=2)["ece"] == 0
    assert confidence(np.concatenate([sure, even]), [0, 1, 0, 1], bins=2)["mce"] == 0.25


def test_bins_of_equally_many_images_merge_where_confidences_are_equal():
    logits = np.concatenate([np.tile([400.0, 0], (20, 1)), np.zeros((2, 2))])
    labels = np.array([0] * 10 + [1] * 10 + [0, 0])
    # All quantiles are 1/2 or 1, so one bin is left: confidence 21/22, accuracy 12/22.
    assert confidence(logits, labels)["adaptive_ece"] == pytest.approx(9 / 22)


@pytest.mark.parametrize("seed", range(20))
def test_the_least_nll_is_found_and_scales_with_the_logits(seed):
    rng = np.random.default_rng(seed)
    factor = np.exp(rng.uniform(np.log(0.05), np.log(20)))
    logits = torch.tensor(rng.normal(size=(60, 4)))
    labels = torch.tensor(np.where(rng.random(60) < 0.6, logits.argmax(1), rng.integers(0, 4, 60)))
    value = least_nll(logits, labels)
    scaled = least_nll(logits * factor, labels)
    if all(0.05 < found < 20 for found in (value, scaled)):  # of those that are sought
        assert scaled == pytest.approx(value * factor, rel=1e-6)
    nll = [confidence(logits / t, labels)["nll"] for t in (value, value * 1.05, value / 1.05)]
    assert nll[0] == min(nll)
    calibrated = Temperature(value, 60).apply(logits)
    assert torch.equal(calibrated.argmax(1), logits.argmax(1))


Z, Y, BASE = np.eye(4), np.arange(4), np.array([True, True, False, False])


@pytest.mark.parametrize("call, message", [
    (lambda: confidence(Z, Y, bins=0), "0 bins of confidence"),
    (lambda: confidence(Z, np.array([0, 1, 2, 4])), "from 0 to 3, found 0 to 4"),
    (lambda: confidence(Z, np.array([0, 1, 2, -1])), "found -1 to 2"),
    (lambda: confidence(Z, Y[:3]), r"expected \[N, C\] and \[N\]"),
    (lambda: confidence(Z[:0], Y[:0]), "nothing to measure"),
    (lambda: confidence(Z * np.nan, Y), "not finite"),
    (lambda: open_world(Z, Y, BASE[:3]), "a truth value for each of 4 classes"),
    (lambda: open_world(Z, Y, BASE.astype(int)), "a truth value for each of 4 classes"),
    (lambda: open_world(Z[:2], Y[:2], BASE), "novel classes with test images; there are 2 .* 0"),
    (lambda: open_world(Z, Y, BASE | True), "needs novel classes"),
    (lambda: open_world(Z, Y, ~(BASE | True)), "needs base classes"),
    (lambda: distance_factors(Z, Z, Z[:2], Z), "expected"),
    (lambda: distance_factors(Z, Z, Z, Z, 0), "0 neighbours"),
    (lambda: distance_factors(Z, Z, Z, Z * np.inf), "not finite"),
])
def test_what_cannot_be_measured_is_said(call, message):
    with pytest.raises(NerpError, match=message), np.errstate(invalid="ignore"):
        call()
