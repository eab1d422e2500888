"""ProGrad: both gradients of every step, their projection, and the words that it starts from."""

import os

import numpy as np
import pytest
import torch
from conftest import GOLDEN, eurosat_classes, golden_config
from engine.test_distributed import launch
from trainers.test_golden import OPTIM, build, golden

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.loading import load_model
from nerp.clip.model import Clip
from nerp.engine.checkpoint import read_checkpoint
from nerp.engine.optim import build_optimizer, learning_rate, take_step
from nerp.settings.published import own_setting
from nerp.trainers.prograd import ProGrad, project
from nerp.trainers.texts import Classes

UNSCALED = torch.amp.GradScaler("cpu", enabled=False)
GRADIENT = {"atol": 1e-5, "rtol": 0}


def test_the_gradients_of_six_steps(golden_clip, inputs):
    images, labels, _ = inputs
    z = golden("ProGrad")
    cfg = golden_config(OPTIM={"MAX_EPOCH": 3, **OPTIM["ProGrad"]})
    trainer = build("ProGrad", golden_clip, "base", cfg)
    optimizer = build_optimizer(trainer.parameters(), cfg.OPTIM)
    ctx, conflicts = trainer.parameter("ctx"), 0
    for step, batch in enumerate((slice(0, 4), slice(4, 8)) * 3):
        def look(step=step, batch=batch):
            nonlocal conflicts
            a, b = ctx.grad.clone(), trainer.conflicting / 4
            with torch.no_grad():
                f = trainer.image_features(images[batch])
                pair = (trainer.similarity(f, text) for text in (
                    trainer.class_features(), trainer.frozen_class_features()))
                alignment = trainer.alignment(*pair) / 4
            trainer.change_gradients()
            np.testing.assert_allclose(alignment, z["train/alignment"][step], atol=1e-3)
            cosine = torch.cosine_similarity(a.flatten(), b.flatten(), 0)
            np.testing.assert_allclose(cosine, z["train/cosine"][step], atol=1e-5)
            conflicts += bool(cosine < 0)
            for found, name in ((a, "gradient_cross_entropy"), (b, "gradient_alignment"),
                                (ctx.grad, "gradient")):
                torch.testing.assert_close(found, torch.tensor(z[f"train/{name}"][step]),
                                           **GRADIENT)

        optimizer.param_groups[0]["lr"] = learning_rate(cfg.OPTIM, step // 2)
        take_step(optimizer, UNSCALED, trainer.loss(images[batch], labels[batch]), 0.0, look)
    assert 0 < conflicts < 6


def test_only_what_runs_against_the_other_is_taken_away():
    a, b = torch.tensor([[-3.0, 4.0]]), torch.tensor([[2.0, 0.0]])
    assert project(a, b, 1.0).tolist() == [[0.0, 4.0]]
    assert project(a, b, 0.5).tolist() == [[-1.5, 4.0]]
    assert project(a, 100 * b, 1.0).tolist() == [[0.0, 4.0]]
    assert torch.equal(project(a, -b, 1.0), a)  # the same way
    assert torch.equal(project(a, 0 * b, 1.0), a)
    torch.testing.assert_close(project(2**16 * a, b, 0.8), 2**16 * project(a, b, 0.8))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_numbers_that_are_not_finite_are_not_hidden_from_the_loss_scaler(which, value):
    pair = [torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0])]
    pair[which][0] = value
    assert not project(*pair, 1.0).isfinite().all()


def test_a_scaled_loss_takes_the_same_step(golden_clip, inputs):
    found = []
    for scaler in (UNSCALED, torch.amp.GradScaler("cpu", init_scale=2.0**12)):
        trainer = build("ProGrad", golden_clip, "base")
        take_step(build_optimizer(trainer.parameters(), golden_config().OPTIM), scaler,
                  trainer.loss(*inputs[:2]), 0.0, trainer.change_gradients)
        found.append(trainer.parameter("ctx"))
    assert torch.equal(*found)
    assert not torch.equal(found[0], build("ProGrad", golden_clip, "base").parameter("ctx"))


