"""Which rule a corrected run takes: NERP.RULE auto, the keys of one rule, the release's names."""

import pytest

from nerp.base.errors import NerpError
from nerp.files.yaml_file import load_yaml
from nerp.settings.resolve import Request, resolve


def settings(trainer, *opts, dataset="eurosat", config_file=""):
    return resolve(Request(trainer=trainer, dataset=dataset, config_file=str(config_file),
                                opts=list(opts))).cfg.NERP


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


# What the release calls a setting -> our key, and a value that is not its default.
RELEASE = {
    "TAU": ("TAU", -1.0), "THRES": ("THRES", 0.5), "TEXT_PRIOR_COE": ("C_TEXT", 0.8),
    "IMAGE_PRIOR_COE": ("C_IMAGE", 0.6), "RESIDUAL_TEXT_PRIOR": ("RESIDUAL_TEXT_PRIOR", True),
    "RESIDUAL_IMAGE_PRIOR": ("RESIDUAL_IMAGE_PRIOR", True), "FLIP_RULE": ("FLIP_RULE", "AND"),
    "FLIP_BY_PROB": ("FLIP_BY_PROB", True), "FLIP_BY_ENTROPY": ("FLIP_BY_ENTROPY", True),
    "ENTROPY_THRES": ("ENTROPY_THRES", 2.0),
}


@pytest.mark.parametrize("name", RELEASE)
def test_a_key_of_the_flip_means_the_flip_by_either_name_wherever_it_stands(
    name, tmp_path, caplog
):
    key, value = RELEASE[name]
    file = tmp_path / "mine.yaml"
    file.write_text(f"TEST: {{{name}: {value}}}\n")
    caplog.set_level("INFO", "nerp")
    ours = settings("CoOp_NeRP", f"NERP.{key}", str(value))
    assert (ours.RULE, ours[key]) == ("flip", value)
    for other in (lambda: settings("CoOp_NeRP", f"TEST.{name}", str(value)),
                  lambda: settings("CoOp_NeRP", config_file=file)):
        caplog.clear()
        assert other() == ours
        assert f"NeRP: NERP.{key} is a key of the flip, so the rule is the flip" in caplog.text


def test_a_run_takes_and_keeps_all_of_the_release_s_flags(
    nerp, eurosat_root, golden_weights, tmp_path
):
    flags = [text for name, (_, value) in RELEASE.items() for text in (f"TEST.{name}", str(value))]
    status, text, error = nerp(
        "test", "--trainer", "ZeroshotCLIP_NeRP", "--root", eurosat_root, "--dataset", "eurosat",
        "--output-dir", tmp_path / "run", "MODEL.BACKBONE.PATH", golden_weights,
        "DATASET.SUBSAMPLE_CLASSES", "new", *flags,
    )
    assert status == 0, error
    assert "is a key of the flip, so the rule is the flip" in text
    kept = load_yaml(tmp_path / "run/config.yaml")["NERP"]
    assert {key: kept[key] for key, _ in RELEASE.values()} == dict(RELEASE.values())


def test_a_method_file_may_hold_them_below_a_dataset(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("TEST: {TAU: 0.25}\nPER_DATASET: {EuroSAT: {TEST: {THRES: 0.75}}}\n")
    nerp = settings("CoOp_NeRP", config_file=file)
    assert (nerp.RULE, nerp.TAU, nerp.THRES) == ("flip", 0.25, 0.75)


def test_a_method_file_s_value_gives_way_to_a_published_one_and_the_run_says_so(tmp_path, caplog):
    file = tmp_path / "mine.yaml"
    file.write_text("TEST: {TAU: 0.25, TEXT_PRIOR_COE: 0.8}\n")
    caplog.set_level("INFO", "nerp")
    nerp = settings("MMRL_NeRP", config_file=file)
    assert (nerp.TAU, nerp.C_TEXT) == (1.0, 0.8)
    assert "NERP.TAU 0.25 gives way to 1.0, the published one" in caplog.text
    assert "C_TEXT 0.8 gives way" not in caplog.text
    assert settings("MMRL_NeRP", "NERP.THRESHOLDS", "default", config_file=file).TAU == 0.25
    assert settings("MMRL_NeRP", "TEST.TAU", "0.5", config_file=file).TAU == 0.5


def test_a_misspelt_flag_of_the_release_is_known():
    with pytest.raises(NerpError, match="unknown configuration key 'TEST.TAUU'. Did you mean "
                                        "TEST.TAU"):
        settings("CoOp_NeRP", "TEST.TAUU", "1")


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
