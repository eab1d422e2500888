"""What tables say beside their numbers: marks, substitutes, tests that were left out."""


import pytest
from recorded import BASE, row, tables, write

from nerp.base.errors import NerpError
from nerp.results import render
from nerp.results.grid import ALSO_SEEN, MARKS, SUBSTITUTE
from nerp.results.records import LOG, TAKEN
from nerp.results.tables import AVERAGE


@pytest.mark.parametrize(("looked_at", "mark", "word"), [
    ("test images", "†", "transductive"), ("test labels", "‡", "upper bound"),
    ("unknown", "§", "does not say"), ("training labels", "", ""), ("nothing", "", ""),
])
def test_a_look_at_test_data_is_marked_wherever_it_counts(output, looked_at, mark, word):
    for dataset, seed in BASE:
        write(output, "MMRL_NeRP", dataset, "base", seed, BASE[dataset, seed])
        write(output, "MMRL_NeRP", dataset, "new", seed, 99.0, looked_at=looked_at)
    (table,) = tables(output)
    cells = row(table, "MMRL_NeRP").cells
    assert {cells[group, part].marks for group in (AVERAGE, "EuroSAT") for part in ("Novel", "H")} \
        == {mark}
    assert cells["EuroSAT", "Base"].marks == ""
    assert not mark or any(note.startswith(mark) and word in note for note in table.notes)
    bold = "**99.00 ± 0.00**" in render.markdown([table])
    assert bold == (not mark)  # a marked number does not compete for the best


def test_marks_are_those_of_what_may_be_looked_at():
    from nerp.correction.looked_at import CAVEATS, UNKNOWN

    assert set(MARKS) == {*CAVEATS, UNKNOWN, SUBSTITUTE, ALSO_SEEN, TAKEN, LOG}
    assert all(MARKS[name][1].startswith(word) for name, word in CAVEATS.items())


@pytest.mark.parametrize(("method", "said", "mark", "note"), [
    ("CoOp", {"substitute": "templates stand in for sentences"}, "¶",
     "trained with templates in place of"),
    ("CasPL", {"also_seen": "unlabelled images"}, "‖", "trained with more than labelled"),
])
def test_what_a_training_had_beside_labelled_images_is_marked_in_every_table(
    output, method, said, mark, note
):
    write(output, method, "EuroSAT", "new", 1, 50.0, **said)
    (table,) = tables(output)
    assert row(table, method).cells["EuroSAT", "Novel"].marks == f"{mark}*"
    assert any(line.startswith(f"{mark} {note}") for line in table.notes)
    assert mark not in row(table, "MMRL").cells["EuroSAT", "Novel"].marks


def test_a_test_that_contradicts_its_protocol_is_left_out_and_named(output):
    reason = "all of the tested classes were trained on"
    folder = write(output, "CoOp", "EuroSAT", "new", 1, 99.0, contradiction=reason)
    (table,) = tables(output)
    assert [row.label for row in table.rows] == ["MMRL"]
    assert f"Left out: {folder}: {reason}." in table.notes
    said = f"every result contradicts its protocol: {folder}: {reason}"
    with pytest.raises(NerpError, match=said):
        tables(folder)


WHY = "all of the tested classes were trained on"


def left_out(folder):
    """Title -> what is said of tests that were left out."""
    return {table.title: [note for note in table.notes if note.startswith("Left out")]
            for table in tables(folder)}


def test_what_was_left_out_is_said_below_the_table_that_it_is_of(output):
    write(output, "MMRL", "EuroSAT", "new", 1, 1.0, shots=4)
    write(output, "MMRL", "DemoLandcover", "new", 1, 1.0)
    folder = write(output, "CoOp", "EuroSAT", "new", 1, 99.0, shots=4, contradiction=WHY)
    assert left_out(output) == {
        "Base-to-novel, 4 shots": [f"Left out: {folder}: {WHY}."],
        "Base-to-novel, 16 shots": [], "Base-to-novel, 16 shots, drawn benchmarks": []}


@pytest.mark.parametrize("more", [
    {"shots": 8}, {"backbone": "ViT-B/32"}, {"task": "CD"}, {"task": "FS"}])
def test_what_was_left_out_of_a_table_that_is_not_there_is_said_once(output, more):
    write(output, "MMRL", "DemoLandcover", "new", 1, 1.0)
    folder = write(output, "CoOp", "UCF101", "all", 1, 99.0, contradiction=WHY, **more)
    assert left_out(output) == {
        "Base-to-novel, 16 shots": [f"Left out: {folder}: {WHY}."],
        "Base-to-novel, 16 shots, drawn benchmarks": []}


def test_two_reasons_for_leaving_out_are_both_said(output):
    first, second = (write(output, "CoOp", "EuroSAT", "new", seed, 99.0, contradiction=why)
                     for seed, why in ((1, WHY), (2, "another one")))
    write(output, "CoOp", "UCF101", "new", 1, 99.0, contradiction=WHY)
    assert left_out(output)["Base-to-novel, 16 shots"] == [
        f"Left out: {first}, and 1 more like it: {WHY}.", f"Left out: {second}: another one."]
