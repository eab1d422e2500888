"""docs/tour.ipynb ships with its outputs, and runs from docs/ without leaving anything there."""

import re

import nbformat
import pytest
from run_tour import NOTEBOOK, run


def texts(book):
    """What each code cell prints and shows, as text."""
    return ["".join(output.get("text", "") or output.get("data", {}).get("text/plain", "")
                    for output in cell.outputs)
            for cell in book.cells if cell.cell_type == "code"]


def test_the_tour_is_kept_with_its_outputs():
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(output.output_type != "error" for cell in cells for output in cell.outputs)
    assert all(cell.outputs for cell in cells)
    shown = "\n".join(texts(book))
    assert re.search(r"novel classes: [\d.]+ % before, [\d.]+ % after", shown)
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    assert not re.search(r"(?<![\w.])/(tmp|home|root|work|Users)/", shown)  # a maker's own paths
    assert "jupyter lab docs/tour.ipynb" in book.cells[0].source


@pytest.mark.slow
def test_the_tour_runs_from_docs_to_the_outputs_that_ship():
    shipped = nbformat.read(NOTEBOOK, as_version=4)
    before = sorted(NOTEBOOK.parent.rglob("*"))
    again = run(nbformat.read(NOTEBOOK, as_version=4), NOTEBOOK.parent)
    assert sorted(NOTEBOOK.parent.rglob("*")) == before
    # Numbers may differ in their last digits from machine to machine; what is shown does not.
    numbers = re.compile(r"-?\d[\d.,e-]*")
    for found, wanted in zip(texts(again), texts(shipped), strict=True):
        assert numbers.sub("#", found) == numbers.sub("#", wanted)
