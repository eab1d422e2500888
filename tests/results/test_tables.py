"""Tables from records: the numbers, what is missing, and the four formats."""

import csv
import io
import json
import re
from statistics import fmean, pstdev

import pytest
from recorded import BASE, NOVEL, complete, row, tables, write

from nerp.base.errors import NerpError
from nerp.results import render
from nerp.results.layout import arranged
from nerp.results.published import published, read_published
from nerp.results.records import collect
from nerp.results.tables import AVERAGE, build_tables


def harmonic(b, n):
    return 2 * b * n / (b + n)


def test_base_to_novel_numbers_are_those_of_a_hand_calculation(output):
    (table,) = tables(output)
    cells = row(table, "MMRL").cells
    base, novel = cells["EuroSAT", "Base"], cells["EuroSAT", "Novel"]
    assert (base.mean, base.std) == (92.0, 2.0)
    assert (novel.mean, novel.std) == (70.0, 10.0)
    each = [harmonic(90, 60), harmonic(94, 80)]
    assert cells["EuroSAT", "H"].mean == pytest.approx(fmean(each))
    assert cells["EuroSAT", "H"].std == pytest.approx(pstdev(each))


def test_the_average_h_is_that_of_the_averages(output):
    (table,) = tables(output)
    cells = row(table, "MMRL").cells
    assert cells[AVERAGE, "Base"].mean == pytest.approx((92 + 81) / 2)
    assert cells[AVERAGE, "Base"].std == pytest.approx(pstdev([(90 + 80) / 2, (94 + 82) / 2]))
    assert cells[AVERAGE, "H"].mean == pytest.approx(harmonic((92 + 81) / 2, (70 + 70.5) / 2))


def test_a_missing_seed_is_marked_and_nothing_is_averaged_over_it(output):
    write(output, "CoOp", "EuroSAT", "new", 1, 50.0)
    (table,) = tables(output)
    cells = row(table, "CoOp").cells
    assert (cells["EuroSAT", "Novel"].mean, cells["EuroSAT", "Novel"].marks) == (50.0, "*")
    assert ("EuroSAT", "Base") not in cells
    assert not any(group == AVERAGE for group, _ in cells)
    note = next(note for note in table.notes if note.startswith("Missing"))
    assert "CoOp EuroSAT Base (seed 1, 2); CoOp EuroSAT Novel (seed 2)" in note
    text = render.terminal([table], 100)
    assert re.search(r"^CoOp .*– +50\.00\* +–", text, re.MULTILINE)


def test_seeds_that_were_asked_for_are_missed(output):
    (table,) = tables(output, seeds=[1, 2, 3])
    assert row(table, "MMRL").cells["EuroSAT", "Base"].marks == "*"
    assert (AVERAGE, "H") not in row(table, "MMRL").cells
    with pytest.raises(NerpError, match="no results of seed 7"):
        tables(output, seeds=[7])


def test_nerp_has_the_plain_base_accuracy_where_it_leaves_those_classes_alone(output):
    for dataset, seed in NOVEL:
        write(output, "MMRL_NeRP", dataset, "new", seed, 66.0, looked_at="nothing")
    (table,) = tables(output)
    plain, corrected = (row(table, label).cells for label in ("MMRL", "MMRL_NeRP"))
    for group in ("EuroSAT", AVERAGE):
        assert corrected[group, "Base"] == plain[group, "Base"]
    assert corrected["UCF101", "H"].mean == pytest.approx(
        fmean([harmonic(80, 66), harmonic(82, 66)])
    )
    assert any("leaves classes that were trained on alone" in note for note in table.notes)
    assert not any(note.startswith("Missing") for note in table.notes)


def test_nerps_own_runs_on_base_classes_count(output):
    write(output, "MMRL_NeRP", "EuroSAT", "new", 1, 66.0, looked_at="nothing", on_base=True)
    write(output, "MMRL_NeRP", "EuroSAT", "base", 1, 91.0, looked_at="nothing", on_base=True)
    write(output, "MMRL_NeRP", "EuroSAT", "new", 2, 66.0, looked_at="nothing", on_base=True)
    (table,) = tables(output)
    base = row(table, "MMRL_NeRP").cells["EuroSAT", "Base"]
    assert (base.mean, base.marks) == (91.0, "*")  # seed 2 corrects them too, but was not run
    assert not any("leaves classes" in note for note in table.notes)


