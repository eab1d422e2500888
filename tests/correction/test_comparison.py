"""Every rule side by side on one run's saved logits."""

import numpy as np
import pytest
import torch

from nerp.base.errors import NerpError
from nerp.base.registry import RULES
from nerp.correction.comparison import STREAM, compare
from nerp.correction.looked_at import NOTHING, TEST_IMAGES, TRAINING_LABELS, UNKNOWN
from nerp.correction.shifting import Shift
from nerp.correction.sweep import Saved

SEEN = {"text": NOTHING, "image": "training images", "gap": TRAINING_LABELS, "pairs": NOTHING}


def saved(images=200, classes=5):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, images)
    bias = rng.normal(size=classes).astype(np.float32)
    logits = rng.normal(size=(images, classes)).astype(np.float32) + bias
    logits[np.arange(images), labels] += 2
    priors = {"text": bias, "image": bias, "gap": bias}
    return Saved(logits, labels, priors, np.array([[0, 1]]))


def by_name(own, names):
    return {done.name: done for done in compare(saved(), own, names, SEEN)}


def test_every_rule_is_there_or_says_what_it_lacks():
    own = Shift(strengths={"gap": 0.5})
    found = by_name(own, RULES.names())
    assert {name.split(",")[0] for name in found} == set(RULES.names())
    assert {"anchored" + STREAM, "batch" + STREAM, "contextual, image", "contextual, text"} <= set(
        found)
    for name, done in found.items():
        lacks = name in ("distribution", "labelled", "stacking", "stacking_ceiling")
        assert bool(done.missing) == lacks and (done.predictions is None) == lacks
        if not lacks:
            assert done.gain == pytest.approx((done.helped - done.hurt) / 2)
            assert 0 <= done.chance <= 1


def test_each_says_what_it_has_looked_at_and_the_alarm_is_told():
    found = by_name(Shift(strengths={"gap": 0.5}), ["shift", "anchored", "flip", "match"])
    assert found["shift"].looked_at == TRAINING_LABELS and found["shift"].mark == ""
    assert found["anchored"].looked_at == TEST_IMAGES and found["anchored"].mark == "†"
    assert found["anchored" + STREAM].mark == "s"
    assert found["flip"].looked_at == "training images"
    assert "the test images ask for a bias" in found["anchored"].remark
    unknown = next(compare(saved(), Shift(strengths={"gap": 0.5}), ["shift"], {}))
    assert unknown.looked_at == UNKNOWN and unknown.mark == "§"


def test_a_run_without_strengths_cannot_tell_what_a_shift_would_do():
    found = by_name(RULES["match"](), ["shift", "match"])
    assert "kept no references" in found["shift"].missing
    assert torch.is_tensor(found["match"].predictions)


def test_what_is_no_rule_is_refused():
    with pytest.raises(NerpError, match="unknown rule"):
        by_name(Shift(strengths={"gap": 0.5}), ["nope"])
