"""`nerp table --against published`: which numbers stand beside ours, and where they are from."""

import re
from dataclasses import replace

import pytest
from recorded import complete, row, tables, two_datasets, write

from nerp.base.errors import NerpError
from nerp.results.published import OTHER_PAPER, OWN_PAPER, published, read_published, with_papers
from nerp.results.tables import AVERAGE


def test_published_numbers_stand_beside_ours_with_the_difference(tmp_path):
    (table,) = tables(two_datasets(tmp_path), against=published())
    labels = [r.label for r in table.rows]
    assert labels == ["MMRL", "ANPrompt Table I", "difference"]
    theirs, difference = table.rows[1].cells, table.rows[2].cells
    assert (theirs["EuroSAT", "Base"].mean, theirs["EuroSAT", "H"].mean) == (95.60, 87.21)
    assert difference["EuroSAT", "Novel"].mean == pytest.approx(70 - 80.17)
    # Theirs is over eleven datasets, ours over two.
    assert not any(group == AVERAGE for group, _ in theirs)


def test_the_published_average_is_compared_over_the_same_datasets(tmp_path):
    complete(tmp_path, "MMRL")
    (table,) = tables(tmp_path, against=published())
    assert table.rows[1].cells[AVERAGE, "H"].mean == 81.20
    assert table.rows[2].cells[AVERAGE, "Base"].mean == pytest.approx(80 - 85.68)


def test_published_numbers_of_zero_shot_clip_are_found_and_others_not(tmp_path):
    write(tmp_path, "ZeroshotCLIP", "EuroSAT", "base", 1, 50.0)
    write(tmp_path, "MMA", "EuroSAT", "base", 1, 50.0)
    (table,) = tables(tmp_path, against=published())
    labels = [r.label for r in table.rows]
    assert labels == ["ZeroshotCLIP", "ANPrompt Table I", "difference", "MMA"]
    assert table.rows[1].cells["EuroSAT", "Base"].mean == 56.48


def test_every_published_row_of_a_method_is_shown_a_papers_variants_without_a_difference(tmp_path):
    complete(tmp_path, "ANPrompt")
    complete(tmp_path, "CoOp_SAR")
    (table,) = tables(tmp_path, against=published())
    theirs = [r for r in table.rows if r.kind == "published"]
    rows = [row for row in published() if (row.protocol, row.shots) == ("base_to_novel", 16)]
    assert [r.label for r in theirs] == list(dict.fromkeys(
        row.label for method in ("CoOp+SAR", "ANPrompt") for row in rows if row.method == method
    ))
    labels = [r.label for r in table.rows]
    assert labels.count("difference") == 2 and labels.count("ANPrompt Table IV (WALoss)") == 1
    cells = row(table, "SAR Table 1 (eight prompts; all classes)").cells
    assert {part: cell.mean for (_, part), cell in cells.items()} == {
        "Base": 82.82, "Novel": 73.39, "H": 77.82}
    cells = row(table, "SAR Table 2 (50 novel classes; 16 sampled)").cells
    assert [(column, cell.mean) for column, cell in cells.items()] == [((AVERAGE, "H"), 77.27)]
    assert ("In brackets: what a paper did otherwise, or its backbone; no difference is "
            "taken.") in table.notes


def test_published_numbers_are_of_the_same_number_of_shots(tmp_path):
    complete(tmp_path, "TCP_SAR", shots=4)
    for shots in (4, 16):
        write(tmp_path, "ANPrompt", "DescribableTextures", "all", 1, 70.0, task="FS", shots=shots)
    novel, few = tables(tmp_path, against=published())
    assert [r.label for r in novel.rows] == ["TCP_SAR", "SAR Table 4", "difference"]
    assert novel.rows[1].cells[AVERAGE, "H"].mean == 77.41
    assert [r.label for r in few.rows] == ["ANPrompt", "ANPrompt section IV-F", "difference"]
    assert {column: cell.mean for column, cell in few.rows[1].cells.items()} == {
        ("DescribableTextures", "16-shot"): 74.27}


