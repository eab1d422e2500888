"""Several backbones: where their runs lie, what they are run with, and one table of all."""

import json
from dataclasses import replace

import pytest
from conftest import write_eurosat
from test_plan import parsed
from test_sweep import STUB

from nerp.base.errors import NerpError
from nerp.base.paths import shipped
from nerp.experiments.plan import plan, shared_epochs
from nerp.experiments.selection import Selection
from nerp.experiments.sweep import Sweep
from nerp.experiments.workers import Local
from nerp.results.layout import arranged
from nerp.results.records import collect
from nerp.results.render import terminal
from nerp.results.tables import build_tables
from nerp.settings.backbones import BACKBONE_KEY, backbone_in, folder_of
from nerp.settings.cards import find_card
from nerp.settings.catalogue import config_name
from nerp.settings.protocols import run_dir
from nerp.settings.resolve import Request, backbone_said_by, resolve

THREE = ("ViT-B/16", "ViT-B/32", "ViT-L/14")
PLACE = {"task": "B2N", "phase": "test", "classes": "new", "dataset": "eurosat", "shots": 16,
         "trainer": "CoOp", "config": "vit_b16", "seed": 1}


def test_the_default_backbone_changes_no_path_and_another_is_a_level():
    plain = run_dir("output", **PLACE)
    assert plain.as_posix() == "output/base2new/test_new/eurosat/shots_16/CoOp/vit_b16/seed1"
    assert run_dir("output", **PLACE, backbone="ViT-B/16") == plain
    other = run_dir("output", **PLACE, backbone="ViT-B/32")
    assert other.as_posix().endswith("shots_16/CoOp/ViT-B-32/vit_b16/seed1")
    drawn = run_dir("output", **{**PLACE, "config": "tiny"}, backbone="tiny")
    assert drawn.as_posix().endswith("CoOp/tiny/seed1")  # called alike: one level says it


@pytest.mark.parametrize("name", ["../../x", "hf-hub:a/../b", "..", "a b:c"])
def test_no_name_of_a_backbone_leads_elsewhere(name):
    assert "/" not in folder_of(name) and folder_of(name).strip(".")


def test_a_run_that_lies_where_it_did_before_is_found_there(tmp_path):
    former = run_dir(tmp_path, **PLACE)
    former.mkdir(parents=True)
    (former / "config.yaml").write_text(
        "INPUT:\n  SIZE: 1\nMODEL:\n  BACKBONE:\n    ACTIVATION: auto\n    NAME: ViT-B/32\n"
        "    PATH: \'\'\n")
    assert backbone_in(former / "config.yaml") == "ViT-B/32"
    assert run_dir(tmp_path, **PLACE, backbone="ViT-B/32") == former
    other = run_dir(tmp_path, **PLACE, backbone="RN50")
    assert other != former
    own = former.parents[1] / "ViT-B-32" / "vit_b16" / "seed1"
    own.mkdir(parents=True)
    assert run_dir(tmp_path, **PLACE, backbone="ViT-B/32") == own


def test_the_kept_configuration_of_a_run_says_its_backbone(tmp_path):
    file = tmp_path / "config.yaml"
    for name in ("ViT-B/16", "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"):
        cfg = resolve(Request("CoOp", "eurosat")).cfg.clone()
        cfg.defrost()
        cfg.MODEL.BACKBONE.NAME = name
        file.write_text(cfg.dump())
        assert backbone_in(file) == name
    file.write_text("no: configuration")
    assert backbone_in(file) == backbone_in(tmp_path / "nowhere") == ""


@pytest.mark.parametrize(("method", "task", "shots", "backbone", "config"), [
    ("CoOp", "FS", 1, "ViT-B/32", "vit_b32_ep50"),
    ("CoOp", "FS", 2, "ViT-B/32", "vit_b16_ep100"),  # none ships
    ("CoOp", "B2N", 16, "RN50", "rn50_ctxv1"),
    ("CoOp", "FS", 1, "ViT-B-32:laion2b_s34b_b79k", "vit_b32_ep50"),
    ("KgCoOp", "B2N", 16, "RN50", "rn50_ep100"),
    ("PromptSRC", "B2N", 16, "ViT-L/14", "vit_l14_c2_ep20_batch8_4+4ctx"),
    ("TipAdapter", "FS", 4, "RN50", "rn50"),
    ("MMRL", "B2N", 16, "ViT-B/16", "vit_b16"),
])
def test_the_configuration_follows_the_backbone_where_one_ships(
    method, task, shots, backbone, config
):
    assert config_name(method, task, "eurosat", shots, {BACKBONE_KEY: backbone}) == config


@pytest.mark.parametrize("file", ["CoOp/vit_b16", "CoOp/vit_b32", "BiomedCoOp/vit_b16",
                                  "MMRL/tiny", "ATO/vit_b32"])
def test_a_plan_knows_the_backbone_that_a_run_comes_to(file):
    method = shipped("configs") / "trainers" / f"{file}.yaml"
    cfg = resolve(Request(file.split("/")[0], "eurosat", config_file=str(method))).cfg
    assert backbone_said_by(find_card("eurosat"), method) == cfg.MODEL.BACKBONE.NAME


