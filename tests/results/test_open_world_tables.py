"""Tables and figures of open-world tests, and of confidence, from records made by hand."""

import csv
import io

import pytest
from recorded import row, tables, write

from nerp.base.errors import NerpError
from nerp.engine.measures import METRICS
from nerp.results import render
from nerp.results.grid import split
from nerp.results.plots import figures
from nerp.results.records import collect
from nerp.results.tables import AVERAGE, build_tables

CONFIDENCE = {"ece": 5.0, "adaptive_ece": 5.5, "mce": 20.0, "nll": 1.2, "brier": 0.5, "bins": 15}


def write_open(folder, trainer, dataset, seed, *, shift=0.0, stands_for=("base", "new"), **more):
    """An open test: 80 and 70 alone, 60 and 40 in the open, all plus `shift`."""
    halves = {half: {**CONFIDENCE, "ece": value} for half, value in (("base", 3.0), ("novel", 9.0))}
    for numbers in halves.values():
        del numbers["bins"]
    return write(folder, trainer, dataset, "all", seed, 50.0 + shift, task="OW", **{
        **CONFIDENCE, "base": 60.0 + shift, "novel": 40.0 + shift, "h": 48.0,
        "base_alone": 80.0 + shift, "novel_alone": 70.0 + shift, "auroc": 88.0,
        "openworld_auc": 45.0, "alone": halves,
        "open_world": {"base_classes": ["Forest"], "predicted_as": "novel",
                       "stands_for": list(stands_for)}, **more})


@pytest.fixture
def output(tmp_path):
    for dataset in ("EuroSAT", "UCF101"):
        for seed in (1, 2):
            write_open(tmp_path, "CoOp", dataset, seed, shift=seed)
            write_open(tmp_path, "CoOp_NeRP", dataset, seed, shift=5, stands_for=(),
                       looked_at="training labels", on_base=True)
    return tmp_path


def test_closed_and_open_stand_side_by_side(output):
    closed, opened = tables(output)
    assert (closed.title, opened.title) == ("Base-to-novel, 16 shots", "Open world, 16 shots")
    cells = row(opened, "CoOp").cells
    assert cells["EuroSAT halves alone", "Base"].mean == 81.5
    assert cells["EuroSAT open", "Base"].mean == 61.5
    assert cells["EuroSAT open", "Accuracy"].mean == 51.5
    assert cells["EuroSAT open", "AUROC"].mean == 88
    assert cells["EuroSAT open", "OpenworldAUC"].mean == 45
    assert cells[f"{AVERAGE} open", "H"].mean == pytest.approx(2 * 61.5 * 41.5 / 103)
    assert cells[f"{AVERAGE} halves alone", "H"].mean == pytest.approx(2 * 81.5 * 71.5 / 153)
    assert len(opened.columns) == 3 * 9


def test_one_open_test_fills_the_base_to_novel_columns_and_is_marked(output):
    closed, _ = tables(output)
    assert [each.label for each in closed.rows] == ["CoOp"]  # a correction depends on all classes
    cells = row(closed, "CoOp").cells
    assert (cells["EuroSAT", "Base"].mean, cells["EuroSAT", "Base"].marks) == (81.5, "°")
    assert cells["EuroSAT", "H"].marks == "°"
    assert any(note.startswith("° taken from the open-world test") for note in closed.notes)


def test_a_test_of_its_own_counts_before_the_open_one(output):
    write(output, "CoOp", "EuroSAT", "base", 1, 90.0)
    write(output, "CoOp", "EuroSAT", "base", 2, 92.0, kind="train")
    closed, _ = tables(output)
    cell = row(closed, "CoOp").cells["EuroSAT", "Base"]
    assert (cell.mean, cell.marks) == (91.0, "")


def test_the_half_that_a_method_predicts_otherwise_is_not_taken(tmp_path):
    write_open(tmp_path, "MMRL", "EuroSAT", 1, stands_for=["new"])
    write(tmp_path, "MMRL", "EuroSAT", "base", 1, 85.0, kind="train")
    closed, _ = tables(tmp_path)
    cells = row(closed, "MMRL").cells
    assert (cells["EuroSAT", "Base"].mean, cells["EuroSAT", "Base"].marks) == (85.0, "")
    assert (cells["EuroSAT", "Novel"].mean, cells["EuroSAT", "Novel"].marks) == (70.0, "°")