def test_the_footnote_names_the_papers_and_the_rows_that_have_none(tmp_path):
    for trainer in ("MMA", "CoOp", "CoOp_NeRP", "CoOp_SAR"):
        write(tmp_path, trainer, "EuroSAT", "new", 1, 50.0)
    (table,) = tables(tmp_path, against=published())
    assert ("Published numbers, from the method's own paper or repository: SAR Table 3 (arXiv "
            "2502.11969, 2025); from other papers' tables: ANPrompt Table I (arXiv 2508.04677, "
            "2025); SAR Table 3 (arXiv 2502.11969, 2025); DePT README, base-to-new table (arXiv "
            "2309.07439, 2024). Ours - theirs below them.") in table.notes
    assert "No published numbers for these datasets and shots: MMA." in table.notes
    assert any(note.startswith("No published numbers are known here of CoOp_NeRP: the tables of "
                               "NeRP's paper could not be read") for note in table.notes)


def test_every_published_row_says_where_it_is_from():
    rows = published()
    assert rows and all("arXiv" in line for line in with_papers(row.source for row in rows))
    assert all((row.hm is None) != row.protocol.startswith("base_to_novel") for row in rows)
    assert all(row.accuracy("Base") is not None for row in rows if not row.variant)


BIOMEDCLIP = "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
MEDICAL = ("BTMRI", "CHMNIST", "COVID_19", "CTKidney", "DermaMNIST", "KneeXray", "Kvasir",
           "LungColon", "OCTMNIST", "RETINA")


def test_the_average_over_medical_datasets_is_compared_over_these_alone(tmp_path):
    for dataset in MEDICAL:
        for part in ("base", "new"):
            write(tmp_path, "BiomedCoOp", dataset, part, 1, 60.0, backbone=BIOMEDCLIP)
    (table,) = tables(tmp_path, against=published())
    cells = row(table, "BiomedCoOp README").cells
    assert {part: cell.mean for (group, part), cell in cells.items() if group == AVERAGE} == {
        "Base": 76.26, "Novel": 73.92, "H": 75.07}
    write(tmp_path, "BiomedCoOp", "BUSI", "base", 1, 60.0, backbone=BIOMEDCLIP)
    write(tmp_path, "BiomedCoOp", "BUSI", "new", 1, 60.0, backbone=BIOMEDCLIP)
    (table,) = tables(tmp_path, against=published())
    assert [r.label for r in table.rows] == ["BiomedCoOp"]


def test_published_few_shot_rows_have_a_number_for_each_of_their_shots(tmp_path):
    for dataset in (*MEDICAL, "BUSI"):
        for shots in (1, 16):
            write(tmp_path, "BiomedCoOp", dataset, "all", 1, 60.0, task="FS", shots=shots,
                  backbone=BIOMEDCLIP)
    (table,) = tables(tmp_path, against=published())
    cells = row(table, "BiomedCoOp README").cells
    assert {part: cell.mean for (_, part), cell in cells.items()} == {
        "1-shot": 57.03, "16-shot": 72.42}


def test_a_number_that_was_chosen_on_tested_images_says_so(tmp_path):
    write(tmp_path, "TipAdapterF", "EuroSAT", "all", 1, 80.0, task="FS")
    (table,) = tables(tmp_path, against=published())
    theirs = [r.label for r in table.rows if r.kind == "published"]
    assert theirs and all(label.endswith("published number chosen on test labels ‡")
                          for label in theirs)


def test_the_methods_own_paper_stands_first_and_others_in_the_order_of_the_file(tmp_path):
    write(tmp_path, "MMRL", "EuroSAT", "base", 1, 90.0)
    like = next(row for row in published() if (row.method, row.dataset) == ("MMRL", "EuroSAT"))
    rows = [replace(like, source=source, origin=origin) for source, origin in (
        ("B", OTHER_PAPER), ("MMRL", OWN_PAPER), ("A", OTHER_PAPER))]
    (table,) = tables(tmp_path, against=rows)
    assert [r.label for r in table.rows if r.kind == "published"] == ["MMRL", "B", "A"]


def test_the_paper_of_what_is_added_to_a_method_is_its_own():
    added = [row for row in published() if "+" in row.method and not row.method.endswith("++")]
    own = {row.source.split(" ")[0] for row in added if row.origin == OWN_PAPER}
    assert own == {"CasPL", "SAR", "DePT"}
    assert all((row.origin == OWN_PAPER) == row.source.startswith(tuple(own)) for row in added)


def test_published_numbers_of_another_backbone_are_named_and_no_difference_is_taken(tmp_path):
    for backbone in ("ViT-B/16", "RN50"):
        write(tmp_path / backbone, "TipAdapter", "EuroSAT", "all", 1, 80.0, task="FS",
              backbone=backbone)
    (table,) = tables(tmp_path, against=published())
    kinds = {block: [r.kind for r in table.rows if r.block == block]
             for block in ("ViT-B/16", "RN50")}
    assert kinds == {"ViT-B/16": ["measured", "published"],
                     "RN50": ["measured", "published", "difference"]}
    assert "(RN50)" in table.rows[1].label and "(RN50)" not in table.rows[3].label