def test_each_configuration_of_nerp_borrows_from_its_own(output):
    for config, base in (("vit_b16", None), ("mine", 70.0)):
        if base:
            write(output, "MMRL", "EuroSAT", "base", 1, base, config=config)
        write(output, "MMRL_NeRP", "EuroSAT", "new", 1, 66.0, looked_at="nothing", config=config)
    (table,) = tables(output, by_config=True)
    found = {r.label: r.cells["EuroSAT", "Base"].mean for r in table.rows if "NeRP" in r.label}
    assert found == {"MMRL_NeRP (mine)": 70.0, "MMRL_NeRP (vit_b16)": 90.0}


def test_rows_follow_the_order_of_the_methods_each_before_its_nerp(output):
    for name in ("Mine", "MMRL_NeRP", "CoOp", "ZeroshotCLIP"):
        write(output, name, "EuroSAT", "new", 1, 50.0)
    (table,) = tables(output)
    assert [r.label for r in table.rows] == ["ZeroshotCLIP", "CoOp", "MMRL", "MMRL_NeRP", "Mine"]


def test_two_results_for_one_cell_are_not_averaged(output):
    write(output, "MMRL", "EuroSAT", "new", 1, 1.0, config="mine")
    with pytest.raises(NerpError, match="two results for MMRL on EuroSAT.*--by-config"):
        tables(output)
    (table,) = tables(output, by_config=True)
    assert [r.label for r in table.rows] == ["MMRL (mine)", "MMRL (vit_b16)"]


def test_the_same_run_done_twice_is_one_result(output):
    """As where `nerp demo` and a sweep leave their runs below one folder."""
    for place, accuracy in (("a", 60.0), ("b", 60.0), ("c", 61.0)):
        folder = write(output / place, "CoOp", "EuroSAT", "new", 1, accuracy)
        content = json.loads((folder / "result.json").read_text())
        content["identity"] = {"config": "0123"}
        (folder / "result.json").write_text(json.dumps(content))
    same = collect([output / "a", output / "b"])
    (table,) = build_tables(same)
    assert row(table, "CoOp").cells["EuroSAT", "Novel"].mean == 60
    with pytest.raises(NerpError, match="two results"):
        tables(output)


def test_other_shots_have_a_table_of_their_own(output):
    write(output, "MMRL", "EuroSAT", "new", 1, 1.0, shots=4)
    titles = [table.title for table in tables(output)]
    assert titles == ["Base-to-novel, 4 shots", "Base-to-novel, 16 shots"]


def test_transfer_tables_leave_the_source_out_of_the_average(tmp_path):
    for dataset, accuracy in {"ImageNet": 70, "EuroSAT": 40, "UCF101": 60, "ImageNetV2": 64,
                              "ImageNetA": 50}.items():
        write(tmp_path, "MMRL", dataset, "all", 1, accuracy, task="CD")
    cross, shift = tables(tmp_path)
    assert [c[0] for c in cross.columns] == ["ImageNet", "EuroSAT", "UCF101", AVERAGE]
    assert row(cross, "MMRL").cells[AVERAGE, ""].mean == 50
    assert [c[0] for c in shift.columns] == ["ImageNet", "ImageNetV2", "ImageNetA", AVERAGE]
    assert row(shift, "MMRL").cells[AVERAGE, ""].mean == 57


def test_another_source_is_known_by_its_training(tmp_path):
    write(tmp_path, "MMRL", "DemoObjects", "all", 1, 80.0, task="CD", kind="train")
    write(tmp_path, "MMRL", "DemoTextures", "all", 1, 40.0, task="CD")
    write(tmp_path, "MMRL", "DemoLandcover", "all", 1, 60.0, task="CD")
    (table,) = tables(tmp_path)
    assert table.columns[0][0] == "DemoObjects"
    assert row(table, "MMRL").cells["DemoObjects", ""].mean == 80
    assert row(table, "MMRL").cells[AVERAGE, ""].mean == 50
    write(tmp_path, "CoOp", "DemoTextures", "all", 1, 80.0, task="CD", kind="train")
    with pytest.raises(NerpError, match="several sources"):
        tables(tmp_path)


