"""docs/extending.md: every block runs as it stands, in its order."""

import json
import os
import shlex
import subprocess
import sys

import pytest
import torch
import yaml
from conftest import NEUTRAL, eurosat_classes, golden_config
from data.made import write
from scripts.test_docs import blocks

import nerp
from nerp.base import plugins
from nerp.base.errors import NerpError
from nerp.base.registry import LAYOUTS, PAIR_SOURCES, REFERENCES, TRAINERS
from nerp.correction.references import Probe
from nerp.data.benchmark import open_benchmark
from nerp.demo import world
from nerp.settings.cards import open_card

PAGE = "docs/extending.md"
METHOD, SOURCE, REFERENCE, LAYOUT, BACKBONE, PYTHON = blocks(PAGE, "python")


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """An empty folder to work in; what is registered in it goes with the test."""
    for registry in (TRAINERS, PAIR_SOURCES, REFERENCES, LAYOUTS):
        registry.names()
        for table in ("_entries", "_canonical"):
            monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    monkeypatch.setattr(plugins, "_imported", set())
    for module in ("mine", "broken"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(world, "IMAGES_PER_CLASS", {"train": 8, "val": 2, "test": 2})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_method_and_its_yaml_get_to_the_table_with_no_row_anywhere(nerp, own):
    assert len(METHOD.splitlines()) <= 35
    (own / "mine.py").write_text(METHOD)
    (own / "mine.yaml").write_text(blocks(PAGE, "yaml")[0])
    sweep, table = blocks(PAGE, "bash")[0].replace("\\\n", "").splitlines()
    words = shlex.split(sweep)[1:]
    words[words.index("mine")] = "mine.py"
    status, out, error = nerp(*words, "--dry-run")
    assert status == 0, error
    lines = out.splitlines()
    assert any("train --root data --seed 1 --trainer Mine " in line for line in lines)
    for line in lines:
        assert nerp(*shlex.split(line)[1:])[0] == 0, line
    status, out, _ = nerp(*shlex.split(table)[1:])
    rows = [line.split()[0] for line in out.splitlines() if line]
    assert status == 0 and "Mine" in rows and "Mine_NeRP" in rows and "ZeroshotCLIP" in rows
    assert yaml.safe_load((own / "mine.yaml").read_text())["OPTIM"]["MAX_EPOCH"] == 2


def test_a_method_without_a_configuration_is_told_how_to_name_one(nerp, own):
    (own / "mine.py").write_text(METHOD)
    status, _, error = nerp("sweep", "--import", "mine.py", "--protocol", "B2N", "--methods",
                            "Mine", "--datasets", "eurosat", "--dry-run")
    assert status == 1 and "--config Mine=FILE.yaml" in error


def test_a_pair_source(own):
    exec(SOURCE, {})
    from nerp.correction.pairs import Clues

    clues = Clues.__new__(Clues)
    object.__setattr__(clues, "classnames", ["owl", "osprey", "crow"])
    scores = PAIR_SOURCES["initials"](clues)
    assert scores.matrix.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_a_neutral_reference(own, golden_clip, inputs):
    exec(REFERENCE, {})
    trainer = TRAINERS["CoOp"](golden_config(), golden_clip, eurosat_classes("new"))
    with torch.no_grad():
        prior = REFERENCES["grey"](Probe(trainer, golden_config().NERP, lambda: inputs[0][:1]))
    assert prior.values.shape == (5,) and prior.looked_at == "nothing" and NEUTRAL


def test_a_layout(own):
    exec(LAYOUT, {})
    for name in ("train_owl_1", "train_crow_1", "test_owl_2"):
        write(own / "data" / "birds" / f"{name}.jpg")
    card = write(own / "birds.yaml", json.dumps({"DATASET": {
        "NAME": "Birds", "DIRECTORY": "birds", "LAYOUT": "by_file_name"}}))
    bench = open_benchmark(open_card(card, "data"))
    assert bench.classnames == ["crow", "owl"] and bench.test == [("test_owl_2.jpg", 1, "owl")]


def test_a_backbone():
    exec(BACKBONE, {})


def test_from_python(own, capsys):
    exec(PYTHON, found := {})
    assert "flips" in capsys.readouterr().out
    trained, novel = found["trained"], found["novel"]
    assert trained.accuracy == trained.record["accuracy"] and trained.path.is_dir()
    right = (novel.predictions == novel.labels).mean()
    assert novel.accuracy == pytest.approx(100 * right)
    assert set(novel.priors) >= {"text", "image"} and novel.looked_at
    options = {"MODEL.BACKBONE.NAME": "tiny", "OPTIM.MAX_EPOCH": 1}
    common = {"classes": "new", "shots": 1, "options": options,
              "config": "configs/trainers/CoOp/tiny.yaml"}
    plain = nerp.test("CoOp", "demo_landcover", trained, **common)
    assert (plain.logits == novel.logits).all() and not hasattr(plain, "flips")
    seen = nerp.features("coop.npz", "CoOp", "demo_landcover", trained, **common)
    logits = torch.tensor(plain.logits)
    cosines = torch.tensor(seen.image @ seen.text.T)
    assert (cosines.argmax(1) == logits.argmax(1)).float().mean() > 0.9
    assert capsys.readouterr().out == ""  # silent unless asked
    with pytest.raises(NerpError, match="unknown trainer 'CoPo'"):
        nerp.train("CoPo", "demo_landcover")


@pytest.mark.parametrize("content, reason", [
    ("import nothing_of_that_name", "ModuleNotFoundError"), ("1 / 0", "ZeroDivisionError"),
    (METHOD.replace('"Mine"', '"CoOp"', 1), "registered twice"),
])
def test_a_module_that_fails_is_one_line_with_its_name(content, reason, nerp, own):
    (own / "broken.py").write_text(content)
    status, _, error = nerp("methods", "--import", "broken.py")
    assert status == 1 and error.count("\n") == 1
    assert "--import broken.py: it cannot be imported" in error and reason in error


def test_the_variable_names_modules_too(nerp, own, monkeypatch):
    (own / "mine.py").write_text(METHOD)
    monkeypatch.setenv("NERP_IMPORT", "mine.py")
    status, out, error = nerp("methods", "--backbone", "tiny")
    assert status == 0 and "Mine " in out, error


def test_an_installed_package_names_its_module(own, monkeypatch):
    (own / "mine.py").write_text(METHOD)
    info = own / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text(blocks(PAGE, "toml")[0].replace(
        '[project.entry-points."nerp.trainers"]', "[nerp.trainers]").replace('"', ""))
    monkeypatch.syspath_prepend(str(own))
    plugins.load_installed.cache_clear()
    try:
        assert "Mine" in TRAINERS.names()
    finally:
        plugins.load_installed.cache_clear()


def test_a_method_that_was_edited_is_another_run_and_its_logits_are_computed_anew(nerp, own):
    (own / "mine.py").write_text(METHOD)
    line = ["--import", "mine.py", "--trainer", "Mine", "--dataset", "demo_landcover",
            "DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "1", "MODEL.BACKBONE.NAME", "tiny"]
    assert nerp("train", "--output-dir", "trained", *line)[0] == 0
    code = TRAINERS.code("Mine")
    assert code and not TRAINERS.code("CoOp")
    assert code == TRAINERS.code("Mine_SAR") and not TRAINERS.code("CoOp_SAR")
    (own / "mine.py").write_text(METHOD.replace("SCALE *", "SCALE * 3 *"))
    assert TRAINERS.code("Mine") != code
    status, _, error = nerp("train", "--output-dir", "trained", *line)
    assert status == 1 and "Mine: its code" in error and "--overwrite" in error
    status, out, error = nerp("test", "--model-dir", "trained", "--output-dir", "tested", *line)
    assert status == 0 and "logits from" not in out, error


def test_a_cell_that_is_run_again_replaces_what_it_registered(own):
    exec(METHOD, {"__name__": "cell"})
    first = TRAINERS["Mine"]
    exec(METHOD, {"__name__": "cell"})
    assert TRAINERS["Mine"] is not first
    with pytest.raises(ValueError, match="registered twice"):
        exec(METHOD, {"__name__": "another"})


def test_a_module_is_imported_once_by_whichever_name(own, monkeypatch):
    (own / "mine.py").write_text(METHOD)
    monkeypatch.syspath_prepend(str(own))
    plugins.import_modules(["mine", "mine.py", "./mine.py"])
    (own / "json.py").write_text("")
    with pytest.raises(NerpError, match="another module is called json"):
        plugins.import_modules(["json.py"])


@pytest.mark.slow
def test_the_types_of_the_python_interface_are_there_for_a_script_of_ones_own(own):
    (own / "use.py").write_text(PYTHON)
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "use.py"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_file_that_is_edited_twice_in_a_second_is_read_as_it_is(tmp_path, monkeypatch):
    file = tmp_path / "edited_twice.py"
    for number in (1, 2):
        file.write_text(f"EDITION = {number}\n")
        os.utime(file, (10**9, 10**9))
        monkeypatch.setattr(plugins, "_imported", set())
        plugins.import_modules([str(file)])
        assert number == sys.modules.pop("edited_twice").EDITION
