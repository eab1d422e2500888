"""`nerp methods`: counts without weights, in a table that fits."""

import re
from dataclasses import replace

import pytest

from nerp.clip.loading import PUBLISHED
from nerp.clip.model import Clip
from nerp.trainers import summary


def test_counts_are_the_published_ones_and_nothing_warns(nerp, caplog):
    status, text, error = nerp("methods", "--backbone", "ViT-B/32")
    assert (status, error, caplog.text) == (0, "", "")
    # MMRL 4.992 M, PromptSRC 46,080 on a ViT-B.
    assert re.search(r"MMRL +4,992,256 +MultiModalRepresentationLearner ", text)
    assert re.search(r"PromptSRC +46,080 +VLPromptLearner ", text)


def test_a_method_that_does_not_fit_the_backbone_has_no_count(nerp):
    _, text, _ = nerp("methods", "--backbone", "RN50")
    assert re.search(r"MMA +– +adapter_learner ", text)
    assert re.search(r"CoOp +8,192 +prompt_learner ", text)


@pytest.mark.parametrize("backbone", ["ViT-B/16", "tiny"])
def test_no_values_are_made_or_computed(nerp, monkeypatch, backbone):
    made = []
    monkeypatch.setattr(summary, "Clip", lambda *args: made.append(Clip(*args)) or made[-1])
    assert nerp("methods", "--backbone", backbone)[0] == 0
    assert all(parameter.is_meta for parameter in made[0].model.parameters())


@pytest.mark.parametrize("backbone", summary._SIZES)
def test_the_published_sizes_are_those_of_open_clip(backbone):
    row = summary.backbone_row(PUBLISHED[backbone])
    assert replace(summary.backbone_row(backbone), name=row.name) == row
    assert summary.method_rows(backbone) == summary.method_rows(PUBLISHED[backbone])


@pytest.mark.parametrize("width", [80, 100, 300])
def test_the_table_fits_the_terminal(nerp, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    _, text, _ = nerp("methods")
    assert max(map(len, text.splitlines())) <= width
    assert ("Language Models, CVPR 2022" in text) == (width > 100)


def test_the_closing_lines_name_both_suffixes(nerp):
    _, text, _ = nerp("methods", "--backbone", "tiny")
    closing = text.rsplit("\n\n", 1)[1]
    assert "append _NeRP to its name" in closing and "_SAR, before _NeRP" in closing
