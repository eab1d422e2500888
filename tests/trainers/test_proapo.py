"""ProAPO's searches make the candidates that the published code makes, in its order, and come to
what it comes to."""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import GOLDEN

from nerp.clip.model import normalise
from nerp.trainers.evolution.groups import make_groups
from nerp.trainers.evolution.texts import fill
from nerp.trainers.proapo import library, measure, search_descriptions, search_templates

LOGIT, FEATURE = {"atol": 1e-3, "rtol": 0}, {"atol": 1e-5, "rtol": 0}
WEIGHTS = ("score_top_1_rate", "score_top_5_rate", "score_redundant_score_l2_norm",
           "score_inter_class_score_CE")


@pytest.fixture(scope="module")
def z():
    with np.load(GOLDEN / "ProAPO.npz") as content:
        return {name: content[name] for name in content.files}


def given(z, name):
    return json.loads(str(z[f"given/{name}"]))


@pytest.fixture
def material(z, golden_clip):
    """Encoder, scale, training features and labels."""
    def encode(texts):
        return normalise(golden_clip.text_features(texts, cut=True))

    return (encode, golden_clip.scale, torch.tensor(z["train/features"]),
            torch.tensor(z["train/labels"]))


def setting(z, case, name):
    return z[f"{case}/setting/{name}"].item()


def settings(z, case, weights, **names):
    keys = {key: setting(z, case, name) for key, name in names.items()}
    return {**keys, weights: [setting(z, case, name) for name in WEIGHTS],
            "SAMPLE": setting(z, case, "prompt_sample_mode"),
            "CROSSOVER": setting(z, case, "crossover_mode")}


def test_the_library(z):
    found = library(given(z, "templates"), given(z, "kinds"))
    assert found == json.loads(str(z["mean/library"]))


def test_the_measures_of_a_template(z, material):
    encode, scale, features, labels = material
    first = json.loads(str(z["mean/library"]))[0]
    text = encode([first.format(name) for name in given(z, "classnames")])
    weights = [setting(z, "mean", name) for name in WEIGHTS]
    found = measure(scale * features @ text.t(), labels, text, weights)
    np.testing.assert_allclose(list(found.values()), z["mean/baseline"], atol=1e-3)


@pytest.mark.parametrize("case", ["mean", "weighted"])
def test_the_search_over_templates(z, material, case):
    asked = settings(z, case, "WEIGHTS", EPOCHS="epochs", MAX="num_max_prompt")
    found, trace = search_templates(
        given(z, "classnames"), json.loads(str(z[f"{case}/library"])), *material,
        SimpleNamespace(**asked), setting(z, case, "seed"),
    )
    kept = json.loads(str(z[f"{case}/kept"]))
    made = [";".join(str(kept.index(prompt)) for prompt in prompts) for prompts, _ in trace]
    assert made == z[f"{case}/trace"].tolist()
    np.testing.assert_allclose([fitness for _, fitness in trace], z[f"{case}/trace_fitness"],
                               atol=1e-3)
    assert found == json.loads(str(z[f"{case}/best"]))


def joined(pair):
    return pair[0] if pair[1] is None else "**+*+**".join(pair)


def digest(pairs):
    text = "\n".join(sorted(map(joined, pairs)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("case", ["classes", "plain"])
def test_the_search_over_descriptions(z, material, case):
    names = given(z, "classnames")
    templates = json.loads(str(z[f"{case}/start_templates"]))
    clusters = iter(torch.tensor(z[f"{case}/clusters"]))
    asked = settings(
        z, case, "WEIGHTS2", INNER="epochs_inner", OUTER="epochs_outer",
        GROUPS="num_max_search_group", SAMPLE_DESCRIPTIONS="description_sample",
    )
    found, trace = search_descriptions(
        names, given(z, "descriptions"), given(z, "synonyms"), templates, *material,
        lambda text: next(clusters), asked, setting(z, case, "seed"),
    )
    assert [digest(pairs) for pairs, _ in trace] == z[f"{case}/trace_digest"].tolist()
    np.testing.assert_allclose([fitness for _, fitness in trace], z[f"{case}/trace_fitness"],
                               atol=1e-3)
    final = json.loads(str(z[f"{case}/final"]))
    for name, pairs in found.items():
        texts = [fill(template, pair) for template in templates for pair in pairs]
        assert texts == list(map(str.lower, final[name]))
    encode, scale, *_ = material
    text = torch.stack([
        normalise(encode([fill(t, pair) for t in templates for pair in found[name]]).mean(0))
        for name in names
    ])
    torch.testing.assert_close(text, torch.tensor(z[f"{case}/final_text_features"]), **FEATURE)
    logits = scale * torch.tensor(z["test/features"]) @ text.t()
    torch.testing.assert_close(logits, torch.tensor(z[f"{case}/final_logits"]), **LOGIT)


def test_classes_that_gain_have_groups_of_their_own_and_the_worst_are_left_out():
    """Ten classes, each image of class c taken for c alone: no confusion but rank for label."""
    labels = torch.arange(10).repeat_interleave(2)
    logits = 10 * torch.eye(10)[labels] + 0.01 * torch.arange(10.0)
    gains = dict(enumerate([0.5, 0.3, 0.05, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0]))
    groups = make_groups(logits, labels, [0] * 10, gains.__getitem__)
    assert groups[0] == [0, 1]  # 0.05 is too little for a third
    later = {c for number, group in groups.items() if number for c in group}
    assert later and not later & {6, 7, 8, 9}  # 40 % of ten, the worst
    assert all(len(group) <= 10 for group in groups.values())
