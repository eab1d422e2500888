"""Stacking: the number that base classes can afford, and the best one in hindsight."""

import numpy as np
import pytest
import torch

from nerp.base.errors import NerpError
from nerp.correction.stacking import affordable_number, best_number
from nerp.engine.metrics import open_world

BASE = torch.tensor([True, True, False, False])


def drawn(seed, images=40):
    rng = np.random.default_rng(seed)
    labels = torch.tensor(np.concatenate([np.arange(4), rng.integers(0, 4, images)]))
    logits = torch.tensor(rng.normal(size=(len(labels), 4)) + 1.5 * np.eye(4)[labels])
    return logits, labels


def stacked(logits, number):
    return logits - number * BASE.double()


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.3, 0.9])
def test_the_affordable_number_costs_no_more_than_its_share_and_more_would(seed, share):
    logits, labels = drawn(seed)
    logits, labels = logits[BASE[labels]], labels[BASE[labels]]
    number = affordable_number(logits, labels, BASE, share)
    right = logits.argmax(1) == labels

    def lost(number):
        return int((right & (stacked(logits, number).argmax(1) != labels)).sum())

    allowed = int(share * len(labels))
    assert number >= 0 and lost(number) <= allowed
    if allowed < int(right.sum()):
        margins = (logits[right].gather(1, labels[right][:, None])[:, 0]
                   - logits[right][:, ~BASE].max(1).values).sort().values
        assert lost(float(margins[allowed]) + 1e-9) == allowed + 1


@pytest.mark.parametrize("seed", range(20))
def test_no_number_beats_the_best_one(seed):
    logits, labels = drawn(seed)
    number = best_number(logits, labels, BASE)
    best = open_world(stacked(logits, number), labels, BASE.numpy())["h"]
    for tried in np.linspace(-6, 6, 201):
        assert open_world(stacked(logits, tried), labels, BASE.numpy())["h"] <= best + 1e-12
    if best == open_world(logits, labels, BASE.numpy())["h"]:
        assert number == 0


def test_without_images_there_is_no_number():
    with pytest.raises(NerpError, match="no validation images"):
        affordable_number(torch.zeros(0, 4), torch.zeros(0).long(), BASE, 0.1)


def test_where_nothing_is_right_nothing_is_taken_off():
    assert affordable_number(torch.tensor([[0.0, 0, 1, 0]]), torch.tensor([0]), BASE, 0.1) == 0