def test_two_processes_project_the_gradients_of_both_together(
    golden_clip, golden_weights, inputs, tmp_path, monkeypatch
):
    images, labels, _ = inputs
    trainer = build("ProGrad", golden_clip, "base")
    take_step(build_optimizer(trainer.parameters(), golden_config().OPTIM), UNSCALED,
              trainer.loss(images, labels), 0.0, trainer.change_gradients)
    (tmp_path / "steps.py").write_text(f'''
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel
from nerp.base.distributed import is_main, processes, rank
from trainers.test_prograd import UNSCALED, share_of
from nerp.engine.train import _Step
from nerp.engine.optim import build_optimizer, take_step
torch.set_num_threads(1)
with processes():
    trainer, images, labels = share_of(Path({str(golden_weights)!r}), rank())
    step = DistributedDataParallel(_Step(trainer))
    loss = 2 * len(images) / 8 * step(images, labels)
    take_step(build_optimizer(trainer.parameters(), trainer.cfg.OPTIM), UNSCALED, loss, 0.0,
              trainer.change_gradients)
    if is_main():
        torch.save(trainer.parameter("ctx").grad, {str(tmp_path / "gradient.pt")!r})
''')
    tests = str(GOLDEN.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), tests]))
    launch(2, "steps")
    found = torch.load(tmp_path / "gradient.pt", weights_only=True)
    torch.testing.assert_close(found, trainer.parameter("ctx").grad, atol=1e-6, rtol=0)
    alone = []  # each by itself would come out elsewhere
    for rank in (0, 1):
        part, images, labels = share_of(golden_weights, rank)
        part.loss(images, labels).backward()
        part.change_gradients()
        alone.append(len(images) / 8 * part.parameter("ctx").grad)
    assert (sum(alone) - found).abs().max() > 1e-4


def share_of(weights, rank):
    """A trainer, and the golden images and labels that a process has: five or three."""
    z = np.load(GOLDEN / "inputs.npz")
    mine = slice(0, 5) if rank == 0 else slice(5, 8)
    clip = Clip(load_model(weights), "fp32", torch.device("cpu"), "golden")
    trainer = build("ProGrad", clip, "base")
    return trainer, torch.tensor(z["images"])[mine], torch.tensor(z["labels"])[mine]


def test_fewer_vectors_than_words_are_refused(golden_clip):
    cfg = golden_config()
    cfg.TRAINER.PROGRAD.N_CTX = 4
    with pytest.raises(NerpError, match="TRAINER.PROGRAD.N_CTX is 4; .* has 5 words"):
        ProGrad(cfg, golden_clip, eurosat_classes("base"))


@pytest.mark.parametrize(("words", "specific", "shape", "prefix"), [
    ("", False, (8, 128), "X X X X X X X X"), ("", True, (5, 8, 128), "X X X X X X X X"),
    ("a photo of a", False, (4, 128), "a photo of a"),
    ("template", True, (8, 128), "X X X a centered satellite photo of"),
])
def test_other_starts(words, specific, shape, prefix, golden_clip):
    cfg = golden_config()
    cfg.TRAINER.PROGRAD.update(CTX_INIT=words, CSC=specific)
    trainer = ProGrad(cfg, golden_clip, eurosat_classes("base"))
    assert trainer.parameter("ctx").shape == shape and trainer.prefix == prefix


def test_a_template_of_ones_own_may_have_words_behind_the_name(golden_clip):
    classes = Classes(("oak", "elm"), "a leaf of {}, pressed.", "a leaf.", dataset="Leaves")
    trainer = ProGrad(golden_config(), golden_clip, classes)
    assert trainer.prefix == "X X X X X a leaf of"


def test_a_file_that_says_no_method_is_the_one_asked_for_and_coops_by_default():
    file = GOLDEN / "checkpoints/ProGrad/prompt_learner/model.pth.tar-2"
    assert read_checkpoint(file).trainer == "CoOp"
    assert read_checkpoint(file, "ProGrad").trainer == "ProGrad"


@pytest.mark.parametrize(("key", "value", "means"), [
    ("TRAINER.COOP.CTX_INIT", True, ("TRAINER.PROGRAD.CTX_INIT", "template")),
    ("TRAINER.COOP.CTX_INIT", "False", ("TRAINER.PROGRAD.CTX_INIT", "")),
    ("TRAINER.COOP.N_CTX", 4, ("TRAINER.PROGRAD.N_CTX", 4)),
    ("TRAINER.COOP.ALPHA", 1.0, None), ("LOSS.GM", False, None), ("LOSS.NAME", "prograd", None),
    ("LOSS.LAMBDA", 0.8, ("TRAINER.PROGRAD.LAMBDA", 0.8)), ("LOSS.T", 2, ("TRAINER.PROGRAD.T", 2)),
])
def test_published_keys(key, value, means):
    assert own_setting(TRAINERS["ProGrad"], key, value, "here", False) == means


def test_another_loss_and_another_method_s_are_refused(nerp):
    for trainer, key, message in (("ProGrad", "LOSS.NAME=kl", "LOSS.NAME: ProGrad has no NAME"),
                                  ("CoOp", "LOSS.T=1", "unknown configuration key 'LOSS.T'")):
        status, _, error = nerp("config", "show", "--trainer", trainer, "--dataset", "eurosat", key)
        assert status == 1 and message in error
