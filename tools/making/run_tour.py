"""Run docs/tour.ipynb from top to bottom and keep its outputs in it.

    python tools/making/run_tour.py
"""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tour.ipynb"
_OF_A_RUN = ("execution", "papermill")  # a run writes times under these keys of cell metadata


def run(book: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of a run in the working directory `folder`."""
    NotebookClient(book, timeout=1800, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in book.cells:
        for name in _OF_A_RUN:
            cell.metadata.pop(name, None)
    book.metadata.pop("language_info", None)  # it names the Python version
    return book


def main() -> None:
    book = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]  # untyped there
    run(book, NOTEBOOK.parent)
    nbformat.write(book, NOTEBOOK)  # type: ignore[no-untyped-call]  # as above


if __name__ == "__main__":
    main()