def test_drawn_benchmarks_are_not_averaged_with_the_others(output):
    write(output, "MMRL", "DemoLandcover", "new", 1, 99.0)
    write(output, "MMRL", "DemoObjects", "all", 1, 80.0, task="CD", kind="train")
    write(output, "MMRL", "ImageNet", "all", 1, 80.0, task="CD", kind="train")
    real, *others = tables(output)
    assert "DemoLandcover" not in dict(real.columns)
    assert row(real, "MMRL").cells[AVERAGE, "Base"].mean == pytest.approx((92 + 81) / 2)
    assert [t.title for t in others] == [
        "Base-to-novel, 16 shots, drawn benchmarks", "Cross-dataset, 16 shots",
        "Cross-dataset, 16 shots, drawn benchmarks",
    ]


def test_runs_on_all_classes_are_called_that(tmp_path):
    for method in ("CoOp", "CoOp_NeRP"):
        write(tmp_path, method, "Photos", "all", 1, 50.0)
    (table,) = tables(tmp_path)
    assert table.title == "All classes, 16 shots" and len(table.rows) == 2


def test_few_shot_takes_the_test_that_ends_training(tmp_path):
    for shots in (1, 16):
        write(tmp_path, "CoOp", "EuroSAT", "all", 1, 50.0 + shots, task="FS", kind="train",
              shots=shots)
    write(tmp_path, "CoOp", "EuroSAT", "all", 1, 99.0, task="FS", shots=16)
    (table,) = tables(tmp_path)
    assert table.columns == [("EuroSAT", "1-shot"), ("EuroSAT", "16-shot")]
    assert [c.mean for c in row(table, "CoOp").cells.values()] == [51.0, 99.0]


def test_shots_stand_in_order_whichever_backbone_has_them(tmp_path):
    for backbone, shots in (("ViT-B/16", 1), ("ViT-B/16", 16), ("ViT-B/32", 4)):
        write(tmp_path / backbone, "CoOp", "EuroSAT", "all", 1, 50.0, task="FS", kind="train",
              shots=shots, backbone=backbone)
    (table,) = tables(tmp_path)
    assert table.columns == [("EuroSAT", f"{shots}-shot") for shots in (1, 4, 16)]
    assert any(note.startswith("Missing on ViT-B/32") and "CoOp EuroSAT 1-shot" in note
               for note in table.notes)


def test_terminal_blocks_fit_the_width_and_part_no_dataset(output):
    for dataset in ("DescribableTextures", "Food101", "SUN397"):
        for seed in (1, 2):
            write(output, "MMRL", dataset, "base", seed, 50.0)
            write(output, "MMRL", dataset, "new", seed, 50.0)
    for width in (80, 120, 300):
        text = render.terminal(tables(output), width)
        assert max(len(line) for line in text.splitlines()) <= width
        assert all(line.split().count("Base") == line.split().count("H")
                   for line in text.splitlines() if line.startswith(" ") and "Base" in line)


@pytest.mark.parametrize("width", [93, 100, 101, 150])
def test_blocks_fit_beside_the_labels_and_headers_of_published_rows(width, tmp_path):
    complete(tmp_path, "CoOp_SAR")
    complete(tmp_path, "ANPrompt")
    text = render.terminal(tables(tmp_path, against=published()), width)
    assert max(map(len, text.splitlines())) <= width
    assert "ANPrompt Table IX (gamma by softmax entropy)" in text


def test_csv_holds_every_number(output):
    write(output, "CoOp", "EuroSAT", "new", 1, 50.0)
    lines = list(csv.DictReader(io.StringIO(
        render.comma_separated(tables(output, against=published()))
    )))
    found = {(x["method"], x["kind"], x["dataset"], x["part"]): x for x in lines}
    assert float(found["MMRL", "measured", "EuroSAT", "H"]["mean"]) == pytest.approx(
        fmean([harmonic(90, 60), harmonic(94, 80)]), abs=1e-4
    )
    assert found["CoOp", "measured", "EuroSAT", "Base"]["marks"] == "missing"
    assert found["CoOp", "measured", "EuroSAT", "Novel"]["marks"] == "fewer seeds"
    assert found["MMRL", "ANPrompt Table I", "EuroSAT", "Novel"]["mean"] == "80.1700"


