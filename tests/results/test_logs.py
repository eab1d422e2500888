"""Published log.txt files stand beside our own runs."""

import pytest
from recorded import write

from nerp.base.errors import NerpError
from nerp.results.grid import split
from nerp.results.plots import figures
from nerp.results.records import LOG, collect
from nerp.results.render import terminal
from nerp.results.tables import build_tables

CONFIG = """\
***************
** Arguments **
***************
config_file: configs/trainers/CoOp/vit_b16.yaml
model_dir: {model}
************
** Config **
************
DATALOADER:
  K_TRANSFORMS: 1
DATASET:
  NAME: {dataset}
  NUM_SHOTS: 16
  SUBSAMPLE_CLASSES: {classes}
MODEL:
  BACKBONE:
    NAME: ViT-B/16
SEED: {seed}
TRAINER:
  COOP:
    N_CTX: 16
  NAME: CoOp
"""
RESULT = ("=> result\n* total: 4,200\n* correct: 3,800\n* accuracy: {}%\n* error: 1.0%\n"
          "* macro_f1: 1.5%\n")


def log(folder, accuracy, dataset="EuroSAT", classes="base", seed=1, model=""):
    folder.mkdir(parents=True)
    text = CONFIG.format(dataset=dataset, classes=classes, seed=seed, model=model)
    (folder / "log.txt").write_text(text + RESULT.format("3.0") + RESULT.format(accuracy))
    return folder


def test_logs_become_records_of_the_protocol_that_they_are_of(tmp_path):
    log(tmp_path / "base", "91.2")
    log(tmp_path / "new", "60.4", classes="new", model="output/base2new/eurosat")
    log(tmp_path / "few", "80.0", classes="all")
    log(tmp_path / "cross", "48.1", "DescribableTextures", "all", model="output/imagenet/CoOp")
    found = {record.path.parent.name: record for record in collect([tmp_path])}
    assert {name: (r.kind, r.protocol, r.number, r.classes) for name, r in found.items()} == {
        "base": (LOG, "base_to_novel", 91.2, "base"), "new": (LOG, "base_to_novel", 60.4, "new"),
        "few": (LOG, "few_shot", 80.0, "all"), "cross": (LOG, "cross_dataset", 48.1, "all"),
    }
    (table,) = build_tables(collect([tmp_path]), protocols=["base_to_novel"])
    text = terminal([table], 100)
    assert "91.20" in text and "from the log.txt of a published run" in text


def test_logs_stand_beside_our_own_runs_in_tables_and_figures(tmp_path):
    for seed in (1, 2):
        log(tmp_path / f"base{seed}", "91.2", seed=seed)
        log(tmp_path / f"new{seed}", "60.4", classes="new", seed=seed, model="output/x")
        for part, accuracy in (("base", 90.0), ("new", 70.0)):
            write(tmp_path / "ours", "MMRL", "EuroSAT", part, seed, accuracy)
    records = collect([tmp_path])
    (table,) = build_tables(records)
    assert [row.label for row in table.rows] == ["CoOp", "MMRL"]
    drawn = figures(split(records, [], False))
    (figure,) = [figure for name, figure in drawn.items() if name.endswith("scatter")]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["CoOp◊", "MMRL"]
    assert "from the log.txt of a published run" in figure.get_supxlabel()


def test_logs_without_a_result_or_beside_a_record_are_none(tmp_path):
    (log(tmp_path / "a", "1.0") / "log.txt").write_text(CONFIG)
    with pytest.raises(NerpError, match="no finished run"):
        collect([tmp_path])
    log(tmp_path / "b", "1.0")
    assert collect([tmp_path], "macro_f1")[0].number == 1.5
    with pytest.raises(NerpError, match="no finished run"):
        collect([tmp_path], "ece")


def test_a_log_that_does_not_say_what_was_run_is_named(tmp_path):
    file = log(tmp_path / "a", "1.0") / "log.txt"
    file.write_text(file.read_text().replace("  NAME: CoOp\n", ""))
    with pytest.raises(NerpError, match="log.txt: a log that does not say its TRAINER.NAME"):
        collect([tmp_path])
