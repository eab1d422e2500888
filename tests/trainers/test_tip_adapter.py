"""Tip-Adapter's functions compute what the published code computes."""

import numpy as np
import pytest
import torch
from conftest import GOLDEN

from nerp.clip.model import normalise
from nerp.trainers.tip_adapter import cache_keys, grid, logits, search

LOGIT, FEATURE = {"atol": 1e-3, "rtol": 0}, {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def z():
    with np.load(GOLDEN / "TipAdapter.npz") as content:
        return {name: torch.from_numpy(content[name]) if content[name].dtype.kind in "fi"
                else content[name] for name in content.files}


def test_a_key_is_the_mean_of_the_views(z):
    torch.testing.assert_close(cache_keys(z["cache/views"]), z["cache/keys"], **FEATURE)
    labels = z["images/labels"]
    torch.testing.assert_close(torch.eye(5)[labels], z["cache/values"])


def test_votes_stand_beside_the_zero_shot_logits(z):
    beta, alpha = float(z["setting/beta"]), float(z["setting/alpha"])
    features, keys, labels = z["image_features"], z["cache/keys"], z["images/labels"]
    found = logits(features, z["base/text_features"], keys, labels, beta, alpha)
    torch.testing.assert_close(found, z["base/logits"], **LOGIT)
    silent = logits(features, z["base/text_features"], keys, labels, beta, 0.0)
    torch.testing.assert_close(silent, z["base/zero_shot_logits"], **LOGIT)


def test_a_key_of_no_class_votes_for_nothing(z):
    text = z["new/text_features"]
    nobody = torch.full_like(z["images/labels"], -1)
    found = logits(z["image_features"], text, z["cache/keys"], nobody, 5.5, 2.5)
    assert torch.equal(found, 100 * z["image_features"] @ text.t())
    torch.testing.assert_close(found, z["new/logits"], **LOGIT)


def test_the_search_takes_the_first_of_the_best(z):
    _, _, *scale, beta_steps, alpha_steps = z["world/setting"].tolist()
    betas, alphas = grid(scale[0], int(beta_steps)), grid(scale[1], int(alpha_steps))
    arguments = (z["world/text_features"], z["world/keys"], z["world/train_labels"])
    best = search(z["world/val_features"], z["world/val_labels"], *arguments, betas, alphas)
    assert best == tuple(z["search/best"].tolist())
    found = logits(z["world/test_features"], *arguments, *best)
    torch.testing.assert_close(found, z["search/logits"], **LOGIT)


def test_a_search_in_which_nothing_is_right_finds_nothing():
    features = torch.eye(2)
    found = search(features, torch.tensor([5, 5]), features, features, torch.arange(2), [1.], [1.])
    assert found == (0.0, 0.0)


def test_the_keys_are_trained(z):
    epochs, size, rate = z["train/setting"].tolist()
    beta, alpha = z["world/setting"][:2].tolist()
    keys = z["world/keys"].clone().requires_grad_()
    features = normalise(z["world/train_features"])
    optimizer = torch.optim.AdamW([keys], lr=rate, eps=1e-4, weight_decay=0.01)
    losses = []
    rates = iter(z["train/lrs"].tolist())
    for epoch, order in enumerate(z["train/order"]):
        for batch in order.split(int(size)):
            optimizer.param_groups[0]["lr"] = next(rates)
            found = logits(features[batch], z["world/text_features"], keys,
                           z["world/train_labels"], beta, alpha)
            loss = torch.nn.functional.cross_entropy(found, z["world/train_labels"][batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        torch.testing.assert_close(keys.detach(), z["train/keys_by_epoch"][epoch], **FEATURE)
    np.testing.assert_allclose(losses, z["train/losses"], atol=1e-3, rtol=0)
