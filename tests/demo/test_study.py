"""The study of NeRP where class frequencies are known: its numbers, and the page made of them."""

import re

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from nerp.demo import study, world
from nerp.demo.study import ORACLE, Settings, run_study
from nerp.demo.study_report import write_report

GAINS = [f"{source}/{thresholds}" for thresholds in ("default", "calibrated")
         for source in ("text", "reference", "unlabelled", "labels")]


def test_the_oracle_finds_the_multiple_that_was_added():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat(50)
    log_frequency = torch.tensor([0.0, -1.0, -2.0, -3.0])
    logits = 2.0 * torch.nn.functional.one_hot(labels, 4)
    logits = logits + 0.2 * torch.randn(200, 4, generator=generator) + 1.5 * log_frequency
    plain = 100 * float((logits.argmax(1) == labels).double().mean())
    found = study._oracle(logits, labels, log_frequency, plain)
    assert found["gain"] == pytest.approx(100 - plain) and plain < 80
    assert 0.8 <= found["multiple"] <= 2.2 and len(found["curve"]) == len(ORACLE)
    assert found["curve"][0] == 0 and found["caveat"] == "upper bound"


@pytest.fixture
def records(monkeypatch, tmp_path):
    """Of a study of two methods on a small benchmark, and how to repeat it."""
    monkeypatch.setattr(world, "IMAGES_PER_CLASS", {"train": 16, "val": 4, "test": 6})
    settings = Settings(
        backbones=("tiny-biased",), datasets=("demo_landcover",), methods=("ZeroshotCLIP", "MMA"),
        seeds=(1, 2), root=str(tmp_path / "data"), output=str(tmp_path / "out"),
    )
    return run_study(settings, tell=lambda line: None), settings


def test_each_model_is_measured_and_a_second_call_measures_nothing(records, monkeypatch, tmp_path):
    records, settings = records
    assert [(r["method"], r["seed"]) for r in records] == [
        ("ZeroshotCLIP", 1), ("MMA", 1), ("MMA", 2)
    ]
    for record in records:
        assert list(record["gains"]) == [f"{s}/{t}" for s in study.SOURCES
                                         for t in study.THRESHOLDS]
        assert record["gains"]["text/default"]["looked_at"] == "nothing"
        assert record["gains"]["unlabelled/default"]["caveat"] == "transductive"
        assert record["gains"]["labels/calibrated"]["caveat"] == "upper bound"
        assert record["oracle"]["gain"] == max(record["oracle"]["curve"]) >= 0
        # 30 test images: every change is a whole number of them.
        gain = record["gains"]["text/default"]["gain"]
        assert_allclose(gain * 30 / 100, round(gain * 30 / 100), atol=1e-9)
    monkeypatch.setattr(study, "measure", None)
    assert run_study(settings, tell=lambda line: None) == records


def fake(backbone, method, seed, gain):
    """A record in which text pairs gain `gain` points and the rest stands still."""
    still = {c: {"gain": 0.0, "flips": 0, "caveat": _caveat(c)} for c in GAINS}
    return {
        "identity": "", "backbone": backbone, "dataset": "demo_landcover", "method": method,
        "seed": seed, "classes": 5, "accuracy": 70.0, "shuffled": -1.0,
        "frequency": {"over-prediction": 0.5, "text": 0.25, "image": None, "sum": 0.75},
        "over_prediction": {"text": 0.5, "image": None, "sum": 0.25},
        "asymmetry": {"measured": 0.6, "chance": 0.2},
        "gains": {**still, "text/default": {"gain": gain, "flips": 3, "caveat": ""}},
        "oracle": {"gain": 2.0, "multiple": 1.0, "caveat": "upper bound", "curve": []},
    }


def _caveat(choice):
    return {"unlabelled": "transductive", "labels": "upper bound"}.get(choice.split("/")[0], "")


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ((2.0, 2.2, 2.4), r"gains \(\+2\.20 ± 0\.12 points; better in 3 of 3 models\)"),
        ((-2.0, -2.2, -2.4), r"loses \(-2\.20 ± 0\.12 points; better in 0 of 3 models\)"),
        ((1.0, -1.0, 0.5), r"shows no clear change \(\+0\.17 ± 0\.60 points; better in 2 of 3"),
    ],
)
def test_the_page_says_what_was_found_whichever_way_it_goes(gains, verdict, tmp_path):
    records = [fake("tiny", "MMRL", seed, gain) for seed, gain in enumerate(gains, 1)]
    page = write_report(records, tmp_path, "nerp study --seeds 1 2 3").read_text()
    assert re.search(rf"`tiny`: NeRP with text pairs and default thresholds {verdict}", page)
    assert "`nerp study --seeds 1 2 3`: 3 models, 3 seeds" in page
    assert "frequency and over-prediction correlate at +0.50" in page
    assert "one-sided to 0.60, by chance it would be to 0.20" in page
    (row,) = (line for line in page.splitlines() if line.startswith("| MMRL"))
    assert f"{np.mean(gains):+.2f} ± " in row and "-1.00 ± 0.00" in row
    header = next(line for line in page.splitlines() if "text, default" in line)
    assert "unlabelled, default†" in header and "labels, default‡" in header
    assert "Nothing here is evidence about CLIP" in page
    assert {p.name for p in tmp_path.iterdir()} == {
        "README.md", "gains.png", "gains.svg", "links.png", "links.svg"
    }
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    write_report(records, tmp_path, "nerp study --seeds 1 2 3")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before, "not reproducible"


def test_the_command_writes_the_page(nerp, monkeypatch, tmp_path):
    asked = []

    def run(settings, tell):
        asked.append(settings)
        return [fake("tiny", "MMRL", 1, 1.0)]

    monkeypatch.setattr(study, "run_study", run)
    data, out, page = (tmp_path / name for name in ("data", "out", "page"))
    status, text, error = nerp("study", "--seeds", "1", "--datasets", "demo_textures", "--page",
                               page, "--output-dir", out, "--root", data)
    assert status == 0, error
    assert asked == [
        Settings(datasets=("demo_textures",), seeds=(1,), output=str(out), root=str(data))
    ]
    assert text.strip() == str(page / "README.md")
    assert "`nerp study --datasets demo_textures --seeds 1`" in (page / "README.md").read_text()
