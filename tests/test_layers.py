"""No module imports a higher layer, and docs/architecture.md says which there are."""

from pathlib import Path

import pytest
from draw_layers import LAYERS, PACKAGE, draw, imports

HEIGHT = {part: height for height, layer in enumerate(reversed(LAYERS)) for part in layer}
PAGE = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text()


def test_every_part_of_the_package_has_its_layer():
    there = {path.stem for path in PACKAGE.iterdir()
             if path.is_dir() and any(path.glob("*.py")) or path.suffix == ".py"}
    assert there - {"__init__", "__main__"} == HEIGHT.keys() - {"nerp"}


@pytest.mark.parametrize("part", sorted(set(HEIGHT) - {"nerp"}))
def test_a_part_imports_no_higher_layer(part):
    assert not {other for other in imports().get(part, ()) if HEIGHT[other] > HEIGHT[part]}


def test_the_page_names_every_part_and_the_figure_draws_it():
    assert all(f"`{part}`" in PAGE for part in HEIGHT)
    drawn = {text.get_text() for text in draw().axes[0].texts}
    assert drawn == {*HEIGHT, "imports", ""}
