"""Biases that unlabelled images ask for: matching, anchored matching, when not to trust them."""

import math

import numpy as np
import pytest
import torch

from nerp.base.errors import NerpError
from nerp.correction import anchored_bias, guarded_bias, shift, stray, uniform_bias
from nerp.correction.matching import guard

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def drawn(images=500, classes=12, seed=0, frequencies=None):
    """Logits [N, C] in double precision of a model that prefers some classes, that preference [C],
    and labels [N]."""
    generator = torch.Generator().manual_seed(seed)
    frequencies = torch.ones(classes) if frequencies is None else frequencies
    labels = torch.multinomial(frequencies, images, replacement=True, generator=generator)
    bias = torch.randn(classes, generator=generator, dtype=torch.float64)
    logits = torch.randn(images, classes, generator=generator, dtype=torch.float64) + bias
    logits[torch.arange(images), labels] += 2.5
    return logits, bias - bias.mean(), labels


def mean(logits, bias):
    return (logits - bias).softmax(1).mean(0)


def test_matching_makes_the_mean_prediction_uniform_and_finds_a_preference():
    logits, bias, labels = drawn(images=4000)
    found = uniform_bias(logits)
    assert (mean(logits, found) - 1 / 12).abs().max() < 1e-14 and abs(found.mean()) < 1e-12
    assert np.corrcoef(found, bias)[0, 1] > 0.99
    right = [(shift(logits, b).predictions == labels).float().mean()
             for b in (torch.zeros(12), found)]
    assert right[1] > right[0] + 0.05


def test_with_the_labels_shares_it_is_the_bias_of_greatest_likelihood():
    logits, _, labels = drawn(images=300)
    shares = labels.bincount(minlength=12) / 300
    found = uniform_bias(logits, shares).requires_grad_()
    torch.nn.functional.cross_entropy(logits - found, labels).backward()
    assert found.grad.abs().max() < 1e-7  # the shares are float32


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1e-3, 1, 10, 100])
def test_matching_is_exact_however_certain_the_model_is(factor, kind, device):
    logits = (factor * drawn(images=600)[0]).to(device, kind)
    found = uniform_bias(logits)
    assert found.dtype == kind and found.device == logits.device
    assert (mean(logits, found) - 1 / 12).abs().sum() < 100 * torch.finfo(kind).eps * factor + 1e-6


def test_a_class_that_no_image_comes_near_is_brought_up():
    logits = torch.tensor([[0.0, 1.0, -500.0], [1.0, 0.0, -500.0], [0.5, 0.4, -500.0]])
    found = mean(logits, uniform_bias(logits))
    assert found.isfinite().all() and abs(float(found[2]) - 1 / 3) < 1e-4


@pytest.mark.parametrize("width", [0.05, 0.3, 2.0])
def test_the_anchored_bias_is_where_its_function_has_no_slope(width):
    logits, bias, _ = drawn(images=80)
    shares = torch.arange(1.0, 13.0, dtype=torch.float64) / 78
    found = anchored_bias(logits, bias, width, shares)
    slope = 80 * (shares - mean(logits, found)) + (found - bias) / width**2
    assert slope.abs().max() < 1e-9
    again = anchored_bias(logits, bias, width, shares, start=10 * bias.flip(0))
    torch.testing.assert_close(found, again, atol=1e-10, rtol=0)


def test_it_goes_from_the_anchor_to_matching_as_the_width_or_the_images_grow():
    logits, _, _ = drawn(images=200)
    anchor = torch.linspace(-1, 1, 12, dtype=torch.float64)
    matched = uniform_bias(logits)
    away = [float((anchored_bias(logits, anchor, width) - anchor).norm())
            for width in (1e-4, 0.1, 0.3, 1.0)]
    assert away[0] < 1e-6 and away == sorted(away)
    torch.testing.assert_close(anchored_bias(logits, anchor, 1e5), matched, atol=1e-5, rtol=0)
    torch.testing.assert_close(anchored_bias(logits, anchor, math.inf), matched)
    near = [float((anchored_bias(logits.repeat(times, 1), anchor, 0.1) - matched).norm())
            for times in (1, 10, 100)]
    assert near == sorted(near, reverse=True)


def test_only_differences_of_the_anchor_matter():
    logits, bias, _ = drawn(images=50)
    torch.testing.assert_close(anchored_bias(logits, bias + 7), anchored_bias(logits, bias))
    assert stray(logits, bias + 7) == pytest.approx(stray(logits, bias))


def test_it_is_trusted_where_classes_look_equally_frequent_and_not_where_they_do_not():
    logits, bias, _ = drawn(images=3000)
    even = guard(logits, bias)
    assert even.followed and not even.uneven and torch.equal(even.bias, anchored_bias(logits, bias))
    zipf = 1 / torch.arange(1.0, 13.0) ** 2
    logits, bias, _ = drawn(images=3000, frequencies=zipf)
    uneven = guard(logits, bias)
    assert not uneven.followed and not even.uneven and uneven.distance > 2 * even.distance
    torch.testing.assert_close(guarded_bias(logits, bias), bias)
    heedless = guard(logits, bias, heed=False)
    assert heedless.uneven and torch.equal(heedless.bias, anchored_bias(logits, bias))


def test_few_images_may_stray_further():
    logits, bias, _ = drawn(images=10)
    distance, noise = stray(logits, bias)
    assert distance > 0.5 and noise > distance and not guard(logits, bias).uneven


@pytest.mark.parametrize(("call", "message"), [
    (lambda z: uniform_bias(z[:0]), "no images"),
    (lambda z: uniform_bias(z[:, :1]), "one class"),
    (lambda z: uniform_bias(z[0]), r"expected \[images, classes\]"),
    (lambda z: uniform_bias(z.where(z != z[2, 1], math.nan)), "first: image 2"),
    (lambda z: uniform_bias(z.where(z != z[2, 1], -math.inf)), "image 2 are not finite"),
    (lambda z: uniform_bias(z, torch.full((12,), 0.1)), "sum to 1.2"),
    (lambda z: uniform_bias(z, torch.eye(12)[3]), "the share of class 0 is 0"),
    (lambda z: uniform_bias(z, torch.full((3,), 1 / 3)), "there are 12 classes"),
    (lambda z: anchored_bias(z, torch.zeros(3)), "the anchor is"),
    (lambda z: anchored_bias(z, torch.full((12,), math.nan)), "the anchor holds"),
    (lambda z: anchored_bias(z, width=0), "the width is 0"),
    (lambda z: stray(z[:, :1], torch.zeros(1)), "one class"),
])
def test_bad_input_is_refused(call, message):
    with pytest.raises(NerpError, match=message):
        call(drawn(images=5)[0])
