"""MoCoOp: its losses, its templates, the names of novel classes, what the reference image's gate
mixes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import EUROSAT, GOLDEN, eurosat_classes, golden_config, golden_options
from PIL import Image
from trainers.test_golden import FEATURE, OPTIM, golden, tensors

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.data.images import Normalise, eval_transform
from nerp.engine.checkpoint import read_checkpoint
from nerp.engine.optim import build_optimizer, take_step
from nerp.engine.schedule import make_schedule
from nerp.trainers.gated import gate_target
from nerp.trainers.mocoop_words import Words


def build(clip, which="base", everyone=(), **changes):
    classes = replace(eurosat_classes(which), everyone=everyone)
    cfg = golden_config(**changes)
    return TRAINERS["MoCoOp"](cfg, clip, classes, tensors("MoCoOp", "param"))


def test_the_text_loss_runs_over_all_of_the_datasets_names(golden_clip, inputs):
    images, labels, _ = inputs
    z, trainer = golden("MoCoOp"), build(golden_clip, everyone=EUROSAT)
    torch.testing.assert_close(trainer.prototypes(), torch.tensor(z["train/prototypes"]),
                               **FEATURE)
    own = trainer.prototypes()[:, labels[:4]]
    target = gate_target(trainer.image_features(images[:4]), own)
    torch.testing.assert_close(target.detach(), torch.tensor(z["train/gate_target"]), **FEATURE)
    loss = trainer.loss(images[:4], labels[:4])
    np.testing.assert_allclose(loss.item(), z["train/losses"][0], atol=1e-3)
    loss.backward()
    for name, tensor in trainer.learned.named_parameters():
        wanted = torch.tensor(z[f"train/first_gradient/{name}"])
        torch.testing.assert_close(tensor.grad, wanted, atol=1e-4, rtol=0, msg=name)


def test_where_the_trained_classes_are_all_there_are_the_loss_is_over_them(golden_clip, inputs):
    loss = build(golden_clip).loss(inputs[0][:4], inputs[1][:4])
    np.testing.assert_allclose(loss.item(), golden("MoCoOp")["all/loss"], atol=1e-3)


def test_in_small_batches_only_picked_experts_are_computed(golden_clip, inputs):
    trainer = build(golden_clip, everyone=EUROSAT)
    trainer.cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 1
    loss = trainer.loss(inputs[0][1:2], inputs[1][1:2])
    np.testing.assert_allclose(loss.item(), golden("MoCoOp")["one/loss"], atol=1e-3)
    loss.backward()
    computed = [g for g in range(6) if any(
        trainer.parameter(f"prompt_learner.ctx_{side}_{g}").grad is not None
        for side in ("before", "after")
    )]
    assert len(computed) == 2


def test_without_amp_no_gradient_is_cut(golden_clip, inputs):
    images, labels, _ = inputs
    trainer = build(golden_clip, everyone=EUROSAT, OPTIM={"MAX_EPOCH": 3, **OPTIM["MoCoOp"]})
    trainer.settings.defrost()
    trainer.settings.PREC = "fp32"
    optimizer = build_optimizer(trainer.parameter_groups(), trainer.cfg.OPTIM)
    schedule, losses = make_schedule(trainer.cfg.OPTIM, 2, None), []
    for epoch in range(3):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(epoch, 0, group["factor"])
        for batch in (slice(0, 4), slice(4, 8)):
            loss = trainer.loss(images[batch], labels[batch])
            take_step(optimizer, torch.amp.GradScaler("cpu", enabled=False), loss,
                      trainer.clip_norm)
            losses.append(loss.item())
    np.testing.assert_allclose(losses, golden("MoCoOp")["unclipped/losses"], atol=1e-3)


def test_the_reference_images_gate_mixes_the_frozen_features(golden_clip, inputs):
    z, trainer = golden("MoCoOp"), build(golden_clip, "new")
    pixels = eval_transform(trainer.cfg, golden_clip.size)(Image.fromarray(inputs[2]))[None]
    reference = Normalise(trainer.cfg, golden_clip.device)(pixels)
    with torch.no_grad():
        gate = trainer.gate(trainer.image_features(reference))[0]
    torch.testing.assert_close(gate, torch.tensor(z["nerp/gate_logits"]), atol=1e-4, rtol=0)
    wanted = torch.tensor(z["nerp/zero_shot_text_features"])
    torch.testing.assert_close(trainer.frozen_class_features(reference), wanted, **FEATURE)


@pytest.mark.parametrize(("template", "pieces"), [
    ("{} texture.", (0, 2)), ("a photo of a {}.", (4, 0)), ("a photo of a  {}.", (5, 0)),
    ("a close-up photo of the {}.", (5, 0)), ("a {} in a video game.", (1, 5)),
    ("a photo of a {}, a type of flower.", (4, 5)),
])
def test_vectors_are_counted_in_pieces(template, pieces):
    assert Words(template).pieces == pieces


@pytest.mark.parametrize(("dataset", "task", "seen", "groups"), [
    ("EuroSAT", "B2N", True, 6), ("EuroSAT", "CD", False, 20), ("ImageNet", "CD", True, 20),
    ("MyOwn", "B2N", True, 4),
])
def test_templates_are_those_of_the_dataset_trained_on(dataset, task, seen, groups, golden_clip):
    cfg = golden_config()
    cfg.TASK = task
    cfg.TRAINER.MoCoOp.update({"PROMPTS": [], "GROUPS": []})
    classes = replace(eurosat_classes("base"), dataset=dataset, seen=seen)
    trainer = TRAINERS["MoCoOp"](cfg, golden_clip, classes)
    assert len(trainer.experts) == len(trainer.settings.GROUPS) == groups


@pytest.mark.parametrize(("settings", "said"), [
    ({"GROUPS": [9]}, r"GROUPS is \[9\]"), ({"GROUPS": [4, 4]}, "9 in all"),
    ({"GROUPS": []}, "GROUPS is"), ({"ENABLE": False}, "ENABLE is False"),
])
def test_groups_that_are_not_the_prompts_are_refused(settings, said, golden_clip):
    cfg = golden_config()
    cfg.TRAINER.MoCoOp.update(settings)
    with pytest.raises(NerpError, match=f"TRAINER.MoCoOp.*{said}"):
        TRAINERS["MoCoOp"](cfg, golden_clip, eurosat_classes("base"))


@pytest.mark.parametrize(("settings", "missing", "fixed"), [
    ({"ENABLE_CORRECTION": False}, {"prompt_learner.w"}, 0),
    ({"TRAIN_W": False}, set(), 1), ({"FINETUNE_VIT_LN": False}, set(), 16),
])
def test_what_is_not_trained(settings, missing, fixed, golden_clip, inputs):
    cfg = golden_config()
    cfg.TRAINER.MoCoOp.update(settings)
    trainer = TRAINERS["MoCoOp"](cfg, golden_clip, eurosat_classes("base"))
    assert set(tensors("MoCoOp", "param")) - set(trainer.learned.state_dict()) == missing
    assert len(dict(trainer.learned.named_buffers())) == fixed
    trainer.loss(inputs[0], inputs[1] % 5).backward()


def test_other_templates_than_a_files_are_refused_with_both_counts(nerp, small_run, tmp_path):
    flags, opts = small_run
    status, _, error = nerp(
        "test", "--trainer", "MoCoOp", *flags, "--output-dir", tmp_path / "test", "--model-dir",
        GOLDEN / "checkpoints" / "MoCoOp", *opts, "OPTIM.WARMUP_EPOCH", "0")
    assert status == 1 and len(error.splitlines()) == 1
    assert "[(0, 2), (5, 0), (5, 0), (1, 5), (5, 0), (4, 5)]" in error and "(5, 0)" in error
    assert not (tmp_path / "test").exists()


def test_numbers_say_that_names_of_novel_classes_were_seen(nerp, small_run, tmp_path):
    flags, opts = small_run
    command = ["train", "--trainer", "MoCoOp", *flags, *opts, *golden_options("MoCoOp"),
               "DATASET.SUBSAMPLE_CLASSES", "base", "--output-dir", tmp_path / "run"]
    status, text, error = nerp(*command)
    assert status == 0, error
    checkpoint = read_checkpoint(tmp_path / "run" / "prompt_learner" / "model.pth.tar-2")
    assert checkpoint.settings["GROUPS"] == [1, 2, 1, 1, 3, 1]
    test = ["test", *command[1:-4], "DATASET.SUBSAMPLE_CLASSES", "new", "--model-dir",
            tmp_path / "run", "--output-dir", tmp_path / "test"]
    assert nerp(*test)[0] == 0
    for folder in ("run", "test"):
        record = json.loads((tmp_path / folder / "result.json").read_text())
        assert record["also_seen"] == "names of novel classes"
    assert "beyond the labelled images: names of novel classes" in text
    _, table, _ = nerp("table", tmp_path)
    assert table.count("‖") == 4  # base, novel, H, and the line that says what it means


def test_a_published_file_has_seen_them_where_base_classes_were_trained_on(golden_clip):
    cfg = golden_config(DATASET={"SUBSAMPLE_CLASSES": "new"})
    assert TRAINERS["MoCoOp"].seen_besides(cfg) == "names of novel classes"
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"
    assert TRAINERS["MoCoOp"].seen_besides(cfg) == ""
