"""What a loss says of its images: how many the model, as it is, predicts right."""

import pytest
import torch
from conftest import LEARNING, eurosat_classes, golden_config

from nerp.base.registry import TRAINERS


def said_and_predicted(method, clip, images):
    """Labels of which every other one is what the model predicts: what the loss had right, and
    how many those are."""
    trainer = method(golden_config(), clip, eurosat_classes("base"))
    with torch.no_grad():
        labels = trainer.logits(images).argmax(1)
        labels[1::2] = (labels[1::2] + 1) % 5
        trainer.loss(images, labels)
    return trainer.right, (len(images) + 1) // 2


# The first phase of DeCoOp (test_decoop.py) has no logits of all classes.
@pytest.mark.parametrize("method", [name for name in LEARNING
                                    if TRAINERS[name].reads_labels and name != "DeCoOp"])
def test_every_method_says_it(method, golden_clip, inputs):
    said, predicted = said_and_predicted(TRAINERS[method], golden_clip, inputs[0])
    assert said == predicted


def test_with_the_alignment_term_the_method_says_it(golden_clip, inputs):
    said, predicted = said_and_predicted(TRAINERS["MMRL_SAR"], golden_clip, inputs[0])
    assert said == predicted
