"""docs/nerp.md says what the code does."""

import io
import re
from contextlib import redirect_stdout

import published_flips
import pytest
from conftest import eurosat_classes, golden_config
from scripts.test_docs import REPO, blocks

from nerp.base.registry import PAIR_SOURCES, REFERENCES, RULES, TRAINERS
from nerp.correction.references import GAP_STRENGTH, Probe

PAGE = (REPO / "docs" / "nerp.md").read_text()


def names(heading):
    """The names in the first column of the table below a heading."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def test_every_reference_rule_and_pair_source_is_there():
    assert sorted(names("The references")) == REFERENCES.names()
    assert sorted(names("The rules")) == sorted(["auto", *RULES.names()])
    assert sorted(names("The pairs")) == PAIR_SOURCES.names()


@pytest.mark.parametrize("name", ["text", "image"])
def test_the_automatic_strengths_are_the_ones_it_names(name, golden_clip, inputs):
    trainer = TRAINERS["MMRL"](golden_config(), golden_clip, eurosat_classes("new"))
    prior = REFERENCES[name](Probe(trainer, golden_config().NERP, lambda: inputs[0][:1]))
    (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| `{name}` | "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert float(cells[-1]) == prior.strength and cells[-2] == prior.looked_at


def test_the_gap_is_shrunk_towards_a_third():
    assert GAP_STRENGTH == 1 / 3 and "(⅓ + slope) / 2" in PAGE


def test_the_table_of_published_settings_is_the_commands():
    printed = io.StringIO()
    with redirect_stdout(printed):
        published_flips.main()
    table = printed.getvalue().split("\n\n")[0]
    assert table in PAGE


def test_the_example_prints_what_it_says(capsys):
    (example,) = blocks("docs/nerp.md", "python")
    exec(example, {})
    said = re.findall(r"^# (\[.*)$", example, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == said
