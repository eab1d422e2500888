"""Additive corrections: a shift by priors, prior matching, both confined to pairs or not."""

import pytest
import torch

from nerp.base.errors import NerpError
from nerp.correction import class_bias, shift, uniform_bias
from nerp.correction.correction import SHIFT
from nerp.correction.matched import Match
from nerp.correction.shifting import Shift

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def drawn(images=500, classes=12, seed=0, device="cpu"):
    """Logits [B, C] whose model prefers some classes, and that preference [C]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (images,), generator=generator)
    bias = torch.randn(classes, generator=generator)
    logits = 2 * torch.nn.functional.one_hot(labels, classes) + bias
    logits = logits + torch.randn(images, classes, generator=generator)
    return logits.to(device), bias.to(device), labels.to(device)


@pytest.mark.parametrize("device", DEVICES)
def test_a_shift_is_the_logits_less_the_bias(device, monkeypatch):
    logits, bias, _ = drawn(device=device)
    found = shift(logits, bias)
    assert torch.equal(found.apply(logits), logits - bias)
    assert torch.equal(found.predictions, (logits - bias).argmax(1))
    before = logits.argmax(1)
    assert torch.equal(found.images, (before != found.predictions).nonzero()[:, 0])
    assert torch.equal(found.source, before[found.images])
    assert torch.equal(found.target, found.predictions[found.images])
    rows = found.images
    assert torch.equal(found.margin, logits[rows, found.source] - logits[rows, found.target])
    assert torch.equal(found.gap, bias[found.source] - bias[found.target])
    assert (found.gap >= found.margin).all() and (found.reason == SHIFT).all()
    monkeypatch.setattr("nerp.correction.correction.AT_ONCE", 64)
    chunked = shift(logits, bias)
    assert torch.equal(chunked.predictions, found.predictions)
    assert torch.equal(chunked.images, found.images)


@pytest.mark.parametrize("device", DEVICES)
def test_between_pairs_a_prediction_moves_to_a_partner_or_stays(device):
    logits, bias, _ = drawn(device=device)
    pairs = torch.tensor([[0, 1], [2, 5], [7, 2], [3, 3], [5, 2]])
    partners = {i: {j for a, b in pairs.tolist() for j in (a, b) if i in (a, b)} - {i}
                for i in range(12)}
    found = shift(logits, bias, pairs)
    z, b = logits.cpu().numpy(), bias.cpu().numpy()
    for image, row in enumerate(z):
        top = int(row.argmax())
        lifted = {j: row[j] + (b[top] - b[j]) for j in partners[top]}
        best = max(lifted, key=lifted.get, default=top)
        wanted = best if lifted and lifted[best] > row[top] else top
        assert found.predictions[image] == wanted
    assert 0 < len(found.images) < len(shift(logits, bias).images)
    assert torch.equal(found.apply(logits).argmax(1), found.predictions)
    nothing = shift(logits, bias, torch.zeros(0, 2))
    assert len(nothing.images) == 0 and torch.equal(nothing.apply(logits), logits)


def test_a_bias_that_prefers_no_class_changes_nothing():
    logits, _, _ = drawn()
    assert len(shift(logits, torch.full((12,), 3.0)).images) == 0


def test_class_bias_is_the_strengths_times_the_centred_priors():
    priors = {"text": torch.tensor([1.0, 2.0, 6.0]), "image": torch.tensor([0.0, 3.0, 0.0]),
              "gap": torch.tensor([9.0, 9.0, 0.0])}
    bias = class_bias(priors, {"text": 0.5, "image": 2.0})
    torch.testing.assert_close(bias, torch.tensor([-3.0, 3.5, -0.5]))
    with pytest.raises(NerpError, match="the strength of at least one neutral reference"):
        class_bias(priors, {})


def test_rules_correct_with_what_they_need():
    logits, bias, _ = drawn()
    priors = {"text": bias, "image": -bias, "others": torch.zeros(12)}
    pairs = torch.tensor([[0, 1]])
    rule = Shift(strengths={"text": 0.25})
    assert rule.references == ("text",) and not rule.uses_pairs
    wanted = shift(logits, 0.25 * (bias - bias.mean()))
    assert torch.equal(rule.correct(logits, priors, pairs).predictions, wanted.predictions)
    confined = Shift("pairs", {"text": 0.25})
    assert confined.uses_pairs and "between the classes of a pair" in confined.note
    assert set(confined.correct(logits, priors, pairs).source.tolist()) <= {0, 1}
    assert torch.equal(Match().correct(logits, {}, pairs).predictions,
                       shift(logits, uniform_bias(logits)).predictions)
    assert Match.looked_at == "test images"


@pytest.mark.parametrize(("logits", "bias", "pairs", "message"), [
    (torch.zeros(1, 3), torch.zeros(4), None, "3 classes, priors for 4"),
    (torch.zeros(1, 3), torch.tensor([0.0, float("nan"), 0.0]), None, "the bias holds numbers"),
    (torch.tensor([[0.0, float("nan")]]), torch.zeros(2), None, "logits of 1 of 1 images"),
    (torch.zeros(1, 3), torch.zeros(3), torch.tensor([[0, 3]]), "a pair names class 3"),
])
def test_bad_input_is_refused(logits, bias, pairs, message):
    with pytest.raises(NerpError, match=message):
        shift(logits, bias, pairs)
