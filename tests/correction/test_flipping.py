"""The flip against the published one and against a plain loop over images."""

import math

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from fake_cuda import Watch

from nerp.base.errors import NerpError
from nerp.correction.correction import ENTROPY, MARGIN, PROB, Correction
from nerp.correction.flipping import Rule, flip
from nerp.correction.shifting import shift

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def plain_flip(z, text, image, pairs, rule):
    """NeRP's rule for one image, in float32 as numpy scalars: the predicted class."""
    i = int(z.argmax())
    p = np.exp(z.astype(np.float64) - z.max())
    p /= p.sum()
    top5 = np.sort(p)[::-1][:5]
    top5 /= top5.sum()
    entropy = -sum(q * math.log(q) for q in top5 if q > 0)
    partners = {b for a, b in pairs if a == i} | {a for a, b in pairs if b == i}
    best = None
    for j in sorted(partners - {i}):
        gap = (text[i] - text[j]) + (image[i] - image[j])
        margin = z[i] - z[j]
        tests = []
        if rule.by_entropy:
            tests.append(entropy >= rule.entropy_thres)
        if rule.by_prob:
            tests.append(p[i] < 0.6)
        near = margin <= np.float32(rule.thres)
        if rule.flip_rule == "OR":
            weak = near or (bool(tests) and all(tests))
        else:
            weak = near and (not tests or tests[0])
        if gap >= np.float32(rule.tau) and weak and (best is None or z[j] > z[best]):
            best = j
    return i if best is None else best


def golden_rule(z, case):
    rule, by_prob, by_entropy, thres, tau, entropy = z[f"case{case}/setting"]
    return Rule(float(tau), float(thres), str(rule), by_entropy == "True", by_prob == "True",
                float(entropy))


@pytest.mark.parametrize("case", range(24))
def test_golden(case):
    z = np.load(GOLDEN / "flips.npz")
    logits, text, image, pairs = (
        torch.tensor(z[name]) for name in ("logits", "text_prior", "image_prior", "pairs")
    )
    found = flip(logits, text, image, pairs, golden_rule(z, case))
    assert np.array_equal(found.predictions, z[f"case{case}/pred"])
    assert torch.equal(found.apply(logits).argmax(1), found.predictions)


