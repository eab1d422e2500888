"""The study of NeRP where class frequencies are known: its numbers, and the page made of them."""

import re

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from nerp.demo import study, world
from nerp.demo.study import CORRECTIONS, Settings, run_study
from nerp.demo.study_report import write_report


def skewed(images=400, classes=4, seed=0):
    """Logits that prefer the classes by their frequency, the labels, and log frequency."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(images // classes)
    log_frequency = -torch.arange(classes).float()
    logits = 2.0 * torch.nn.functional.one_hot(labels, classes)
    noise = 0.2 * torch.randn(len(labels), classes, generator=generator)
    return logits + noise + 1.5 * log_frequency, labels, log_frequency


def accuracy(logits, labels):
    return 100 * float((logits.argmax(1) == labels).double().mean())


def test_the_oracle_finds_the_multiple_that_was_added():
    logits, labels, log_frequency = skewed()
    plain = accuracy(logits, labels)
    found = study._oracle(logits, labels, log_frequency)
    assert found["gain"] == pytest.approx(100 - plain) and plain < 80
    assert 0.8 <= found["multiple"] <= 2.2 and found["caveat"] == "upper bound"


def test_no_bias_gains_more_than_the_ceiling():
    logits, labels, log_frequency = skewed()
    assert study.ceiling(logits, labels) == pytest.approx(100 - accuracy(logits, labels))
    noise = torch.randn(300, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(5).repeat(60)
    top = study.ceiling(noise, labels)
    generator = torch.Generator().manual_seed(2)
    tried = [accuracy(noise - 0.5 * torch.randn(5, generator=generator), labels)
             for _ in range(300)]
    assert top >= max(tried) - accuracy(noise, labels) and top >= 0


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
        assert list(record["gains"]) == ["ceiling", *CORRECTIONS]
        assert list(record["base"]["gains"]) == ["ceiling", *study.RULES_TRIED]
        gains = record["gains"]
        assert gains["shift"]["looked_at"] == "training labels"
        assert gains["released rule"]["looked_at"] == "training images"
        assert gains["match"]["caveat"] == "transductive"
        assert gains["ceiling"]["caveat"] == "upper bound"
        assert gains["ceiling"]["gain"] >= max(0, *(gains[n]["gain"] for n in ("shift", "match")))
        assert set(record["strengths"]) == {"gap", "image", "matched"}
        assert set(record["links"]) == {"frequency", *study.ALL_REFERENCES}
        # 30 test images: every change is a whole number of them.
        gain = gains["shift"]["gain"]
        assert_allclose(gain * 30 / 100, round(gain * 30 / 100), atol=1e-9)
    monkeypatch.setattr(study, "measure", None)
    assert run_study(settings, tell=lambda line: None) == records


def test_another_seed_draws_another_world_beside(monkeypatch, tmp_path):
    monkeypatch.setattr(world, "IMAGES_PER_CLASS", {"train": 16, "val": 4, "test": 2})
    monkeypatch.setattr(study, "measure", lambda tested, backbone: {})
    monkeypatch.setattr(study, "_gains", lambda tested, material, tried: {})
    for seed in (None, 5):
        run_study(Settings(backbones=("tiny",), datasets=("demo_landcover",), seeds=(1,),
                           methods=("ZeroshotCLIP",), root=str(tmp_path / "data"),
                           output=str(tmp_path / "out"), world_seed=seed), tell=lambda line: None)
    images = [tmp_path / "data" / place / "demo_landcover/images/River/River_1.jpg"
              for place in (".", "world5")]
    assert images[0].read_bytes() != images[1].read_bytes()
    assert len(list((tmp_path / "out").rglob("study.json"))) == 2


def fake(backbone, method, seed, gain):
    """A record in which the shift gains `gain` points and the rest stands still."""
    caveats = {"ceiling": "upper bound", "match": "transductive"}
    still = {name: {"gain": 0.0, "flips": 0, "caveat": caveats.get(name, "")}
             for name in ("ceiling", *CORRECTIONS)}
    gains = {**still, "ceiling": {**still["ceiling"], "gain": 4.0},
             "shift": {"gain": gain, "flips": 3, "caveat": ""}}
    link = {"bias": 0.5, "frequency": None, "slope": 0.25}
    return {
        "identity": "", "backbone": backbone, "dataset": "demo_landcover", "method": method,
        "strengths": {"gap": 0.5, "image": 0.05},
        "seed": seed, "classes": 5, "accuracy": 70.0, "shuffled": -1.0, "gains": gains,
        "base": {"accuracy": 80.0, "gains": gains},
        "oracle": {"gain": 2.0, "multiple": 1.0, "caveat": "upper bound"},
        "links": {"frequency": {"bias": 0.25, "over-prediction": 0.5},
                  **dict.fromkeys(study.ALL_REFERENCES, link)},
        "asymmetry": {"measured": 0.6, "chance": 0.2, "after": 0.4},
    }


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
    assert re.search(rf"The automatic shift\.\*\* `tiny`: it {verdict}", page)
    share = f"{100 * np.mean(gains) / 4:.0f} % of +4.00‡; match gains +0.00†"
    assert share in page and f"it makes {sum(g < -0.5 for g in gains)} models worse" in page
    assert len(re.findall(r"^- \*\*", page, re.MULTILINE)) == 5
    assert "`nerp study --seeds 1 2 3`: 3 models, 3 seeds" in page
    assert "`tiny`: gap +0.50" in page and "log frequency +0.25" in page
    assert "The shift on this page uses these references: gap, image." in page
    novel, base, alone = (line for line in page.splitlines() if line.startswith("| MMRL"))
    assert f"{np.mean(gains):+.2f} ± " in novel and "-1.00 ± 0.00" in novel and "70.0" in novel
    assert "80.0" in base and "+2.00 ± 0.00" in alone
    header = next(line for line in page.splitlines() if "released rule" in line and "|" in line)
    assert "oracle‡" in header and "match†" in header and "shift‡" not in header
    assert "Nothing here is evidence about CLIP" in page
    assert {p.name for p in tmp_path.iterdir()} == {
        "README.md", "gains.png", "gains.svg", "links.png", "links.svg"
    }
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    write_report(records, tmp_path, "nerp study --seeds 1 2 3")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before, "not reproducible"


def test_a_method_that_is_none_of_the_defaults_has_its_row(tmp_path):
    page = write_report([fake("tiny", "CoOp_SAR", 1, 1.0)], tmp_path, "nerp study").read_text()
    assert "\n| CoOp_SAR " in page


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
