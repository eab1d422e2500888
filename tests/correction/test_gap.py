"""The gap between the modalities as a neutral reference, and how much of it is a bias."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from nerp.correction.gap import gap_direction, gap_prior, slope_between_halves

SCALE = 100.0


def world(classes=24, images=40, gap=0.3, noise=0.1, seed=0):
    """Features of images that are their class's text, an offset that all share, and noise.

    Returns features [N, D], labels [N], text [K, D] and the offset [D].
    """
    generator = torch.Generator().manual_seed(seed)
    text = normalize(torch.randn(classes, 32, generator=generator), dim=-1)
    offset = gap * normalize(torch.randn(32, generator=generator), dim=-1)
    labels = torch.arange(classes).repeat_interleave(images)
    spread = noise * torch.randn(len(labels), 32, generator=generator)
    return 0.5 * text[labels] + offset + spread, labels, text, offset


def test_it_is_what_images_share_that_their_classes_do_not_explain():
    features, labels, text, offset = world(noise=0.02)
    found = gap_direction(features, labels, text)
    torch.testing.assert_close(found, offset, atol=5e-3, rtol=0)


def test_its_prior_predicts_the_bias_of_classes_that_gave_no_image():
    features, labels, text, offset = world()
    known = labels < 12
    prior = gap_prior(features[known], labels[known], text[:12], text[12:], SCALE)
    wanted = SCALE * text[12:] @ offset
    assert np.corrcoef(prior, wanted)[0, 1] > 0.95


def test_the_slope_tells_a_model_with_a_gap_from_one_without():
    biased = slope_between_halves(*world(noise=0.2)[:3], SCALE)
    assert 0.5 < biased < 1.5
    assert slope_between_halves(*world(noise=0.2)[:3], SCALE) == biased, "not repeatable"
    assert abs(slope_between_halves(*world(noise=0.2, gap=0)[:3], SCALE)) < 0.2


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_few_classes_have_no_slope(classes):
    assert slope_between_halves(*world(classes=classes)[:3], SCALE) is None
