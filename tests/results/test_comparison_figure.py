"""The figure of what every rule gained, from the file that `nerp correct` leaves."""

import json

import pytest

from nerp.base.errors import NerpError
from nerp.results.comparison import comparison_figure
from nerp.settings.protocols import COMPARISON_FILE

CONTENT = {
    "trainer": "CoOp_NeRP", "dataset": "EuroSAT", "accuracy": 61.5,
    "rules": [
        {"rule": "match", "looked_at": "test images", "gain": 2.5},
        {"rule": "shift", "looked_at": "training images", "gain": -0.5},
        {"rule": "labelled", "looked_at": "training labels", "missing": "training images"},
    ],
}


def write(folder, content):
    (folder / COMPARISON_FILE).write_text(json.dumps(content))
    return folder


def test_each_rule_that_was_carried_out_has_a_bar_the_best_on_top(tmp_path):
    (axes,) = comparison_figure(write(tmp_path, CONTENT)).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["shift", "match"]
    assert [bar.get_width() for bar in axes.patches] == [-0.5, 2.5]


@pytest.mark.parametrize(("change", "said"), [
    ({"rules": None}, "rules is None; it takes a list of objects"),
    ({"rules": [{"rule": "match", "gain": 1.0}]}, "there is no looked_at"),
    ({"rules": [{"rule": "match", "looked_at": "", "gain": "much"}]}, "it takes a number"),
    ({"accuracy": 400}, "accuracy is 400; it takes a number from 0 to 100"),
])
def test_a_damaged_file_is_named_in_one_line(change, said, tmp_path):
    with pytest.raises(NerpError) as found:
        comparison_figure(write(tmp_path, CONTENT | change))
    assert COMPARISON_FILE in str(found.value) and said in str(found.value)
