"""Half precision: what a GPU does in float16, a CPU does in bfloat16 on the same paths."""

import pytest
import torch
from conftest import GOLDEN_SETTINGS, eurosat_classes, golden_config

from nerp.base.registry import TRAINERS
from nerp.clip.loading import load_model
from nerp.clip.model import Clip

METHODS = [name for name in TRAINERS.names()
           if TRAINERS[name].folder and not TRAINERS[name].on_features]


def step(method, precision, weights, inputs, like=None):
    """The trainer, the loss of a batch, and its gradient as one vector. like: of its tensors."""
    torch.manual_seed(0)
    tensors = like and like.learned.state_dict()
    clip = Clip(load_model(weights), precision, torch.device("cpu"), "golden")
    cfg = golden_config()
    cfg.TRAINER[TRAINERS[method].node].PREC = precision  # a teacher's too
    trainer = TRAINERS[method](cfg, clip, eurosat_classes("base"), tensors)
    if like is not None and method == "PromptKD":
        trainer._vision = like._vision  # of its teacher, which no checkpoint has
    with clip.autocast():
        loss = trainer.loss(inputs[0], inputs[1] % 5)
    loss.backward()
    trainer.change_gradients()
    return trainer, loss.item(), torch.cat(
        [p.grad.flatten() for p in trainer.parameters() if p.grad is not None])


@pytest.mark.parametrize("method", METHODS)
def test_a_step_in_half_precision_is_that_of_float32_rounded(method, golden_weights, inputs):
    trainer, wanted, gradient = step(method, "fp32", golden_weights, inputs)
    _, loss, rounded = step(method, "bf16", golden_weights, inputs, trainer)
    assert loss == pytest.approx(wanted, rel=0.1, abs=0.01)
    assert torch.cosine_similarity(gradient, rounded, dim=0) > 0.95


@pytest.mark.parametrize("method", ["CoCoOp", "MMA", "MMRL"])
def test_training_and_correction_in_half_precision(
    method, nerp, eurosat_root, golden_weights, tmp_path
):
    node = TRAINERS[method].node
    settings = [x for key, value in GOLDEN_SETTINGS[method].items()
                for x in (f"TRAINER.{node}.{key}", value)]
    for phase, name, classes in (("train", method, "base"), ("test", f"{method}_NeRP", "new")):
        line = [phase, "--trainer", name, "--root", eurosat_root, "--dataset", "eurosat",
                "--output-dir", tmp_path / phase, "MODEL.BACKBONE.PATH", golden_weights,
                f"TRAINER.{node}.PREC", "bf16", "DATASET.SUBSAMPLE_CLASSES", classes,
                "DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "1", *settings]
        if phase == "test":
            line[1:1] = ["--model-dir", tmp_path / "train"]
        status, _, error = nerp(*line)
        assert status == 0, error
