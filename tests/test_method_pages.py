"""docs/methods has a page a method that names its tensors and settings as the code does."""

import re

import pytest
from conftest import eurosat_classes, golden_config
from scripts.test_docs import REPO

from nerp.keys import Key
from nerp.registry import TRAINERS

PAGES = REPO / "docs" / "methods"
# Pages with both tables. The first number in a tensor's name is written i.
OWN_TABLES = ["CoOp", "CoCoOp", "PromptSRC", "MMA", "MMRL", "ZeroshotCLIP"]


def page(method):
    return (PAGES / f"{method.__module__.rsplit('.', 1)[1]}.md").read_text()


@pytest.mark.parametrize("name", TRAINERS.names())
def test_every_method_has_a_page_in_the_index(name):
    assert page(TRAINERS[name])
    link = f"({TRAINERS[name].__module__.rsplit('.', 1)[1]}.md)"
    assert link in (PAGES / "README.md").read_text()


@pytest.mark.parametrize("name", OWN_TABLES)
def test_the_table_has_exactly_the_learned_tensors(name, golden_clip):
    trainer = TRAINERS[name](golden_config(), golden_clip, eurosat_classes("base"))
    listed = page(TRAINERS[name]).split("## Settings")[0]
    assert set(re.findall(r"^\| `([^`]+)`", listed, re.MULTILINE)) == {
        re.sub(r"\.\d+\.", ".i.", tensor, count=1)
        for tensor in trainer.initial()
    }


@pytest.mark.parametrize("name", OWN_TABLES)
def test_every_setting_stands_with_its_default(name):
    for key, value in TRAINERS[name].defaults.items():
        default = value.default if isinstance(value, Key) else value
        shown = f'"{default}"' if isinstance(default, str) else str(default)
        assert f"| `{key}` | {shown} |" in page(TRAINERS[name])