OWN = ("protocol,method,dataset,base_or_accuracy,novel,hm,source\n"
       "base_to_novel,MMRL + NeRP,EuroSAT,95.0,80.5,87.2,my notes\n")


def test_rows_of_a_file_of_ones_own_stand_beside_ours(tmp_path, nerp):
    write(tmp_path, "MMRL_NeRP", "EuroSAT", "new", 1, 82.0)
    file = tmp_path / "mine.csv"
    file.write_text(OWN)
    (table,) = tables(tmp_path, against=read_published(file))
    assert row(table, "my notes").cells["EuroSAT", "Novel"].mean == 80.5
    assert row(table, "difference").cells["EuroSAT", "Novel"].mean == 1.5
    file.write_text(OWN.replace(",source", "").replace(",my notes", ""))
    status, out, _ = nerp("table", tmp_path, "--against", file, "--against", "published")
    assert status == 0 and re.search(r"· mine.csv .* 80.50", out)


@pytest.mark.parametrize("source", ["my notes, tuned on test", "DePT", "SAR Table 3"])
def test_a_row_of_ones_own_is_called_that_whatever_its_source_is_called(source, tmp_path):
    write(tmp_path, "MMRL_NeRP", "EuroSAT", "new", 1, 82.0)
    file = tmp_path / "mine.csv"
    file.write_text(OWN.replace("my notes", f'"{source}"'))
    (table,) = tables(tmp_path, against=read_published(file))
    assert [r.label for r in table.rows] == ["MMRL_NeRP", source, "difference"]
    assert (f"Published numbers, from a file of one's own: {source}. Ours - theirs below "
            "them.") in table.notes


def test_a_row_of_ones_own_is_marked_where_its_file_says_so(tmp_path):
    write(tmp_path, "MMRL_NeRP", "EuroSAT", "new", 1, 82.0)
    file = tmp_path / "mine.csv"
    file.write_text(OWN.replace("hm,source", "hm,source,chosen_on_test").replace(
        "my notes", "my notes,yes"))
    (table,) = tables(tmp_path, against=read_published(file))
    assert table.rows[1].label == "my notes: published number chosen on test labels ‡"


def test_what_a_source_says_of_test_images_is_marked_in_the_file_that_ships():
    said = ("on test", "on base test", "on its test")
    assert all(row.chosen_on_test == any(words in f"{row.source} {row.variant}" for words in said)
               for row in published())


@pytest.mark.parametrize(("before", "after", "said"), [
    ("hm,source", "hmm,source", "lacks the column hm"),
    ("80.5", "eighty", "line 2: novel is 'eighty'; it takes a number from 0 to 100"),
    ("80.5", "805", "line 2: novel is '805'"),
    ("EuroSAT", "", "line 2: dataset is empty"),
    ("my notes", "my notes,more", "line 2: more cells than columns"),
    ("95.0,80.5,87.2", ",80.5,", "line 2: it has no number"),
    ("my notes", '"my notes', "unexpected end of data"),
    ("base_to_novel", "base_to_novle",
     "line 2: unknown protocol 'base_to_novle'. Did you mean base_to_novel"),
    ("base_to_novel", "few_shot", "line 2: unknown protocol 'few_shot'"),
    ("base_to_novel", "unsupervised", "line 2: unknown protocol"),  # ships; no table has it
    ("my notes", "my notes,,maybe", "line 2: chosen_on_test is 'maybe'; it takes yes"),
])
def test_a_file_that_holds_no_such_rows_is_refused_by_its_line(before, after, said, tmp_path):
    file = tmp_path / "mine.csv"
    text = OWN.replace("source\n", "source,backbone,chosen_on_test\n") if ",," in after else OWN
    file.write_text(text.replace(before, after))
    with pytest.raises(NerpError, match=f"mine.csv.*{re.escape(said)}"):
        read_published(file)


def test_numbers_with_dept_stand_beside_a_method_with_dept(tmp_path):
    complete(tmp_path, "MaPLe_DePT")
    (table,) = tables(tmp_path, against=published())
    theirs = [row for row in table.rows if row.kind == "published"]
    assert [row.label for row in theirs] == ["DePT README, base-to-new table"]
    assert theirs[0].cells[AVERAGE, "H"].mean == 79.52
