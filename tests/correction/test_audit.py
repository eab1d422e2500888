"""Where pairs may come from: the overlap with each source, and what chance alone would give."""

import math
import random

import pytest
import torch
from test_pairs import clues as few_clues
from torch.nn.functional import normalize
from yacs.config import CfgNode

from nerp.correction.audit import Match, audit, verdict
from nerp.correction.pairs import Clues, find_pairs


def many_clues(classes, neighbours=2):
    """Clues of `classes` classes with random text features; the other sources lack images."""
    features = torch.randn(classes, 16, generator=torch.Generator().manual_seed(classes))
    settings = CfgNode({"PAIRS": "text", "PAIRS_FILE": "", "PAIRS_NEIGHBOURS": neighbours,
                        "PAIRS_QUANTILE": 0.0})
    names = [f"class {i}" for i in range(classes)]
    return Clues(settings, "EuroSAT", "B2N", names, lambda: normalize(features))


def of_text(clues, given=None):
    """The match with the source text, of its own pairs or others."""
    given = find_pairs(clues).index if given is None else given
    matches = audit(given, clues)
    assert [m.source for m in matches if m.missing] == ["reference", "train", "unlabelled",
                                                        "labels"]
    return matches[0], verdict(matches)


def test_the_probability_is_that_of_drawing_pairs_at_random():
    match = Match("text", "nothing", pairs=4, overlap=3, given=5, possible=12)
    rng, times = random.Random(0), 40_000
    hits = [len(set(rng.sample(range(12), 4)) & set(range(5))) for _ in range(times)]
    assert match.chance == pytest.approx(sum(hits) / times, abs=0.02)
    assert match.probability == pytest.approx(sum(h >= 3 for h in hits) / times, abs=0.01)
    assert match.least_probability == pytest.approx(math.comb(5, 4) / math.comb(12, 4))
    everything = Match("text", "nothing", pairs=12, overlap=5, given=5, possible=12)
    assert everything.probability == pytest.approx(1)


def test_pairs_mined_from_text_among_many_classes_are_closest_to_text():
    match, text = of_text(many_clues(40))
    assert match.recall > 0.7 and match.probability < 1e-6
    assert "closest to what text yields, which has looked at nothing" in text
    assert "weak sign" not in text


def test_all_of_seven_out_of_ten_pairs_are_a_weak_sign():
    clues = many_clues(5)
    features = clues.class_features()
    first, second = torch.triu_indices(5, 5, offset=1)
    nearest = (features @ features.t())[first, second].topk(7).indices
    match, text = of_text(clues, torch.stack([first[nearest], second[nearest]], dim=1))
    assert (match.overlap, match.precision, match.recall) == (7, 1.0, 1.0)
    assert "closest to what text yields" in text and "close to none" not in text
    assert "chance alone gives 4.9, and so many or more with probability 0.0083" in text
    assert text.endswith("a weak sign.")


def test_so_few_classes_that_a_full_match_is_chance_cannot_tell():
    match, text = of_text(few_clues())  # two of three pairs
    assert match.recall == 1 and match.probability == pytest.approx(1 / 3)
    assert text.startswith("So few classes cannot tell where the pairs are from")


def test_random_pairs_are_close_to_no_source():
    first, second = torch.triu_indices(40, 40, offset=1)
    chosen = torch.randperm(len(first), generator=torch.Generator().manual_seed(1))[:50]
    _, text = of_text(many_clues(40), torch.stack([first[chosen], second[chosen]], dim=1))
    assert text.startswith("The pairs are close to none of these sources")
