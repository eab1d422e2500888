"""Sweeps over saved logits, and thresholds calibrated with one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nerp.correction.calibrate import calibrate
from nerp.correction.flipping import Rule, flip
from nerp.correction.sweep import Saved, Sweep, parse_grid
from nerp.errors import NerpError


def saved(images=300, classes=12, pairs=20, seed=0):
    rng = np.random.default_rng(seed)
    return Saved(
        rng.normal(size=(images, classes)).astype(np.float32),
        rng.integers(0, classes, images),
        *rng.normal(size=(2, classes)).astype(np.float32),
        rng.integers(0, classes, (pairs, 2)),
    )


def test_every_setting_equals_a_correction_of_its_own():
    run = saved()
    grid = parse_grid(["THRES=0,0.5,2", "TAU=-1:1:3", "FLIP_RULE=OR,AND", "FLIP_BY_PROB=true,False",
                       "FLIP_BY_ENTROPY=True", "ENTROPY_THRES=1.2"])
    outcomes = list(Sweep(run).run(Rule(), grid))
    assert len(outcomes) == 36 and len({o.rule for o in outcomes}) == 36
    tensors = [torch.from_numpy(x) for x in (run.logits, run.text_prior, run.image_prior,
                                             run.pairs)]
    for outcome in outcomes:
        found = flip(*tensors, outcome.rule)
        before, after = run.logits.argmax(1), found.predictions.numpy()
        assert outcome.flips == (before != after).sum()
        assert outcome.helped == ((before != after) & (after == run.labels)).sum()
        assert outcome.hurt == ((before != after) & (before == run.labels)).sum()
        assert outcome.accuracy == pytest.approx(100 * (after == run.labels).mean(), abs=1e-4)


def test_grid_terms():
    assert parse_grid(["TAU=-1,2.5"]) == {"TAU": [-1.0, 2.5]}
    assert parse_grid(["THRES=0:1:3"]) == {"THRES": [0.0, 0.5, 1.0]}
    for term, message in (("TAU", "expected KEY=VALUE"), ("TAUS=1", "the keys are TAU, THRES"),
                          ("TAU=a", "no values of TAU"), ("FLIP_BY_PROB=maybe", "no values of"),
                          ("TAU=0:1:x", "no values of TAU")):
        with pytest.raises(NerpError, match=message):
            parse_grid([term])


def test_nan_and_shapes_are_refused():
    run = saved()
    run.logits[3, 4] = np.nan
    with pytest.raises(NerpError, match="not finite"):
        Sweep(run)
    with pytest.raises(NerpError, match="12 classes, priors for 3"):
        Sweep(replace(saved(), text_prior=np.zeros(3, np.float32),
                      image_prior=np.zeros(3, np.float32)))


def test_calibration_takes_the_best_setting_and_of_equals_the_fewest_flips():
    # Class 0 is preferred and wins narrowly over class 1, whose images these are.
    logits = np.array([[1.0, 0.9], [1.0, 0.6], [3.0, 0.0], [1.0, 0.0]], np.float32)
    run = Saved(logits, np.array([1, 1, 0, 0]), np.array([1.0, 0.0], np.float32),
                np.zeros(2, np.float32), np.array([[0, 1]]))
    found = calibrate(run, Rule())
    assert found.rule.thres == 0.5 and found.plain_accuracy == 50
    assert found.outcome.accuracy == 100 and found.outcome.flips == 2
    assert "50.00% -> 100.00%" in found.note


def test_calibration_flips_nothing_where_nothing_gains():
    run = Saved(np.array([[1.0, 0.9]], np.float32), np.array([0]),
                np.array([1.0, 0.0], np.float32), np.zeros(2, np.float32), np.array([[0, 1]]))
    found = calibrate(run, Rule())
    assert found.outcome is None and "nothing is flipped" in found.note
    assert Sweep(run).outcome(found.rule).flips == 0
