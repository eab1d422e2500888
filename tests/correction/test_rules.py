"""The registered rules: what each gives, what it needs, what it has looked at."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from nerp.base.errors import NerpError
from nerp.base.registry import RULES
from nerp.correction import (
    anchored_bias,
    batch_bias,
    class_bias,
    contextual_bias,
    guarded_bias,
    sinkhorn,
    stationary_bias,
    transport,
    uniform_bias,
)
from nerp.correction.correction import Extra, Run, carry_out
from nerp.correction.looked_at import SEEN_IMAGES, TEST_IMAGES, UNKNOWN
from nerp.correction.matched import LIMIT_OF_SPREAD, WIDTH_OF_SPREAD, Anchored, Batch, Match
from nerp.correction.published import Contextual
from nerp.correction.running import Running, ordered, run
from nerp.settings.defaults import default_config

NAMES = RULES.names()
PAIRS = torch.tensor([[0, 1]])


def drawn(images=300, classes=6, seed=0, uneven=False):
    generator = torch.Generator().manual_seed(seed)
    shares = 1 / torch.arange(1.0, classes + 1) ** 2 if uneven else torch.ones(classes)
    labels = torch.multinomial(shares, images, replacement=True, generator=generator)
    bias = torch.randn(classes, generator=generator)
    logits = torch.randn(images, classes, generator=generator) + bias
    logits[torch.arange(images), labels] += 2.5
    trained = (torch.arange(classes) < classes // 2).float()
    return logits, {"text": bias, "image": 2 * bias, "gap": bias,
                    "matched": -bias, "trained": trained,
                    "trained_ceiling": trained}


def extra(images=300, classes=6):
    generator = torch.Generator().manual_seed(3)
    return Extra(
        image_features=torch.randn(images, 8, generator=generator),
        text_features=torch.randn(classes, 8, generator=generator),
        image_mean=torch.randn(8, generator=generator), scale=torch.tensor(100.0),
        zero_shot_logits=torch.randn(images, classes, generator=generator),
        labelled_logits=torch.randn(60, classes, generator=generator),
        labelled_labels=torch.arange(60) % classes,
    )


def settings(**changes):
    node = default_config().NERP
    node.update(changes)
    return node


def made(name, **changes):
    node = settings(**changes)
    rule = RULES[name].from_config(node, dict.fromkeys(RULES[name].weighed(node), 0.5))
    return rule.settled(Run(node, [f"class {c}" for c in range(6)], seed=4, spread=lambda: 1.0))


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_predicts_what_its_corrected_logits_say(name):
    logits, priors = drawn()
    rule = made(name)
    found = carry_out(rule, logits, priors, PAIRS, extra())
    assert torch.equal(found.apply(logits).argmax(1), found.predictions)
    before = logits.argmax(1)
    assert torch.equal(found.images, (found.predictions != before).nonzero()[:, 0])
    assert torch.equal(found.source, before[found.images])
    assert torch.equal(found.target, found.predictions[found.images])
    torch.testing.assert_close(found.margin, (logits[found.images, found.source]
                                              - logits[found.images, found.target]))
    assert rule.note and rule.effect


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_without_what_it_needs_says_so(name):
    logits, priors = drawn()
    rule = made(name)
    if not rule.needs:
        assert carry_out(rule, logits, priors, PAIRS) is not None
        return
    with pytest.raises(NerpError, match=f"the rule {name} needs {rule.needs[0].replace('_', ' ')}"):
        carry_out(rule, logits, priors, PAIRS)


@pytest.mark.parametrize("name", NAMES)
def test_one_class_is_no_question_or_refused(name):
    one = torch.ones(5, 1)
    none = torch.zeros(0, 2, dtype=torch.long)
    priors = dict.fromkeys(drawn()[1], torch.ones(1))
    try:
        found = carry_out(made(name), one, priors, none, extra(5, 1))
    except NerpError as error:
        assert "one class" in str(error)
    else:
        assert len(found.images) == 0


@pytest.mark.parametrize(("rule", "bias"), [
    (Match(), uniform_bias), (Batch(), batch_bias),
    (RULES["stationary"](), stationary_bias),
    (Contextual(strengths={"text": 1.0, "image": 1.0}),
     lambda z: contextual_bias(torch.stack([drawn()[1]["text"], drawn()[1]["image"]]))),
    (Anchored(strengths={"gap": 0.5}),
     lambda z: guarded_bias(z, class_bias(drawn()[1], {"gap": 0.5}))),
    (Anchored(strengths={"gap": 0.5}, width=2.0, guard=False),
     lambda z: anchored_bias(z, class_bias(drawn()[1], {"gap": 0.5}), 2.0)),
], ids=lambda value: getattr(value, "name", ""))
def test_additive_rules_take_off_their_functions_bias(rule, bias):
    logits, priors = drawn()
    found = carry_out(rule, logits, priors, PAIRS)
    torch.testing.assert_close(found.apply(logits), logits - bias(logits))


def test_sinkhorn_and_transport_are_their_functions():
    logits, priors = drawn()
    scaled = carry_out(made("sinkhorn"), logits, priors, PAIRS).apply(logits)
    torch.testing.assert_close(scaled.softmax(1), sinkhorn(logits))
    assert torch.equal(carry_out(made("transport"), logits, priors, PAIRS).predictions,
                       transport(logits))


def test_the_anchored_match_says_what_it_found_and_did():
    logits, priors = drawn(images=3000)
    rule = Anchored(strengths={"gap": 1.0})
    even = carry_out(rule, logits, priors, PAIRS)
    assert even.findings["followed"] and "it is followed" in even.remark
    logits, _ = drawn(images=3000, uneven=True)
    uneven = carry_out(rule, logits, priors, PAIRS)
    assert uneven.findings["uneven"] and not uneven.findings["followed"]
    assert "do not look equally frequent, and the references' bias stands" in uneven.remark
    heedless = carry_out(replace(rule, guard=False), logits, priors, PAIRS)
    assert heedless.findings["followed"] and "all the same" in heedless.remark


def test_width_and_limit_are_multiples_of_the_spread_unless_they_are_given():
    rule = made("anchored")
    assert (rule.width, rule.limit) == (WIDTH_OF_SPREAD, LIMIT_OF_SPREAD)
    given = made("anchored", WIDTH=0.2, LIMIT=0.7, GUARD=False, ANCHOR=["text"])
    assert (given.width, given.limit, given.guard) == (0.2, 0.7, False)
    assert given.references == ("text",)


@pytest.mark.parametrize(("name", "kind"), [("batch", "batch"), ("anchored", "guarded")])
def test_a_stream_corrects_each_image_by_those_before_it(name, kind):
    logits, priors = drawn(images=50)
    rule = made(name, STREAM=True)
    assert rule.has_looked_at == SEEN_IMAGES and "in a stream (order 4)" in rule.note
    found = carry_out(rule, logits, priors, PAIRS)
    order = ordered(50, 4)
    anchor = None
    if name == "anchored":
        anchor = class_bias(priors, {"gap": 0.5, "image": 0.5, "matched": 0.5})
    width = (WIDTH_OF_SPREAD, LIMIT_OF_SPREAD)
    biases = run(Running(kind, 6, anchor, *width), logits[order])
    torch.testing.assert_close(found.apply(logits)[order], logits[order] - biases)


@pytest.mark.parametrize("name", ["match", "sinkhorn", "transport", "stationary"])
def test_what_needs_all_images_at_once_is_no_stream(name):
    with pytest.raises(NerpError, match="needs all test images at once"):
        made(name, STREAM=True)


def test_a_stream_of_one_image_is_refused():
    logits, priors = drawn(images=1)
    with pytest.raises(NerpError, match="a stream of 1 image"):
        carry_out(made("batch", STREAM=True), logits, priors, PAIRS)


def shares_file(folder, content):
    file = folder / "shares.json"
    file.write_text(json.dumps(content))
    return str(file)


def test_shares_in_a_file_are_met_and_their_origin_is_unknown(tmp_path):
    wanted = dict(zip((f"Class_{c}" for c in range(6)), [0.3, 0.25, 0.2, 0.1, 0.1, 0.05],
                      strict=True))
    file = shares_file(tmp_path, dict(reversed(wanted.items())))
    rule = made("match", SHARES=file)
    logits, priors = drawn()
    met = carry_out(rule, logits, priors, PAIRS).apply(logits).softmax(1).mean(0)
    np.testing.assert_allclose(met, list(wanted.values()), atol=1e-5)
    assert rule.has_looked_at == UNKNOWN and Match().has_looked_at == TEST_IMAGES


@pytest.mark.parametrize(("content", "message"), [
    ({"class 0": 1.0}, "no share of 'class 1'"),
    ({f"class {c}": 0.1 for c in range(6)}, "sum to 0.6"),
    ({f"class {c}": 1 / 7 for c in range(7)}, "'class 6' is no class under test"),
    ({f"class {c}": c / 15 for c in range(6)}, "the share of 'class 0' is 0"),
    ({f"class {c}": "many" for c in range(6)}, "the share of 'class 0' is 'many'"),
    ({f"class {c}": 10**400 for c in range(6)}, "the share of 'class 0' is 10000"),
])
def test_bad_shares_are_one_line(tmp_path, content, message):
    with pytest.raises(NerpError, match=message):
        made("match", SHARES=shares_file(tmp_path, content))
