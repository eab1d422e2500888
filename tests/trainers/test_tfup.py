"""TFUP's functions compute what the published code computes, and its training goes as there."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN

from nerp.base.errors import NerpError
from nerp.clip.model import normalise
from nerp.trainers.pseudo import votes
from nerp.trainers.tfup import (
    adapted_image,
    adapted_text,
    logits,
    marginal,
    select,
    shots,
    similarity,
)

LOGIT, FEATURE = {"atol": 1e-3, "rtol": 0}, {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def z():
    with np.load(GOLDEN / "TFUP.npz") as content:
        return {name: torch.from_numpy(content[name]) for name in content.files
                if content[name].dtype.kind in "fi"}


def test_how_many_images_stand_for_a_class(z):
    images, classes = len(z["unlabelled/features"]), len(z["text_features"])
    assert shots(images, classes, 0.3, 16) == z["setting/shots"]
    assert shots(images, classes, 0.75) == z["setting/training_shots"]
    assert shots(10_000, 10, 0.3, 16) == 16


def test_which_images_stand_for_a_class(z):
    for k, name in ((9, "select"), (18, "refine")):
        found = select(z["unlabelled/features"], z["text_features"], k)
        assert torch.equal(found, z[f"{name}/indices"])


def test_too_few_images_are_an_error_that_says_how_many():
    with pytest.raises(NerpError, match="8 images .* 3 classes 9"):
        select(torch.ones(8, 4), torch.ones(3, 4), 9)


def test_similarity_votes_and_pseudo_labels(z):
    text, keys, labels = z["text_features"], z["cache/keys"], z["cache/labels"]
    beta, alpha = float(z["setting/beta"]), float(z["setting/alpha"])
    found = similarity(*map(normalise, (z["test/features"], keys, text)))
    torch.testing.assert_close(found, z["test/similarity"], **FEATURE)
    for images in ("test", "unlabelled"):
        found = logits(z[f"{images}/features"], keys, labels, text, beta, alpha)
        torch.testing.assert_close(found, z[f"{images}/logits"], **LOGIT)
    kept = z["unlabelled/features"][z["refine/indices"]].flatten(0, 1)
    pseudo = logits(kept, keys, labels, text, beta, alpha).argmax(1)
    assert torch.equal(pseudo.view_as(z["refine/pseudo_labels"]), z["refine/pseudo_labels"])


def test_keys_that_are_all_as_far_away_count_alike():
    same = normalise(torch.ones(3, 4))
    assert torch.equal(similarity(same, same, normalise(torch.eye(4)[:2])), torch.ones(3, 3))


def test_the_training(z):
    text, keys, labels = z["text_features"], normalise(z["cache/keys"]), z["cache/labels"]
    res = torch.zeros_like(text).requires_grad_()
    down, up = (z[f"param/image_adapter.fc.{i}.weight"].clone().requires_grad_() for i in (0, 2))
    optimizer = torch.optim.AdamW([res, down, up], eps=0.003, weight_decay=0.1)
    pseudo = z["refine/pseudo_labels"].flatten()
    strong = [*z["train/strong_refine"], *z["train/strong_main"]]
    batches = [*z["train/refine_batches"].flatten(0, 1), *z["train/main_batches"].flatten(0, 1)]
    losses, sure = [], []
    for batch, images, rate in zip(batches, strong, z["train/lrs"].tolist(), strict=True):
        t = adapted_text(text, res, 0.5)
        found = 100 * adapted_image(images, down, up, 0.2) @ t.t()
        if len(losses) < 4:
            loss = F.cross_entropy(found, pseudo[batch])
        else:
            with torch.no_grad():
                still = adapted_image(z["unlabelled/features"][batch], down, up, 0.2)
                weak = 100 * still @ t.t() + 0.3 * votes(still, keys, labels, t, 1.0)
                most, predicted = weak.softmax(1).max(1)
            kept = most > 0.9
            sure.append(int(kept.sum()))
            loss = F.cross_entropy(found[kept], predicted[kept]) + 0.3 * marginal(found)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sure == z["train/confident"].tolist()
    np.testing.assert_allclose(losses, z["train/losses"], atol=1e-3, rtol=0)
    for name, tensor in (("res", res), ("image_adapter.fc.0.weight", down),
                         ("image_adapter.fc.2.weight", up)):
        torch.testing.assert_close(tensor.detach(), z[f"trained/{name}"], **FEATURE)