def test_a_model_is_tested_on_the_backbone_that_it_was_trained_on(tmp_path):
    (tmp_path / "config.yaml").write_text(
        resolve(Request("CoOp", "eurosat", opts=[BACKBONE_KEY, "ViT-B/32"])).cfg.dump())
    tested = resolve(Request("CoOp_NeRP", "eurosat", model_dir=str(tmp_path)), "test")
    assert tested.cfg.MODEL.BACKBONE.NAME == "ViT-B/32"
    assert "ViT-B-32" in tested.directory.parts
    assert "checkpoint" in str(tested.origin(BACKBONE_KEY))
    asked = resolve(Request("CoOp_NeRP", "eurosat", model_dir=str(tmp_path),
                            opts=[BACKBONE_KEY, "ViT-B/16"]))
    assert asked.cfg.MODEL.BACKBONE.NAME == "ViT-B/16"


def test_a_sweep_runs_everything_on_each_backbone():
    runs = plan(Selection("B2N", ("CoOp", "ZeroshotCLIP"), ("eurosat",), (1, 2), backbones=THREE))
    alone = plan(Selection("B2N", ("CoOp", "ZeroshotCLIP"), ("eurosat",), (1, 2)))
    assert len(runs) == 3 * len(alone) == len({run.directory for run in runs})
    assert {run.argv for run in alone} <= {run.argv for run in runs}  # ViT-B/16 is as ever
    for run in runs:
        args = parsed(run.command)
        named = args.options.get(BACKBONE_KEY, "ViT-B/16")
        assert folder_of(named) in ("", *run.directory.parts)
        assert all(folder_of(named) in ("", *needed.parts) for needed in run.needs)
    with pytest.raises(NerpError, match="--backbones and MODEL.BACKBONE.NAME both say"):
        plan(Selection("B2N", ("CoOp",), ("eurosat",), backbones=THREE,
                       options=(BACKBONE_KEY, "RN50")))


def test_features_are_shared_on_one_backbone_alone():
    chosen = Selection("B2N", ("CoOp", "KgCoOp"), ("eurosat",), (1, 2))
    said = shared_epochs(plan(chosen))
    assert said.startswith("4 of the trainings learn on frozen features") and "of 2 sets" in said
    said = shared_epochs(plan(replace(chosen, backbones=THREE[:2])))
    assert said.startswith("8 of the trainings learn on frozen features") and "of 4 sets" in said
    alone = replace(chosen, methods=("CoOp",), backbones=THREE[:2])
    assert shared_epochs(plan(alone)) == ""


def test_saved_logits_are_asked_for_in_tests_and_belong_to_no_fingerprint():
    chosen = Selection("B2N", ("MMRL_NeRP",), ("eurosat",), (1,))
    for run, plain in zip(plan(replace(chosen, save_logits=True)), plan(chosen), strict=True):
        assert [word for word in run.argv if word != "--save-logits"] == list(plain.argv)
        assert ("--save-logits" in run.argv) == (run.argv[0] == "test")
        parsed(run.command)  # argparse takes it where it stands


@pytest.fixture
def swept(tmp_path):
    """CoOp with and without NeRP on two backbones, by the stub."""
    write_eurosat(tmp_path / "data")
    runs = plan(Selection("B2N", ("CoOp", "CoOp_NeRP"), ("eurosat",), (1, 2),
                          backbones=THREE[:2], root=str(tmp_path / "data"),
                          output=str(tmp_path / "output")))
    assert Sweep(runs, Local(STUB, at_once=2), lambda line: None).run()
    return tmp_path / "output"


def test_two_backbones_stand_side_by_side_in_one_table(swept):
    (table,) = build_tables(collect([swept]))
    assert [(row.block, row.label) for row in table.rows] == [
        (backbone, name) for backbone in THREE[:2] for name in ("CoOp", "CoOp_NeRP")]
    text = terminal([table], 100)
    assert text.index("ViT-B/16:") < text.index("ViT-B/32:")
    below = arranged(table, backbones="rows")
    assert [row.label for row in below.rows] == [
        "CoOp (ViT-B/16)", "CoOp (ViT-B/32)", "CoOp_NeRP (ViT-B/16)", "CoOp_NeRP (ViT-B/32)"]
    beside = arranged(table, backbones="columns")
    assert [row.label for row in beside.rows] == ["CoOp", "CoOp_NeRP"]
    assert beside.columns[0][0] == "eurosat (ViT-B/16)" and len(beside.columns) == 6
    turned = arranged(table, rows="datasets", backbones="columns")
    assert {group for group, _ in turned.columns} == {row.label for row in below.rows}
    number = table.rows[2].cells["eurosat", "Novel"]
    assert beside.rows[0].cells["eurosat (ViT-B/32)", "Novel"] == number
    assert turned.rows[0].cells["CoOp (ViT-B/32)", "Novel"] == number


def test_records_without_a_backbone_are_known_by_their_configuration(swept):
    for file in swept.rglob("result.json"):
        record = json.loads(file.read_text())
        said = record.pop("backbone")
        file.write_text(json.dumps(record))
        (file.parent / "config.yaml").write_text(f"MODEL:\n  BACKBONE:\n    NAME: {said}\n")
    assert {record.backbone for record in collect([swept])} == set(THREE[:2])


def test_a_table_of_one_other_backbone_says_it(tmp_path, swept):
    (table,) = build_tables(r for r in collect([swept]) if r.backbone == "ViT-B/32")
    assert table.title == "Base-to-novel, 16 shots, ViT-B/32"
