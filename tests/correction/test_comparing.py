"""How the study of corrections draws its test sets, where it writes what it found, and that the
pages have the words of what makes them."""

import re
from pathlib import Path
from types import SimpleNamespace

import choose_shift
import compare_corrections
import corrections_words
import numpy as np
import pytest
import torch
from corrections_pages import put_section

from nerp.base.paths import write_text
from nerp.demo.study_report import WORDS

DOCS = Path(__file__).parents[2] / "docs"

IMAGES, CLASSES = 40, 3
MODEL = SimpleNamespace(logits=torch.zeros(IMAGES * CLASSES, CLASSES),
                        labels=np.repeat(np.arange(CLASSES), IMAGES))


def counts(exponent):
    return [np.bincount(MODEL.labels[rows], minlength=CLASSES).tolist()
            for rows in compare_corrections.unequal(MODEL, exponent)]


def test_each_class_has_each_rank_of_zipfs_law_once():
    sets = counts(1.0)
    assert [sorted(each) for each in sets] == [[13, 20, 40]] * CLASSES
    assert [sorted(of_class) for of_class in zip(*sets, strict=True)] == [[13, 20, 40]] * CLASSES


def test_at_exponent_0_every_image_is_there_once():
    (rows,) = compare_corrections.unequal(MODEL, 0.0)
    assert sorted(rows.tolist()) == list(range(IMAGES * CLASSES))


def test_a_section_is_replaced_where_it_stands_and_put_at_the_end_where_it_is_missing(tmp_path):
    page = tmp_path / "page.md"
    write_text(page, "# Page\n\n## One\n\nold\n\n## Two\n\nkept\n")
    put_section(page, "One", "new\n")
    put_section(page, "Three", "last\n")
    wanted = "# Page\n\n## One\n\nnew\n\n## Two\n\nkept\n\n## Three\n\nlast\n"
    assert page.read_text() == wanted
    put_section(page, "Three", "last\n")
    assert page.read_text() == wanted


@pytest.mark.parametrize(("page", "words"), [
    ("nerp.md", corrections_words.WHEN), ("study/corrections.md", corrections_words.REPORT),
    ("study/choice.md", corrections_words.CHOICE), ("study/choice.md", choose_shift.PAGE),
    ("study/README.md", "{}".join(WORDS.values())),
])
def test_a_page_has_the_words_of_what_makes_it(page, words):
    said = (DOCS / page).read_text()
    for part in re.split(r"\{[^}]*\}", words):
        assert part.strip() in said
