"""Which rule a corrected run takes: NERP.RULE auto, the keys of one rule, the release's names."""

import pytest

from nerp.config import Request, build_config
from nerp.errors import NerpError


def settings(trainer, *opts, dataset="eurosat", config_file=""):
    return build_config(Request(trainer=trainer, dataset=dataset, config_file=str(config_file),
                                opts=list(opts))).NERP


def test_a_published_row_is_taken_and_elsewhere_the_shift_is():
    nerp = settings("MMRL_NeRP")
    assert (nerp.RULE, nerp.THRESHOLDS, nerp.TAU, nerp.THRES) == ("flip", "published", 1.0, 1.5)
    for trainer, dataset, task in (("CoOp_NeRP", "eurosat", "B2N"), ("MMRL_NeRP", "eurosat", "FS"),
                                   ("MMRL_NeRP", "demo_landcover", "B2N")):
        nerp = settings(trainer, "TASK", task, dataset=dataset)
        assert (nerp.RULE, nerp.STRENGTH, nerp.SCOPE) == ("shift", "auto", "all")


def test_the_release_rule_is_to_be_had_exactly():
    nerp = settings("MMRL_NeRP", "NERP.RULE", "flip", "NERP.THRESHOLDS", "default")
    assert (nerp.RULE, nerp.TAU, nerp.THRES, nerp.FLIP_RULE) == ("flip", 0.0, 2.0, "OR")
    assert settings("CoOp_NeRP", "NERP.RULE", "flip").THRESHOLDS == "default"
    assert settings("CoOp_NeRP", "NERP.THRESHOLDS", "default").RULE == "flip"


@pytest.mark.parametrize("key", ["TAU", "THRES", "FLIP_RULE", "FLIP_BY_PROB", "FLIP_BY_ENTROPY",
                                 "ENTROPY_THRES", "RESIDUAL_TEXT_PRIOR", "RESIDUAL_IMAGE_PRIOR"])
def test_a_key_of_the_flip_means_the_flip_by_either_name(key, caplog):
    value = {"FLIP_RULE": "AND", "TAU": "-1", "THRES": "0.5", "ENTROPY_THRES": "2"}.get(key, "True")
    caplog.set_level("INFO", "nerp")
    ours = settings("CoOp_NeRP", f"NERP.{key}", value)
    theirs = settings("CoOp_NeRP", f"TEST.{key}", value)
    assert ours == theirs and ours.RULE == "flip" and str(ours[key]) in (value, f"{value}.0")
    assert f"NERP.{key} is a key of the flip, so the rule is the flip" in caplog.text


def test_the_release_calls_the_coefficients_by_other_names():
    nerp = settings("CoOp_NeRP", "TEST.TEXT_PRIOR_COE", "0.8", "TEST.IMAGE_PRIOR_COE", "0.6")
    assert (nerp.RULE, nerp.C_TEXT, nerp.C_IMAGE) == ("flip", 0.8, 0.6)


def test_a_method_file_may_hold_them(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("TEST: {TAU: 0.25}\nPER_DATASET: {EuroSAT: {NERP: {THRES: 0.75}}}\n")
    nerp = settings("CoOp_NeRP", config_file=file)
    assert (nerp.RULE, nerp.TAU, nerp.THRES) == ("flip", 0.25, 0.75)


@pytest.mark.parametrize(("opts", "rule"), [
    (["NERP.STRENGTH", "0.2"], "shift"),
    (["NERP.REFERENCES", "gap,others"], "shift"),
    (["NERP.SCOPE", "pairs", "NERP.PAIRS", "reference"], "shift"),
    (["NERP.THRESHOLDS", "calibrated"], "shift"),
    (["NERP.PAIRS", "unlabelled"], "flip"),
    (["NERP.TAU", "1", "NERP.THRESHOLDS", "calibrated"], "flip"),
    (["NERP.RULE", "match"], "match"),
    (["NERP.RULE", "shift"], "shift"),
])
def test_what_is_given_says_which_rule_is_meant(opts, rule):
    assert rule == settings("MMRL_NeRP", *opts).RULE


def test_keys_of_two_rules_ask_back():
    with pytest.raises(NerpError, match="NERP.TAU is the flip's and NERP.STRENGTH a shift's: say"):
        settings("CoOp_NeRP", "NERP.TAU", "1", "NERP.STRENGTH", "1")
    assert settings("CoOp_NeRP", "NERP.TAU", "1", "NERP.STRENGTH", "1", "NERP.RULE",
                    "shift").RULE == "shift"


@pytest.mark.parametrize(("key", "value", "message"), [
    ("NERP.RULE", "flop", "unknown rule 'flop'. Did you mean flip"),
    ("NERP.REFERENCES", "text,imag", "unknown neutral reference 'imag'. Did you mean image"),
    ("NERP.STRENGTH", "strong", "it takes auto, a number, or one for each reference"),
    ("NERP.SCOPE", "some", "it takes one of all, pairs"),
])
def test_what_does_not_exist_is_refused(key, value, message):
    with pytest.raises(NerpError, match=message):
        settings("CoOp_NeRP", key, value)


def test_a_run_that_corrects_nothing_settles_nothing():
    assert settings("MMRL").RULE == "auto"
