"""Transport: as many images for each class as its share asks for, with the most logits in all."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from nerp.correction.transport import transport, transport_plan


def drawn(images, classes, seed=0, factor=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = factor * torch.randn(images, classes, generator=generator)
    return logits + torch.randn(classes, generator=generator)


def total(logits, predictions):
    return float(logits[torch.arange(len(logits)), predictions].double().sum())


@pytest.mark.parametrize("factor", [0.01, 1.0, 300.0])
@pytest.mark.parametrize(("images", "classes"), [(60, 3), (120, 12), (40, 40)])
def test_it_is_the_best_of_all_assignments_that_meet_the_shares(images, classes, factor):
    logits = drawn(images, classes, factor=factor)
    plan = transport_plan(logits)
    counts = plan.predictions.bincount(minlength=classes)
    assert counts.eq(images // classes).all() and plan.split == 0
    places = np.repeat(logits.double().numpy(), images // classes, axis=1)
    rows, columns = linear_sum_assignment(-places)
    assert total(logits, plan.predictions) == pytest.approx(places[rows, columns].sum(), rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_with_any_shares_its_dual_is_a_bias_that_all_but_a_few_images_follow(seed):
    logits = drawn(200, 9, seed)
    shares = torch.rand(9, generator=torch.Generator().manual_seed(seed)).double() + 0.05
    shares /= shares.sum()
    plan = transport_plan(logits, shares)
    counts = plan.predictions.bincount(minlength=9)
    assert (counts - 200 * shares).abs().max() < 9 and plan.split <= 8
    follow = (logits.double() - plan.bias).argmax(1) == plan.predictions
    assert int((~follow).sum()) <= 8
    assert torch.equal(transport(logits, shares), plan.predictions)


def test_neither_an_images_own_number_nor_the_scale_has_an_effect():
    logits = drawn(90, 6).double()
    found = transport(logits)
    moved = 17 * logits + torch.arange(90.0)[:, None]
    assert torch.equal(transport(moved), found)


def test_images_that_are_all_alike_are_divided_among_the_classes():
    counts = transport(torch.zeros(30, 5)).bincount(minlength=5)
    assert counts.tolist() == [6] * 5
