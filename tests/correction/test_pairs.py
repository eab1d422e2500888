"""Pair sources and bundles."""

import gzip
import json

import pytest
import torch
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.correction.bundle import match_names, read_bundle, write_bundle
from nerp.correction.pairs import Clues, Labelled, find_pairs, strongest_pairs

NAMES = ["Pasture Land", "River", "Sea or Lake"]
FEATURES = torch.nn.functional.normalize(
    torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.3], [0.0, 0.6, 1.0]]), dim=1
)


def clues(task="B2N", found=None, **settings):
    node = CfgNode({"PAIRS": "text", "PAIRS_FILE": "", "PAIRS_NEIGHBOURS": 1,
                    "PAIRS_QUANTILE": 0.0, **settings})
    return Clues(node, "EuroSAT", task, NAMES, lambda: FEATURES, **(found or {}))


def bundle(tmp_path, content, name="class_pairs.json.gz"):
    data = json.dumps(content).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    return str(tmp_path / name)


def test_text_pairs_join_each_class_with_its_nearest():
    found = find_pairs(clues())
    assert found.index.tolist() == [[0, 1], [1, 2]]
    assert (found.source, found.looked_at) == ("text", "nothing")
    assert len(find_pairs(clues(PAIRS_NEIGHBOURS=9)).index) == 3


def test_strongest_pairs_have_no_repeats_and_need_two_classes():
    assert strongest_pairs(torch.ones(1, 1), 2).shape == (0, 2)
    scores = torch.randn(30, 30)
    pairs = strongest_pairs(scores + scores.t(), 3)
    assert (pairs[:, 0] < pairs[:, 1]).all() and len(pairs.unique(dim=0)) == len(pairs)
    partners = torch.cat([pairs, pairs.flip(1)])[:, 0].bincount(minlength=30)
    assert partners.min() >= 3


def test_quantile():
    scores = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 3.0], [2.0, 3.0, 0.0]])
    assert strongest_pairs(scores, 0, 0.5).tolist() == [[0, 2], [1, 2]]
    assert strongest_pairs(scores, 0, 0.9).tolist() == [[1, 2]]
    assert strongest_pairs(scores, 1, 0.6).tolist() == [[1, 2]]
    scores[1, 2] = scores[2, 1] = float("-inf")
    assert strongest_pairs(scores, 0, 0.1).tolist() == [[0, 2]]
    for settings in ({"PAIRS_NEIGHBOURS": 0}, {"PAIRS_NEIGHBOURS": -1}, {"PAIRS_QUANTILE": 1.0}):
        with pytest.raises(NerpError, match="give a number of partners, a quantile"):
            find_pairs(clues(**settings))


def test_reference_pairs_are_those_that_change_places():
    orders = [(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([3.0, 1.0, 2.0])),
              (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0]))]
    found = find_pairs(clues(PAIRS="reference", found={"orders": lambda: orders}))
    assert found.index.tolist() == [[1, 2]] and found.looked_at == "training images"


def test_training_pairs_know_only_the_classes_trained_on():
    logits = torch.tensor([[5.0, 4.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 5.0]])
    names = ["River", "Sea or Lake", "Forest"]
    labelled = Labelled(logits, torch.tensor([0, 1, 2]), names)
    found = find_pairs(clues(PAIRS="train", found={"training": lambda: labelled}))
    assert found.index.tolist() == [[1, 2]] and found.looked_at == "training labels"
    other = Labelled(logits, torch.tensor([0, 1, 2]), ["Forest", "Road", "Field"])
    with pytest.raises(NerpError, match="and other classes are tested"):
        find_pairs(clues(PAIRS="train", found={"training": lambda: other}))


def test_sources_that_look_at_the_test_set_say_so():
    logits = torch.tensor([[3.0, 2.0, 0.0], [2.0, 3.0, 0.0], [0.0, 2.0, 3.0], [5.0, 0.0, 4.0]])
    test = {"test_logits": lambda: logits, "test_labels": lambda: torch.tensor([0, 0, 2, 2])}
    found = find_pairs(clues(PAIRS="unlabelled", PAIRS_NEIGHBOURS=2, found=test))
    assert found.index.tolist() == [[0, 1], [0, 2], [1, 2]] and found.looked_at == "test images"
    found = find_pairs(clues(PAIRS="labels", found=test))
    assert found.index.tolist() == [[0, 1], [0, 2]] and found.looked_at == "test labels"


def test_a_source_without_its_images_says_so():
    with pytest.raises(NerpError, match="needs images"):
        find_pairs(clues(PAIRS="labels"))


def test_a_bundle_of_ours_tells_what_it_looked_at(tmp_path):
    content = {"EuroSAT_sub": [["River", "Sea or Lake"]],
               "_provenance": {"EuroSAT_sub": {"source": "labels", "looked_at": "test labels"}}}
    file = bundle(tmp_path, content)
    assert find_pairs(clues(PAIRS="bundle", PAIRS_FILE=file)).looked_at == "test labels"


@pytest.mark.parametrize("name", ["class_pairs.json.gz", "plain.json"])
def test_bundle(tmp_path, name):
    file = bundle(tmp_path, {"EuroSAT_sub": [["sea_or_lake", "RIVER"], ["River", "Moon"]],
                             "EuroSAT": [["River", "Pasture land"]]}, name)
    base_to_novel = find_pairs(clues(PAIRS="bundle", PAIRS_FILE=file))
    assert base_to_novel.index.tolist() == [[1, 2]]
    assert "names that match no class: 1 (Moon)" in base_to_novel.note
    cross = find_pairs(clues("CD", PAIRS="bundle", PAIRS_FILE=file))
    assert cross.index.tolist() == [[0, 1]]


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
    ({"Food101_sub": []}, "no entry EuroSAT_sub, .*; it has 'Food101_sub' .0 pairs."),
    ({"EuroSAT_sub": [["River"]]}, "must be a list of"),
    ({"EuroSAT_sub": [[1, 2]]}, "must be a list of"),
    ({"EuroSAT_sub": 3}, "must be a list of"),
    ({"EuroSAT_sub": [["Hill", "Dale"]]}, "has no pair of these classes"),
    ([1], "not a readable JSON file"),
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
        with pytest.raises(NerpError, match="not a readable JSON file"):
            find_pairs(clues(PAIRS="bundle", PAIRS_FILE=str(tmp_path / "bad.gz")))


def test_unknown_source():
    with pytest.raises(NerpError, match="unknown pair source 'psychic'.*bundle.*text"):
        find_pairs(clues(PAIRS="psychic"))