RULES = [
    Rule(tau, thres, name, entropy, prob, 1.1)
    for tau in (-1.0, 0.0, 0.7)
    for thres in (0.0, 0.6)
    for name in ("OR", "AND")
    for entropy in (False, True)
    for prob in (False, True)
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_equals_the_plain_loop(rule, device):
    rng = np.random.default_rng(RULES.index(rule))
    for classes in (2, 3, 5, 6, 30):
        for count in (0, 1, 4 * classes, classes * (classes - 1) // 2):
            images = 40
            # Steps of a quarter: exact in float32, and full of ties.
            logits = (rng.integers(-8, 9, (images, classes)) / 4).astype(np.float32)
            text, image = (rng.integers(-4, 5, (2, classes)) / 4).astype(np.float32)
            everything = [(a, b) for a in range(classes) for b in range(a)]
            pairs = everything if count == len(everything) else [
                tuple(pair) for pair in rng.integers(0, classes, (count, 2)).tolist()
            ]
            wanted = [plain_flip(z, text, image, pairs, rule) for z in logits]
            found = flip(
                torch.tensor(logits, device=device), torch.tensor(text, device=device),
                torch.tensor(image, device=device), torch.tensor(pairs, device=device), rule,
            )
            assert found.predictions.tolist() == wanted


def test_chunks_do_not_show(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(100, 8, generator=generator)
    prior = torch.randn(8, generator=generator)
    pairs = torch.randint(0, 8, (20, 2), generator=generator)
    rule = Rule(by_entropy=True, by_prob=True, thres=0.3)
    whole = flip(logits, prior, prior, pairs, rule)
    monkeypatch.setattr("nerp.correction.correction.AT_ONCE", 64)
    parts = flip(logits, prior, prior, pairs, rule)
    for name in Correction.__dataclass_fields__:
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name


def test_the_record_says_which_from_what_to_what_and_why():
    logits = torch.tensor([[5.0, 4.5, 0.0], [5.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 5.0, 4.9]])
    text = torch.tensor([1.0, 0.0, 0.0])
    found = flip(logits, text, torch.zeros(3), torch.tensor([[0, 1], [1, 2]]),
                 Rule(tau=0.5, thres=1.0))
    assert found.images.tolist() == [0]
    assert (found.source.item(), found.target.item(), found.reason.item()) == (0, 1, MARGIN)
    assert found.margin.item() == 0.5 and found.gap.item() == 1.0
    corrected = found.apply(logits)
    assert corrected[0].tolist() == pytest.approx([4.5, 5.0, 0.0])
    assert torch.equal(corrected[1:], logits[1:])
    p, after = logits.softmax(1), corrected.softmax(1)
    assert after[0].tolist() == pytest.approx(p[0, [1, 0, 2]].tolist())


def test_equal_logits_do_not_undo_a_flip():
    logits = torch.tensor([[5.0, 5.0, 5.0]])
    found = flip(logits, torch.tensor([1.0, 0.0, 0.0]), torch.zeros(3), torch.tensor([[0, 2]]),
                 Rule(tau=0.5))
    assert found.predictions.tolist() == found.apply(logits).argmax(1).tolist() == [2]


def test_reasons_add_up():
    logits = torch.tensor([[1.0, 0.9, 0.8, 0.7]])
    prior = torch.tensor([1.0, 0.0, 0.0, 0.0])
    rule = Rule(thres=1.0, by_entropy=True, by_prob=True, entropy_thres=1.0)
    found = flip(logits, prior, prior, torch.tensor([[0, 3]]), rule)
    assert found.reason.item() == MARGIN | ENTROPY | PROB


def test_nothing_to_correct():
    assert flip(torch.zeros(0, 3), torch.zeros(3), torch.zeros(3), torch.zeros(0, 2),
                Rule()).predictions.shape == (0,)
    none = Correction.none(torch.eye(3))
    assert none.predictions.tolist() == [0, 1, 2] and len(none.images) == 0
    assert torch.equal(none.apply(torch.eye(3)), torch.eye(3))


@pytest.mark.parametrize(("change", "message"), [
    ({"logits": torch.tensor([[0.0, float("nan"), 1.0]])}, "logits of 1 of 1 images are not"),
    ({"logits": torch.tensor([[0.0, float("inf"), 1.0]])}, "not finite"),
    ({"text_prior": torch.tensor([0.0, float("nan"), 0.0])}, "text prior holds numbers that are"),
    ({"image_prior": torch.tensor([0.0, float("inf"), 0.0])}, "image prior holds numbers that"),
    ({"text_prior": torch.zeros(4), "image_prior": torch.zeros(4)}, "3 classes, priors for 4"),
    ({"text_prior": torch.zeros(4)}, "expected"),
    ({"pairs": torch.tensor([[0, 3]])}, "a pair names class 3, there are 3"),
])
def test_bad_input(change, message):
    arguments = {"logits": torch.zeros(1, 3), "text_prior": torch.zeros(3),
                 "image_prior": torch.zeros(3), "pairs": torch.tensor([[0, 1]])}
    with pytest.raises(NerpError, match=message):
        flip(**(arguments | change), rule=Rule())


def test_unknown_rule():
    with pytest.raises(NerpError, match="FLIP_RULE is 'XOR'"):
        Rule(flip_rule="XOR")


def test_integers_are_not_multiplied_as_matrices_which_a_gpu_cannot():
    z = np.load(GOLDEN / "flips.npz")
    logits, text, image, pairs = (
        torch.tensor(z[name]) for name in ("logits", "text_prior", "image_prior", "pairs")
    )
    with Watch("cpu"):
        assert len(flip(logits, text, image, pairs, golden_rule(z, 0)).images)
        assert len(shift(logits, text, pairs).images)
