"""Corrections of a stream see an image and those before it, and no other."""

import numpy as np
import pytest
import torch
from conftest import GOLDEN

from nerp.base.errors import NerpError
from nerp.correction import Running, anchored_bias, batch_bias, guarded_bias
from nerp.correction.running import KINDS, run


def drawn(images=400, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(images, classes, generator=generator, dtype=torch.float64)


def test_the_golden_streams():
    with np.load(GOLDEN / "corrections.npz") as arrays:
        golden = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    z = golden["input/logits"]
    for stream, name in ((Running("batch", 7), "batch_calibration_running/logits"),
                         (Running("anchored", 7, width=1.0), "running_anchored/logits")):
        wanted = golden[name]
        rows = z[: len(wanted)]
        torch.testing.assert_close(rows - run(stream, rows), wanted, rtol=0, atol=1e-9)


def test_batch_calibration_counts_the_present_image():
    z = drawn()
    for n, bias in enumerate(run(Running("batch", 5), z[:20]), 1):
        torch.testing.assert_close(bias, batch_bias(z[:n]))


@pytest.mark.parametrize(("kind", "function"),
                         [("anchored", anchored_bias), ("guarded", guarded_bias)])
def test_an_anchored_stream_starts_at_the_anchor_and_follows_what_came_before(kind, function):
    z, anchor = drawn(), torch.linspace(-1, 1, 5, dtype=torch.float64)
    found = run(Running(kind, 5, anchor, 0.4), z[:30])
    torch.testing.assert_close(found[0], anchor)
    for n in range(1, 30):
        torch.testing.assert_close(found[n], function(z[:n], anchor, 0.4))


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_later_changes_nothing(kind):
    z = drawn(images=40)
    other = torch.cat([z[:25], drawn(seed=1)[:15]])
    assert torch.equal(run(Running(kind, 5), z)[:25], run(Running(kind, 5), other)[:25])


@pytest.mark.parametrize(("kind", "function"),
                         [("anchored", anchored_bias), ("guarded", guarded_bias)])
def test_of_many_images_it_stays_near_what_all_before_ask_for(kind, function):
    z = drawn(images=1500)
    stream, anchor = Running(kind, 5), torch.zeros(5)
    found = run(stream, z)
    assert stream.count == 1500
    for n in (500, 1000, 1499):
        assert (found[n] - function(z[:n], anchor)).abs().max() < 0.1


@pytest.mark.parametrize(("call", "message"), [
    (lambda: Running("match", 5), "batch, anchored, guarded, not 'match'"),
    (lambda: Running("batch", 1), "one class"),
    (lambda: Running("anchored", 5, torch.zeros(4)), "the anchor is"),
    (lambda: Running("anchored", 5, width=0), "the width is 0"),
    (lambda: Running("batch", 5).update(torch.zeros(4)), r"expected \(5,\)"),
    (lambda: Running("batch", 5).update(torch.full((5,), torch.nan)), "image 0 of the stream"),
])
def test_bad_input_is_refused(call, message):
    with pytest.raises(NerpError, match=message):
        call()
