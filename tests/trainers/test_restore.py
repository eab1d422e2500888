"""RESTORE's numbers that no gradient reaches: the ratios of its calibrators, the first norms."""

import numpy as np
import pytest
import torch
from conftest import GOLDEN, eurosat_classes, golden_config, golden_options

from nerp.base.registry import TRAINERS
from nerp.engine.train import STATE_FILE
from nerp.files.tensors import load_inert


def build(golden_clip, **settings):
    cfg = golden_config(OPTIM={"MAX_EPOCH": 3})
    cfg.TRAINER.RESTORE.update(settings)
    return TRAINERS["RESTORE"](cfg, golden_clip, eurosat_classes("base"))


def ratios(trainer):
    return [trainer.ratio(kind).item() for kind in ("text", "image")]


def test_the_ratios_change_once_by_the_norms_of_the_prompts(golden_clip):
    trainer = build(golden_clip)
    text, image = (
        np.mean([np.linalg.norm(p.T @ p) for p in (t.detach().numpy() for t in prompts)])
        for prompts in (trainer.text_tokens().values(),
                        [t for layer, t in trainer.vision_tokens().items() if layer > 1])
    )
    wanted = [[0.3, 0.2], [0.3 + 0.02 * text, 0.2 + 0.005 * image]]
    for epoch, expected in enumerate((wanted[0], wanted[1], wanted[1])):
        trainer.end_epoch(epoch)
        np.testing.assert_allclose(ratios(trainer), expected, rtol=1e-5)


def test_the_published_ratios_of_each_epoch(golden_clip, inputs):
    z = np.load(GOLDEN / "RESTORE.npz")
    np.testing.assert_allclose(z["train/ratios"][0], ratios(build(golden_clip)), rtol=1e-6)
    assert (z["train/ratios"][1] == z["train/ratios"][0]).all()  # the second epoch's change counts
    assert (z["train/ratios"][2:] > z["train/ratios"][1]).all()


def test_with_one_prompted_layer_there_is_nothing_to_hold_together(golden_clip, inputs):
    trainer = build(golden_clip, PROMPT_DEPTH=1)
    images, labels, _ = inputs
    entropy = trainer.cross_entropy(trainer.logits(images), labels)
    assert torch.equal(trainer.loss(images, labels), entropy)
    trainer.end_epoch(1)
    np.testing.assert_allclose(ratios(trainer), [0.3, 0.2], rtol=1e-6)
    assert trainer.training_state() == {}


@pytest.fixture
def interrupted(stopped, small_run, tmp_path):
    """The command of a training, and the folder where it stopped after two of four epochs."""
    flags, opts = small_run
    command = ["train", "--trainer", "RESTORE", *flags, *opts, *golden_options("RESTORE"),
               "OPTIM.MAX_EPOCH", "4", "DATASET.SUBSAMPLE_CLASSES", "base"]
    assert stopped(*command, "--output-dir", tmp_path / "cut")[0] == 130
    return command, tmp_path / "cut"


def test_a_state_without_the_norms_is_refused(interrupted, nerp):
    command, cut = interrupted
    content = load_inert(cut / STATE_FILE)
    assert content["method"]["first_norms"].shape == (2, 2)
    torch.save({**content, "method": {}}, cut / STATE_FILE)
    status, _, error = nerp(*command, "--output-dir", cut)
    assert status == 1 and "not the state of a training; --overwrite begins anew" in error
