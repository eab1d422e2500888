"""The demo: what it runs, and the table it prints."""

import csv
import io
import json
import re

import numpy as np
import pytest

from nerp.correction.matched import Match
from nerp.correction.shifting import Shift
from nerp.demo import world
from nerp.demo.job import Row, table

SHORT = ["OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0"]


@pytest.fixture
def small(monkeypatch):
    """A benchmark of few images: the demo without the wait."""
    monkeypatch.setattr(world, "IMAGES_PER_CLASS", {"train": 16, "val": 4, "test": 4})


def demo(nerp, folder, *arguments):
    status, text, error = nerp("demo", "--seeds", "1", "--root", folder / "data",
                               "--output-dir", folder / "out", *arguments)
    assert status == 0, error
    return text


def printed_rows(text):
    """(method, what NeRP did) -> the cells that the demo's table has for it."""
    found, method = {}, ""
    for line in text.split("Accuracy in percent")[1].split("\n\n")[1].splitlines()[4:]:
        name, *cells = re.split(r"  +", line.strip())
        method, rule = (method, name[8:]) if name.startswith("+ NeRP, ") else (name, "")
        found[method, rule] = cells
    return found


def test_the_demo_trains_tests_and_corrects_and_its_table_is_what_the_records_say(
    nerp, small, tmp_path
):
    text = demo(nerp, tmp_path, *SHORT)
    for line in ("[1/7] test ZeroshotCLIP on base classes, seed 1", "[5/7] train MMRL, seed 1",
                 "[7/7] test MMRL_NeRP on novel classes, seed 1"):
        assert line in text
    results = {
        (r["trainer"], r["classes"]): r
        for r in (json.loads(p.read_text()) for p in (tmp_path / "out").rglob("result.json"))
    }
    corrected, plain = results["MMRL_NeRP", "new"], results["MMRL", "new"]
    assert corrected["uncorrected_accuracy"] == plain["accuracy"]
    base, novel = results["MMRL", "base"]["accuracy"], corrected["accuracy"]
    row = [*cells(base, novel), "{flips} ({helped}/{hurt}/{neutral})".format(**corrected)]
    assert printed_rows(text)["MMRL", "shift"] == row
    assert "no evidence about CLIP" in text and "Next, a page about" in text
    assert "standard deviation" not in text, "of one seed"
    assert ("released: the published flip with the release's defaults, by the mean training image "
            f"and pairs from text. shift: {Shift.effect}; it has looked at training labels. "
            "Classes that were trained on are left as they are." in said(text))

    again = demo(nerp, tmp_path, *SHORT)  # everything is there already
    assert printed_rows(again) == printed_rows(text)
    assert "replaced" not in again
    changed = demo(nerp, tmp_path, *SHORT, "NERP.THRES", "0.1")
    assert changed.count("it is replaced") == 3, "only what NeRP corrects"
    assert ("MMRL", "flip") in printed_rows(changed)
    assert "partner is predicted; it has looked at training images. Classes" in said(changed)
    (line,) = (x for x in changed.splitlines() if "MMRL_NeRP/tiny/seed1 holds a finished run" in x)
    assert "NERP.THRES: 2.0 -> 0.1" in line


def said(text):
    return " ".join(text.split())


def test_what_has_looked_at_test_images_says_so(nerp, small, tmp_path):
    text = said(demo(nerp, tmp_path, *SHORT, "NERP.RULE", "match", "NERP.ON_BASE", "True",
                     "NERP.PAIRS", "reference"))
    assert f"training image and pairs from reference. match: {Match().effect}; it has" in text
    assert "it has looked at test images (transductive). A drawn world" in text


def cells(base, novel):
    return [f"{base:.2f}", f"{novel:.2f}", f"{2 * base * novel / (base + novel):.2f}"]


def test_the_released_rule_is_what_a_run_of_it_gives(nerp, small, tmp_path):
    """On novel classes, and on the base classes of zero-shot CLIP, which was trained on nothing."""
    text = demo(nerp, tmp_path, *SHORT)
    released = demo(nerp, tmp_path, *SHORT, "NERP.THRESHOLDS", "default")
    shown, own = printed_rows(text), printed_rows(released)
    for name in ("zero-shot CLIP", "MMRL"):
        assert shown[name, "released"] == own[name, "flip"]
        assert (name, "released") not in own
    assert "image and pairs from text; it has looked at training images." in said(released)


def test_the_demo_and_nerp_table_agree_on_base_classes(nerp, small, tmp_path):
    """Left alone by NeRP, the plain run's accuracy; corrected too, that of a run of its own."""
    for rule, arguments in (("shift", []),
                            ("flip", ["NERP.ON_BASE", "True", "NERP.TAU", "-99"])):
        printed = demo(nerp, tmp_path, *SHORT, *arguments)
        _, table, _ = nerp("table", tmp_path / "out", "--format", "csv")
        for line in csv.DictReader(io.StringIO(table)):
            name, nerp_suffix, _ = line["method"].partition("_NeRP")
            row = name.replace("ZeroshotCLIP", "zero-shot CLIP"), rule if nerp_suffix else ""
            assert f"{float(line['mean']):.2f}" in printed_rows(printed)[row], line
    assert "test MMRL_NeRP on base classes" in printed


def test_rows_are_means_over_seeds_and_h_is_each_seeds_own():
    flips = [{"flips": 3, "helped": 2, "hurt": 1, "neutral": 0},
             {"flips": 2, "helped": 0, "hurt": 1, "neutral": 1}]
    row = Row("X + NeRP", [80.0, 60.0], [40.0, 60.0], flips)
    h = [2 * 80 * 40 / 120, 60.0]
    last = table([row]).splitlines()[-1]
    assert "70.00 ± 10.00" in last and "50.00 ± 10.00" in last
    assert f"{np.mean(h):.2f} ± {np.std(h):.2f}" in last
    assert "5 (2/2/1)" in last


def test_a_table_of_any_method_over_several_seeds_fits_80_columns():
    flips = [{"flips": 1340, "helped": 466, "hurt": 498, "neutral": 376}]
    wide = Row("+ NeRP, released", [77.38 - 1.77, 77.38 + 1.77], [40.07, 66.15], flips)
    assert max(map(len, table([wide]).splitlines())) <= 80


def test_a_benchmark_that_is_not_drawn_is_refused(nerp, tmp_path):
    status, _, error = nerp("demo", "--dataset", "eurosat", "--root", tmp_path)
    assert status == 1 and "demo_landcover" in error
