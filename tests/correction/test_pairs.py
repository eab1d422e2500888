"""Pair sources and bundles."""

import gzip
import json

import pytest
import torch
from yacs.config import CfgNode

from nerp.correction.bundle import match_names, read_bundle, write_bundle
from nerp.correction.pairs import Clues, find_pairs, nearest_pairs
from nerp.errors import NerpError

NAMES = ["Pasture Land", "River", "Sea or Lake"]
FEATURES = torch.nn.functional.normalize(
    torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.3], [0.0, 0.6, 1.0]]), dim=1
)


def clues(task="B2N", **settings):
    node = CfgNode({"PAIRS": "text", "PAIRS_FILE": "", "PAIRS_NEIGHBOURS": 1, **settings})
    return Clues(node, "EuroSAT", task, NAMES, lambda: FEATURES)


def bundle(tmp_path, content, name="class_pairs.json.gz"):
    data = json.dumps(content).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    return str(tmp_path / name)


def test_text_pairs_join_each_class_with_its_nearest():
    found = find_pairs(clues())
    assert found.index.tolist() == [[0, 1], [1, 2]]
    assert (found.source, found.looked_at) == ("text", "nothing")
    assert len(find_pairs(clues(PAIRS_NEIGHBOURS=9)).index) == 3


def test_nearest_pairs_have_no_repeats_and_need_two_classes():
    assert nearest_pairs(FEATURES[:1], 2).shape == (0, 2)
    pairs = nearest_pairs(torch.nn.functional.normalize(torch.randn(30, 8), dim=1), 3)
    assert (pairs[:, 0] < pairs[:, 1]).all() and len(pairs.unique(dim=0)) == len(pairs)


@pytest.mark.parametrize("name", ["class_pairs.json.gz", "plain.json"])
def test_bundle(tmp_path, name):
    file = bundle(tmp_path, {"EuroSAT_sub": [["sea_or_lake", "RIVER"], ["River", "Moon"]],
                             "EuroSAT": [["River", "Pasture land"]]}, name)
    base_to_novel = find_pairs(clues(PAIRS="bundle", PAIRS_FILE=file))
    assert base_to_novel.index.tolist() == [[2, 1]]
    assert "1 names match no class (Moon)" in base_to_novel.note
    cross = find_pairs(clues("CD", PAIRS="bundle", PAIRS_FILE=file))
    assert cross.index.tolist() == [[1, 0]]


def test_written_bundles_are_read_back_and_equal_to_the_byte(tmp_path):
    content = {"EuroSAT": [["River", "Sea or Lake"]]}
    for name in ("a.json.gz", "b.json.gz"):
        write_bundle(tmp_path / name, content)
    assert read_bundle(tmp_path / "a.json.gz") == content
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


def test_names_match_whatever_their_case_and_underscores():
    found = match_names([("pasture_land", "SEA OR LAKE"), ("River", "Hill"), ("Hill", "Dale")],
                        NAMES)
    assert found.pairs == [(0, 2)] and found.unknown == ["Hill", "Dale"]


@pytest.mark.parametrize(("content", "message"), [
    ({"Food101_sub": []}, "unknown bundle entry 'EuroSAT_sub'"),
    ({"EuroSAT_sub": [["River"]]}, "must be a list of"),
    ({"EuroSAT_sub": [[1, 2]]}, "must be a list of"),
    ({"EuroSAT_sub": 3}, "must be a list of"),
    ({"EuroSAT_sub": [["Hill", "Dale"]]}, "has no pair of these classes"),
    ([1], "expected a JSON object"),
])
def test_bad_bundles(tmp_path, content, message):
    with pytest.raises(NerpError, match=message):
        find_pairs(clues(PAIRS="bundle", PAIRS_FILE=bundle(tmp_path, content)))


def test_unreadable_bundles(tmp_path):
    with pytest.raises(NerpError, match="needs NERP.PAIRS_FILE"):
        find_pairs(clues(PAIRS="bundle"))
    with pytest.raises(NerpError, match="no file"):
        find_pairs(clues(PAIRS="bundle", PAIRS_FILE=str(tmp_path / "none.gz")))
    whole = gzip.compress(b'{"EuroSAT_sub": []}' * 50)
    for data in (b"{", whole[:30], b"\x1f\x8bnot gzip"):
        (tmp_path / "bad.gz").write_bytes(data)
        with pytest.raises(NerpError, match="not a readable pair bundle"):
            find_pairs(clues(PAIRS="bundle", PAIRS_FILE=str(tmp_path / "bad.gz")))


def test_unknown_source():
    with pytest.raises(NerpError, match="unknown pair source 'psychic'.*bundle.*text"):
        find_pairs(clues(PAIRS="psychic"))