def test_markdown_sets_the_best_in_bold(output):
    for dataset, seed in BASE:
        write(output, "CoOp", dataset, "base", seed, 91.0)
        write(output, "CoOp", dataset, "new", seed, 20.0)
    text = render.markdown(tables(output))
    assert "| **92.00 ± 2.00** |" in text and "91.00 ± 0.00 |" in text
    assert "**91.00 ± 0.00**" in text  # on UCF101


@pytest.mark.parametrize("content", ["{", "[]", '{"accuracy": 3}', '{"accuracy": "high"}'])
def test_a_damaged_record_is_named(output, content):
    path = output / "result.json"
    path.write_text(content)
    with pytest.raises(NerpError, match=re.escape(str(path))):
        collect([output])


def test_a_training_without_a_test_has_no_number(output):
    folder = write(output, "CoOp", "EuroSAT", "base", 1, 1.0, kind="train")
    content = json.loads((folder / "result.json").read_text())
    del content["accuracy"]
    (folder / "result.json").write_text(json.dumps(content))
    assert {record.trainer for record in collect([output])} == {"MMRL"}


def test_the_command_prints_and_writes(output, nerp, tmp_path):
    status, out, _ = nerp("table", output)
    assert status == 0 and "Base-to-novel, 16 shots" in out
    file = tmp_path / "tables" / "main.tex"
    status, out, _ = nerp("table", output, "--format", "latex", "--output", file)
    assert status == 0 and str(file) in out and r"\toprule" in file.read_text()
    assert "replaces" not in out + nerp("table", output, "--latex", "--output", file)[1]
    _, out, _ = nerp("table", output, "--format", "csv", "--output", file)
    assert out == f"written: {file}  (replaces another one)\n"
    status, _, err = nerp("table", tmp_path / "tables")
    assert status == 1 and "no finished run" in err
    status, _, err = nerp("table", output, "--protocol", "few_shots")
    assert status == 1 and "Did you mean few_shot" in err
    status, _, err = nerp("table", output, "--protocol", "few_shot")
    assert status == 1 and "no runs for few_shot" in err


def test_sar_stands_below_its_method_with_what_has_to_be_said(tmp_path):
    for trainer in ("CoOp_SAR_NeRP", "MMRL", "CoOp_SAR", "CoOp"):
        for part in ("base", "new"):
            write(tmp_path, trainer, "EuroSAT", part, 1, 80.0)
    (table,) = tables(tmp_path, against=published())
    measured = [row.label for row in table.rows if row.kind == "measured"]
    assert measured == ["CoOp", "CoOp_SAR", "CoOp_SAR_NeRP", "MMRL"]
    below = table.rows[[row.label for row in table.rows].index("CoOp_SAR") + 1]
    assert below.kind == "published" and below.label.startswith("SAR")
    assert any(note.startswith("_SAR: its weight is chosen by dataset") for note in table.notes)


def test_mmrlpp_across_datasets_says_what_its_beta_is_chosen_by(tmp_path):
    write(tmp_path, "MMRLpp", "EuroSAT", "all", 1, 50.0, task="CD")
    write(tmp_path, "MMRLpp", "EuroSAT", "new", 1, 50.0)
    novel, crossing = tables(tmp_path)
    said = ["dataset under test" in " ".join(table.notes) for table in (novel, crossing)]
    assert said == [False, True]


