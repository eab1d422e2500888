"""Sweeps over saved logits, and thresholds calibrated with one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nerp.base.errors import NerpError
from nerp.correction.calibrate import calibrate
from nerp.correction.correction import Correction, CorrectionRule
from nerp.correction.flipping import Rule, flip
from nerp.correction.matched import Match
from nerp.correction.shifting import Shift, shift
from nerp.correction.significance import sign_test
from nerp.correction.sweep import Saved, Sweep, parse_grid, rule_of_grid


def saved(images=300, classes=12, pairs=20, seed=0):
    rng = np.random.default_rng(seed)
    return Saved(
        rng.normal(size=(images, classes)).astype(np.float32),
        rng.integers(0, classes, images),
        dict(zip(("text", "image", "gap"), rng.normal(size=(3, classes)).astype(np.float32),
                 strict=True)),
        rng.integers(0, classes, (pairs, 2)),
    )


def test_every_setting_equals_a_correction_of_its_own():
    run = saved()
    grid = parse_grid(["THRES=0,0.5,2", "TAU=-1:1:3", "FLIP_RULE=OR,AND", "FLIP_BY_PROB=true,False",
                       "FLIP_BY_ENTROPY=True", "ENTROPY_THRES=1.2"])
    outcomes = list(Sweep(run).run(Rule(), grid))
    assert len(outcomes) == 36 and len({o.rule for o in outcomes}) == 36
    tensors = [torch.from_numpy(x) for x in (run.logits, run.priors["text"], run.priors["image"],
                                             run.pairs)]
    for outcome in outcomes:
        found = flip(*tensors, outcome.rule)
        before, after = run.logits.argmax(1), found.predictions.numpy()
        assert outcome.flips == (before != after).sum()
        assert outcome.helped == ((before != after) & (after == run.labels)).sum()
        assert outcome.hurt == ((before != after) & (before == run.labels)).sum()
        assert outcome.accuracy == pytest.approx(100 * (after == run.labels).mean(), abs=1e-4)


def test_a_grid_over_a_shift_takes_references_by_name():
    run = saved()
    grid = parse_grid(["gap=0:1:3", "image=0,0.05", "SCOPE=all,pairs"])
    rule = rule_of_grid(grid, Rule())
    assert rule == Shift()
    outcomes = list(Sweep(run).run(rule, grid))
    assert [o.settings for o in outcomes[:2]] == [("0", "0", "all"), ("0", "0", "pairs")]
    assert len(outcomes) == 12
    for outcome in outcomes:
        strength, image, scope = outcome.settings
        bias = float(strength) * run.priors["gap"] + float(image) * run.priors["image"]
        after = shift(torch.from_numpy(run.logits), torch.from_numpy(bias),
                      torch.from_numpy(run.pairs) if scope == "pairs" else None).predictions
        assert outcome.accuracy == pytest.approx(100 * (after.numpy() == run.labels).mean(),
                                                 abs=1e-4)


def test_a_reference_that_the_run_did_not_keep_is_named():
    with pytest.raises(NerpError, match="no prior of the reference others; it has: text, image"):
        Sweep(saved()).outcome(Shift(strengths={"others": 0.1}))


def test_grid_terms():
    assert parse_grid(["TAU=-1,2.5"]) == {"TAU": ["-1", "2.5"]}
    assert parse_grid(["THRES=0:1:3"]) == {"THRES": ["0", "0.5", "1"]}
    for term, message in (("TAU", "expected KEY=VALUE"), ("TAUS=1", "flip: TAU, THRES"),
                          ("TAU=a", "no values of TAU"), ("FLIP_BY_PROB=maybe", "no values of"),
                          ("TAU=0:1:x", "no values of TAU"), ("SCOPE=some", "no values of SCOPE"),
                          ("FLIP_RULE=XOR", "it is OR or AND")):
        with pytest.raises(NerpError, match=message):
            rule_of_grid(parse_grid([term]), Rule())
    with pytest.raises(NerpError, match="the keys of one rule at a time"):
        rule_of_grid(parse_grid(["TAU=0", "gap=1"]), Rule())


def test_nan_and_shapes_are_refused():
    run = saved()
    run.logits[3, 4] = np.nan
    with pytest.raises(NerpError, match="not finite"):
        Sweep(run)
    with pytest.raises(NerpError, match="12 classes, priors for 3"):
        Sweep(replace(saved(), priors={"text": np.zeros(3, np.float32)}))


def preferred(images):
    """Class 0 is preferred and wins narrowly over class 1, whose images most of these are."""
    logits = np.tile(np.array([1.0, 0.7], np.float32), (images, 1))
    logits[-1] = 3.0, 0.0
    labels = np.ones(images, int)
    labels[-1] = 0
    priors = {"text": np.array([1.0, 0.0], np.float32), "image": np.zeros(2, np.float32)}
    return Saved(logits, labels, priors, np.array([[0, 1]]))


def test_calibration_takes_what_helps_beyond_chance_and_of_equals_the_fewest_changes():
    found = calibrate(preferred(11), Rule())
    assert found.changed and found.rule.thres == 0.5 and found.rule.tau <= 1
    assert found.before == pytest.approx(100 / 11) and found.after == 100
    assert "9.09% -> 100.00%" in found.note


def test_what_chance_may_have_done_changes_nothing():
    run = preferred(6)  # five images helped, none hurt: p = 0.06
    found = calibrate(run, Rule())
    assert not found.changed and "nothing is flipped" in found.note
    assert Sweep(run).outcome(found.rule).flips == 0


def test_calibration_of_a_shift_moves_its_strengths_together_or_leaves_them():
    automatic = Shift(strengths={"text": 0.2, "image": 0.1})
    found = calibrate(preferred(11), automatic)
    assert found.changed and found.rule.strengths == {"text": 0.4, "image": 0.2}
    assert found.before == pytest.approx(100 / 11) and found.after == 100
    kept = calibrate(preferred(6), automatic)
    assert kept.rule == automatic and "the strengths stay" in kept.note
    with pytest.raises(NerpError, match="match has no thresholds"):
        calibrate(preferred(6), Match())


@pytest.mark.parametrize(("helped", "hurt", "p"), [
    (0, 0, 1.0), (1, 0, 1.0), (8, 0, 2 / 256), (0, 8, 2 / 256), (3, 2, 1.0), (9, 1, 22 / 1024),
])
def test_the_sign_test_is_exact(helped, hurt, p):
    assert sign_test(helped, hurt) == pytest.approx(p)


def test_a_rule_of_ones_own_needs_no_settings():
    class Own(CorrectionRule):
        note = "what it does"

        @classmethod
        def from_config(cls, node, strengths):
            return cls()

        def correct(self, logits, priors, pairs):
            return Correction.none(logits)

    assert Own().keys() == () and Own().effect == "what it does"
    with pytest.raises(ValueError, match="TAU"):
        Own().changed("TAU", "1")
    with pytest.raises(TypeError, match="abstract"):
        CorrectionRule()
