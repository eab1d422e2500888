"""docs/tour.ipynb runs from top to bottom, and keeps no outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tour.ipynb"


def test_the_tour_is_kept_without_outputs():
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    assert all(not cell.outputs for cell in book.cells if cell.cell_type == "code")


@pytest.mark.slow
def test_the_tour_runs_from_top_to_bottom(tmp_path):
    book = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = "\n".join(str(cell.outputs) for cell in book.cells if cell.cell_type == "code")
    assert "novel classes: " in text and (tmp_path / "output/tour/novel/explain.html").is_file()