def test_numbers_that_are_only_taken_still_compete_for_the_best(output):
    write(output, "MMRL", "EuroSAT", "base", 1, 10.0)
    write(output, "MMRL", "EuroSAT", "base", 2, 10.0)
    text = render.markdown(tables(output)[:1])
    assert "**81.50 ± 0.50°**" in text


def test_base_novel_and_open_errors_side_by_side(output):
    closed, opened = build_tables(collect([output], "ece"))
    assert row(closed, "CoOp").cells["EuroSAT", "Novel"].mean == 9
    assert ("EuroSAT", "H") not in closed.columns
    assert [opened.columns[i] for i in range(3, 6)] == [
        ("EuroSAT halves alone", "Base"), ("EuroSAT halves alone", "Novel"), ("EuroSAT open", "")]
    cells = row(opened, "CoOp").cells
    assert [cells["EuroSAT halves alone", part].mean for part in ("Base", "Novel")] == [3, 9]
    assert cells["EuroSAT open", ""].mean == 5
    assert "15 bins of equal width" in opened.notes[0] and "Less is better." in opened.notes


def test_the_least_error_is_the_best(tmp_path):
    write(tmp_path, "CoOp", "EuroSAT", "new", 1, 50.0, **CONFIDENCE)
    write(tmp_path, "MMRL", "EuroSAT", "new", 1, 50.0, **{**CONFIDENCE, "ece": 2.0})
    text = render.markdown(build_tables(collect([tmp_path], "ece")))
    assert "**2.00**" in text and "**5.00**" not in text


def test_calibrated_rows_stand_apart_and_say_what_was_looked_at(tmp_path):
    write(tmp_path / "a", "CoOp", "EuroSAT", "new", 1, 50.0, **CONFIDENCE)
    for name, looked_at in (("dac", "nothing"), ("temperature", "training labels")):
        write(tmp_path / name, "CoOp", "EuroSAT", "new", 1, 50.0, **CONFIDENCE, calibration={
            "name": name, "looked_at": looked_at, "note": "x"})
    (table,) = build_tables(collect([tmp_path], "ece"))
    assert [each.label for each in table.rows] == ["CoOp", "CoOp + dac", "CoOp + temperature"]
    assert "Calibrated: dac (looked at nothing); temperature (looked at training labels)." \
        in table.notes


def test_the_csv_says_what_the_mark_means(output):
    lines = list(csv.DictReader(io.StringIO(render.comma_separated(tables(output)))))
    assert {line["marks"] for line in lines if line["table"].startswith("Base")} == {"open"}


def test_a_missing_seed_is_one_line_not_nine(output):
    write_open(output, "MMRL", "EuroSAT", 1)
    notes = " ".join(tables(output)[1].notes)
    assert notes.count("MMRL EuroSAT (seed 2)") == 1


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_has_tables(metric, output):
    for run in output.rglob("result.json"):
        run.write_text(run.read_text().replace('"accuracy"', '"macro_f1": 44.0, "accuracy"', 1))
    assert build_tables(collect([output], metric))


def test_a_record_without_the_metric_is_named(tmp_path):
    write(tmp_path, "CoOp", "EuroSAT", "new", 1, 50.0)
    with pytest.raises(NerpError, match="result.json: the record has no ece"):
        collect([tmp_path], "ece")


def test_published_numbers_are_accuracies(nerp, output):
    status, _, error = nerp("table", output, "--metric", "ece", "--against", "published")
    assert status == 1 and "leave out --metric ece" in error


@pytest.mark.parametrize("damage", [
    {"auroc": 101}, {"brier": -1}, {"open_world": {"base_classes": [3]}}, {"alone": {"base": 3}},
    {"alone": {"base": {"ece": "x"}}}, {"calibration": {"name": "dac"}},
])
def test_a_damaged_open_record_is_refused(damage, tmp_path):
    write_open(tmp_path, "CoOp", "EuroSAT", 1, **damage)
    with pytest.raises(NerpError, match="not a run's record"):
        collect([tmp_path])


def test_an_arrow_goes_from_closed_to_open(output):
    drawn = figures(split(collect([output]), (), False))
    assert {"open_world_16_shots_arrows", "open_world_16_shots_nerp_gain"} <= drawn.keys()
    _, eurosat, _ = drawn["open_world_16_shots_arrows"].axes
    arrow = eurosat.texts[0]
    assert (arrow.xyann, arrow.xy) == ((81.5, 71.5), (61.5, 41.5))
    assert len([text for text in eurosat.texts if text.arrow_patch]) == 2
