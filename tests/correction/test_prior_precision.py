"""Priors are made in float32 of the features there are, whatever the backbone's precision."""

import contextlib
from functools import cache

import pytest
import torch
from conftest import eurosat_classes, golden_config

from nerp.base.registry import REFERENCES, TRAINERS
from nerp.clip.loading import load_model
from nerp.clip.model import Clip
from nerp.correction.pairs import Labelled
from nerp.correction.references import Openness, Probe, Shown
from nerp.correction.wrapper import class_orders

FEATURES = ("reference_class_features", "neutral_features", "reference_logits",
            "frozen_class_features")


@pytest.fixture
def trainer(golden_weights):
    """CoOp in bfloat16, whose features are computed once."""
    torch.manual_seed(0)
    clip = Clip(load_model(golden_weights), "bf16", torch.device("cpu"), "golden")
    trainer = TRAINERS["CoOp"](golden_config(), clip, eurosat_classes("new"))
    for name in FEATURES:
        setattr(trainer, name, cache(getattr(trainer, name)))
    trainer.clip.image_features = cache(trainer.clip.image_features)
    return trainer


def without_autocast(trainer, make):
    """What `make` gives under the backbone's autocast and, of the same features, outside of it."""
    with torch.no_grad():
        with trainer.clip.autocast():
            found = make()
        trainer.clip.autocast = contextlib.nullcontext
        return found, make()


@pytest.mark.parametrize("reference", REFERENCES.names())
def test_a_prior(reference, trainer, inputs):
    generator = torch.Generator().manual_seed(0)
    seen, reference_image = trainer.for_classes(eurosat_classes("base")), inputs[0][:1]
    with torch.no_grad(), trainer.clip.autocast():
        shown = Shown(trainer.image_features(inputs[0]), torch.arange(8) % 5,
                      seen.class_features(), list(seen.classes.names))
    logits = torch.randn(8, 5, generator=generator)
    labelled = Labelled(logits, torch.arange(8) % 5, list(trainer.classes.names))
    openness = Openness(torch.arange(5) < 3, lambda: labelled, lambda: labelled)
    probe = Probe(trainer, trainer.cfg.NERP, lambda: reference_image, lambda: shown, lambda: logits,
                  openness)
    found, wanted = without_autocast(trainer, lambda: REFERENCES[reference](probe))
    assert torch.equal(found.values, wanted.values) and found.strength == wanted.strength


def test_the_orders_of_classes(trainer, inputs):
    reference = inputs[0][:1]
    found, wanted = without_autocast(trainer, lambda: class_orders(trainer, reference))
    for pair, other in zip(found, wanted, strict=True):
        assert all(map(torch.equal, pair, other))