def test_what_learns_nothing_is_run_once_and_counts_for_every_seed(output):
    for dataset in ("EuroSAT", "UCF101"):
        for part, accuracy in (("base", 60.0), ("new", 50.0)):
            write(output, "ZeroshotCLIP", dataset, part, 1, accuracy)
        write(output, "ZeroshotCLIP_NeRP", dataset, "new", 1, 55.0, looked_at="nothing")
    (table,) = tables(output)
    cells = row(table, "ZeroshotCLIP").cells
    shown = cells[AVERAGE, "Base"], cells["EuroSAT", "Novel"]
    assert [(cell.mean, cell.std) for cell in shown] == [(60.0, None), (50.0, None)]
    corrected = row(table, "ZeroshotCLIP_NeRP").cells
    assert corrected[AVERAGE, "Novel"].mean == 55.0 and corrected["UCF101", "Base"].mean == 60.0
    assert not any("*" in cell.marks for cell in (*cells.values(), *corrected.values()))
    assert not any(note.startswith("Missing") for note in table.notes)
    (later,) = tables(output, seeds=[2])
    assert row(later, "ZeroshotCLIP").cells["EuroSAT", "Novel"].mean == 50.0


def test_runs_of_what_learns_nothing_that_differ_are_counted_as_they_are(output):
    for seed, accuracy in ((1, 50.0), (2, 52.0)):
        write(output, "ZeroshotCLIP_NeRP", "EuroSAT", "new", seed, accuracy, looked_at="nothing")
    (table,) = tables(output)
    novel = row(table, "ZeroshotCLIP_NeRP").cells["EuroSAT", "Novel"]
    assert (novel.mean, novel.std) == (51.0, 1.0)


def test_what_a_correction_adds_stands_below_it(output):
    for dataset, seed in NOVEL:
        write(output, "MMRL_NeRP", dataset, "new", seed, 66.0, looked_at="nothing")
    (table,) = tables(output, gains=True)
    assert [r.label for r in table.rows] == ["MMRL", "MMRL_NeRP", "Δ"]
    assert table.rows[2].cells["UCF101", "Novel"].mean == pytest.approx(66 - 70.5)
    assert "Δ" in render.terminal([table], 100) and "-4.50" in render.terminal([table], 100)


def test_what_a_correction_adds_stands_before_what_others_had(output, tmp_path):
    for dataset, seed in NOVEL:
        write(output, "MMRL_NeRP", dataset, "new", seed, 66.0, looked_at="nothing")
    file = tmp_path / "mine.csv"
    file.write_text("protocol,method,dataset,base_or_accuracy,novel,hm,source\n"
                    "base_to_novel,MMRL,EuroSAT,90,80,84.71,notes\n"
                    "base_to_novel,MMRL_NeRP,EuroSAT,90,81,85.26,notes\n")
    (table,) = tables(output, gains=True, against=read_published(file))
    assert [r.label for r in table.rows] == [
        "MMRL", "notes", "difference", "MMRL_NeRP", "Δ", "notes", "difference"]
    assert table.rows[4].cells["EuroSAT", "Novel"].mean == pytest.approx(66 - 70)
    turned = arranged(table, rows="datasets")
    assert list(dict.fromkeys(group for group, _ in turned.columns)) == [
        "MMRL", "MMRL (notes)", "MMRL (difference from notes)", "MMRL_NeRP", "Δ MMRL_NeRP",
        "MMRL_NeRP (notes)", "MMRL_NeRP (difference from notes)"]


def test_datasets_may_be_rows_and_nothing_is_missing_where_nothing_belongs(output):
    (table,) = tables(output, against=published(), gains=True)
    turned = arranged(table, rows="datasets")
    assert [r.label for r in turned.rows] == ["EuroSAT", "UCF101", AVERAGE]
    assert turned.rows[0].cells["MMRL", "Base"] == table.rows[0].cells["EuroSAT", "Base"]
    assert render.MISSING not in render.terminal([turned], 200)


def test_the_command_arranges_and_refuses_a_caption_of_several_tables(output, nerp):
    status, out, _ = nerp("table", output, "--latex", "--rows", "datasets", "--caption", "Ours")
    assert status == 0 and r"\caption{Ours}" in out and r"\pm" not in out
    assert r"\pm" in nerp("table", output, "--latex", "--std")[1]
    assert "±" not in nerp("table", output, "--no-std")[1]
    write(output, "MMRL", "EuroSAT", "new", 1, 1.0, shots=4)
    status, _, err = nerp("table", output, "--latex", "--label", "tab:x")
    assert status == 1 and "of one table in LaTeX" in err and "4 shots" in err
