"""`nerp methods`: counts without weights, in a table that fits."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from nerp.base.registry import TRAINERS
from nerp.clip.loading import PUBLISHED
from nerp.clip.model import normalise
from nerp.commands import methods
from nerp.trainers import summary
from nerp.trainers.coop import CoOp
from nerp.trainers.method import GROUPS


def test_counts_are_the_published_ones_and_nothing_warns(nerp, caplog):
    status, text, error = nerp("methods", "--backbone", "ViT-B/32")
    assert (status, error, caplog.text) == (0, "", "")
    # MMRL 4.992 M, PromptSRC 46,080 on a ViT-B.
    assert re.search(r"MMRL +4,992,256 +Guo and Gu, CVPR 2025\n", text)
    assert re.search(r"PromptSRC +46,080 +Khattak et al., ICCV 2023\n", text)


def test_a_method_that_does_not_fit_the_backbone_has_no_count(nerp):
    _, text, _ = nerp("methods", "--backbone", "RN50")
    assert re.search(r"MMA +– +Yang et al., CVPR 2024\n", text)
    assert re.search(r"CoOp +8,192 +Zhou et al., IJCV 2022\n", text)


@pytest.mark.parametrize("backbone", ["ViT-B/16", "tiny"])
def test_no_values_are_made_or_computed(backbone):
    """Arithmetic on the meta device would import torch._dynamo, which takes two seconds."""
    code = (f"import sys; from nerp.trainers import summary as s; s.method_rows({backbone!r}); "
            f"print(s._fitted(s._shapes_of({backbone!r}))['CoOp'].parameter('ctx').device, "
            "'torch._dynamo' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "meta False\n", done.stderr


def test_a_method_of_the_users_own_may_compute_when_it_is_built(monkeypatch):
    class Own(CoOp):
        def prepare(self):
            super().prepare()
            self.anchor = self.clip.text.features(self.clip.text_state(self.prompts))[0]

        def initial(self):
            return {**super().initial(), "start": normalise(self.clip.text_features(["a"]))}

    monkeypatch.setattr(Own, "__module__", "elsewhere")
    monkeypatch.setitem(TRAINERS._entries, "Own", Own)
    monkeypatch.setitem(TRAINERS._canonical, "Own", "Own")
    counts = {row[0]: row[1] for row in summary.method_rows("tiny")}
    assert counts["Own"] > counts["CoOp"]


@pytest.mark.parametrize("backbone", summary._SIZES)
def test_the_published_sizes_are_those_of_open_clip(backbone):
    row = summary.backbone_row(PUBLISHED[backbone])
    assert replace(summary.backbone_row(backbone), name=row.name) == row
    assert summary.method_rows(backbone) == summary.method_rows(PUBLISHED[backbone])


def test_a_method_with_a_suffix_has_a_row_where_it_is_named(nerp):
    _, text, _ = nerp("methods", "CoOp_DePT", "CoOp_SAR", "--backbone", "tiny")
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith("CoOp")}
    learned = {name: int(row[1].replace(",", "")) for name, row in rows.items()}
    width = 128  # D of the backbone, with 10 classes
    assert learned["CoOp_DePT"] == learned["CoOp_SAR"] + 4 * width + 10 * (width + 1)
    folders = {name: row[2] for name, row in rows.items()}
    assert folders == {"CoOp_DePT": "PromptLearner", "CoOp_SAR": "prompt_learner"}


def test_every_method_stands_below_its_group(nerp):
    _, text, _ = nerp("methods", "--backbone", "tiny")
    found, heading = {}, None
    for line in text.splitlines():
        if word := re.fullmatch(r"([a-z-]+): *", line):
            heading = word[1]
        elif line.split(" ")[0] in TRAINERS.names():
            found[line.split(" ")[0]] = heading
    assert found == {name: TRAINERS[name].group for name in TRAINERS.names()}
    assert list(dict.fromkeys(found.values())) == [
        group for group in GROUPS if group in found.values()]


@pytest.mark.parametrize("width", [80, 100, 300])
def test_the_table_fits_the_terminal(nerp, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    _, text, _ = nerp("methods")
    assert max(map(len, text.splitlines())) <= width
    assert len(text.splitlines()) <= len(TRAINERS.names()) + len(GROUPS) + 7  # a line each
    _, text, _ = nerp("methods", "CoCoOp", "MMRL")
    assert max(map(len, text.splitlines())) <= width
    assert "Conditional" in text  # of the title
    assert "prompt_learner" in text and "4,992,256" in text and "KgCoOp" not in text


def test_the_closing_lines_name_both_suffixes(nerp):
    _, text, _ = nerp("methods", "--backbone", "tiny")
    closing = " ".join(text.rsplit("\n\n", 1)[1].split())
    assert "by _NeRP after its name" in closing and "by _SAR" in closing


def test_a_publication_in_short_keeps_authors_place_and_year():
    shown = {name: methods.in_short(TRAINERS[name].paper) for name in TRAINERS.names()}
    assert shown["MoCoOp"] == "Du, Niu and Zhao, 2025"
    assert shown["TFUP"] == "Long et al., arXiv 2404.16339, 2024"
    assert shown["CLIPLoRA"] == "Zanella and Ben Ayed, CVPR Workshops 2024"
    assert all(re.search(r"\d{4}$", text) and len(text) < 45 for text in shown.values())
    assert methods.in_short("a talk") == "a talk"
