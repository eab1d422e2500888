"""PromptKD: the teacher, the projection's running values, and what several processes share."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import EUROSAT, GOLDEN, TEACHER, eurosat_classes, golden_config
from engine.test_distributed import launch
from settled import settled
from tiny_clip import random_clip
from trainers.test_golden import FEATURE, LOGIT, build, golden, show_teacher, tensors

from nerp.base.errors import NerpError
from nerp.engine.built_on import completed, starting_tensors
from nerp.engine.checkpoint import load_trainer, read_checkpoint, save_checkpoint
from nerp.settings.published import own_setting
from nerp.trainers.projection import batch_norm
from nerp.trainers.promptkd import PromptKD

PUBLISHED = GOLDEN / "checkpoints/PromptKD/VLPromptLearner/model.pth.tar-2"
RUNNING = "VPT_image_trans.conv1.1."


@pytest.fixture
def student(golden_clip):
    """A student of all ten classes, as in training, at the golden tensors."""
    trainer = build("PromptKD", golden_clip, "all")
    show_teacher(trainer, golden("PromptKD"))
    return trainer


def test_the_teacher_and_all_classes_are_as_published(student, inputs):
    z, images = golden("PromptKD"), inputs[0]
    with torch.no_grad():
        found = {
            "logits": student.logits(images),
            "image_features": student.image_features(images),
            "image_features_tower": student.image_output(images),
            "text_features": student.class_features(),
            "zero_shot_text_features": student.frozen_class_features(),
            "teacher_logits": student.teacher_logits(images),
            "teacher_image_features": student.teacher.image_features(images),
        }
    for name, tensor in found.items():
        tolerance = LOGIT if name.endswith("logits") else FEATURE
        torch.testing.assert_close(tensor, torch.tensor(z[f"all/{name}"]), **tolerance)


def test_a_training_batch_has_its_own_statistics(student, inputs):
    f = student.projected(student.image_output(inputs[0][:4]), training=True)
    wanted = torch.tensor(golden("PromptKD")["train/image_features"])
    torch.testing.assert_close(f, wanted, **FEATURE)
    steps = student.learned.state_dict()[RUNNING + "num_batches_tracked"]
    assert steps == 6 and steps.dtype == torch.int64


@pytest.mark.parametrize(("temperature", "name"), [(1.0, "losses"), (2.0, "loss_temperature_2")])
def test_the_loss_at_two_temperatures(temperature, name, student, inputs):
    student.settings.TEMPERATURE = temperature
    loss = student.loss(inputs[0][:4], None)
    wanted = golden("PromptKD")[f"train/{name}"]
    np.testing.assert_allclose(loss.item(), wanted.flat[0], atol=1e-3)


def test_first_gradients(student, inputs):
    z = golden("PromptKD")
    student.loss(inputs[0][:4], inputs[1][:4]).backward()
    names = [key for key in z if key.startswith("train/first_gradient/")]
    assert len(names) == 3
    for key in names:
        found = student.parameter(key.removeprefix("train/first_gradient/")).grad
        torch.testing.assert_close(found, torch.tensor(z[key]), atol=1e-4, rtol=0)


def test_running_values_are_not_trained_and_testing_leaves_them(student, inputs):
    before = {n: t.clone() for n, t in student.learned.named_buffers()}
    student.logits(inputs[0])
    assert all(torch.equal(t, before[n]) for n, t in student.learned.named_buffers())
    assert not any("running" in name for name, _ in student.learned.named_parameters())


def test_two_processes_share_the_statistics_of_a_batch(tmp_path, monkeypatch):
    torch.manual_seed(0)
    x, weight, bias, goal = torch.randn(8, 5), torch.rand(5), torch.randn(5), torch.randn(8, 5)
    torch.save((x, weight, bias, goal), tmp_path / "x.pt")
    (tmp_path / "steps.py").write_text(f'''
import torch
from nerp.base.distributed import is_main, processes, rank
from nerp.trainers.projection import batch_norm
with processes():
    x, weight, bias, goal = torch.load({str(tmp_path / "x.pt")!r})
    mine = slice(0, 5) if rank() == 0 else slice(5, 8)
    part = x[mine].requires_grad_()
    mean, variance = torch.zeros(5), torch.ones(5)
    out = batch_norm(part, weight, bias, mean, variance, True)
    (out * goal[mine]).sum().backward()
    torch.save((out.detach(), part.grad, mean, variance), {str(tmp_path)!r} + f"/{{rank()}}.pt")
''')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    launch(2, "steps")
    mean, variance = torch.zeros(5), torch.ones(5)
    x.requires_grad_()
    whole = batch_norm(x, weight, bias, mean, variance, True)
    (whole * goal).sum().backward()
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for found, wanted in ((torch.cat([p[0] for p in parts]), whole.detach()),
                          (torch.cat([p[1] for p in parts]), x.grad),
                          (parts[0][2], mean), (parts[1][3], variance)):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def config(**settings):
    cfg = golden_config(TRAINER={"NAME": "PromptKD"})
    cfg.TRAINER.PROMPTKD.update(settings)
    return cfg


def test_a_training_takes_the_teacher_from_its_checkpoint(golden_clip, inputs):
    start = starting_tensors(config(), EUROSAT)
    trainer = PromptKD(config(), golden_clip, eurosat_classes("all"), start=start)
    trainer.prepare_training()
    wanted = golden("PromptKD")["all/teacher_logits"]
    found = trainer.teacher_logits(inputs[0])
    torch.testing.assert_close(found, torch.tensor(wanted), **LOGIT)


def test_ours_is_tested_without_the_teachers_checkpoint(golden_clip, inputs, tmp_path):
    trainer = build("PromptKD", golden_clip, "base", config())
    path, _ = save_checkpoint(tmp_path, trainer, trainer.learned.state_dict(), 2, config())
    cfg = config(TEACHER_CHECKPOINT="")
    checkpoint = completed(read_checkpoint(path), cfg)
    assert set(tensors("PromptKD", "param")) == set(checkpoint.tensors)
    again, _ = load_trainer(settled(cfg), golden_clip, eurosat_classes("new"), checkpoint)
    wanted = torch.tensor(golden("PromptKD")["new/logits"])
    torch.testing.assert_close(again.logits(inputs[0]), wanted, **LOGIT)


def test_another_teachers_backbone_is_refused(golden_clip, golden_weights, tmp_path):
    trainer = build("PromptKD", golden_clip, "base", config())
    trainer.teacher.clip.digest = "of other weights"
    path, _ = save_checkpoint(tmp_path, trainer, trainer.learned.state_dict(), 2, config())
    with pytest.raises(NerpError, match="its teacher had other weights than those of"):
        load_trainer(settled(config()), golden_clip, eurosat_classes("new"), read_checkpoint(path))
    other = config(TEACHER_PATH=str(golden_weights))
    with pytest.raises(NerpError, match="TEACHER_NAME: tiny.pt has features of 64 and a text "
                                        "encoder of 128, the teacher's are 96 and 192"):
        load_trainer(settled(other), golden_clip, eurosat_classes("new"), read_checkpoint(path))


def test_a_published_file_without_its_teacher_is_refused():
    with pytest.raises(NerpError, match="it lacks the prompts of its teacher.*TEACHER_CHECKPOINT"):
        completed(read_checkpoint(PUBLISHED), config(TEACHER_CHECKPOINT=""))


@pytest.mark.parametrize(("task", "source", "trained", "message"), [
    ("B2N", "EuroSAT", EUROSAT[:5], ""), ("FS", "ImageNet", ["tench"], ""), ("B2N", "", [], ""),
    ("B2N", "ImageNet", ["tench"], "trained on ImageNet; only TASK FS takes"),
    ("FS", "EuroSAT", ["Moor"], "trained on classes that EuroSAT does not have"),
])
def test_a_teacher_of_other_classes(task, source, trained, message):
    cfg = golden_config(DATASET={"NAME": "EuroSAT"})
    cfg.TASK = task
    found = PromptKD.unfit(cfg, EUROSAT, source, trained)
    assert message in found and bool(found) == bool(message)


@pytest.mark.parametrize(("change", "message"), [
    ({"DATALOADER.TRAIN_X.BATCH_SIZE": 1}, "BATCH_SIZE is 1; PromptKD normalises"),
    ({"TRAINER.PROMPTKD.TEACHER_CHECKPOINT": ""}, "TEACHER_CHECKPOINT is empty"),
    ({"TRAINER.PROMPTKD.TEACHER_CHECKPOINT": GOLDEN / "checkpoints/CoOp/prompt_learner"
      / "model.pth.tar-2"}, "a checkpoint of CoOp, not of PromptSRC"),
    ({"TRAINER.PROMPTKD.TEACHER_CHECKPOINT": GOLDEN / "checkpoints/PromptSRC"},
     "has features of 96 and a text encoder of 192, the teacher's are 96 and 128"),
])
def test_what_cannot_teach_is_one_line_and_nothing_is_written(
    change, message, nerp, small_run, golden_teacher_weights, tmp_path
):
    status, text = train(nerp, small_run, golden_teacher_weights, tmp_path, change)
    errors = [line for line in text.splitlines() if line.startswith("nerp: error: ")]
    assert status == 1 and len(errors) == 1 and message in errors[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("task", "source", "names", "message"), [
    ("B2N", "EuroSAT", ["Moor", "Glacier"], "it was trained on classes that EuroSAT does not have"),
    ("B2N", "DTD", ["banded"], "it was trained on DTD; only TASK FS takes a teacher of another"),
    ("FS", "DTD", ["banded"], ""),
])
def test_a_teacher_of_another_class_list_is_one_line_and_nothing_is_written(
    task, source, names, message, nerp, small_run, golden_teacher_weights, tmp_path
):
    place = "VLPromptLearner/model.pth.tar-2"
    tensors = read_checkpoint(GOLDEN / "checkpoints/PromptKD_teacher" / place).tensors
    file = tmp_path / place
    file.parent.mkdir()
    torch.save({"state_dict": tensors, "trainer": "PromptSRC", "epoch": 2, "dataset": source,
                "classnames": names}, file)
    status, text = train(nerp, small_run, golden_teacher_weights, tmp_path, {
        "TRAINER.PROMPTKD.TEACHER_CHECKPOINT": tmp_path, "TASK": task})
    errors = [line for line in text.splitlines() if line.startswith("nerp: error: ")]
    assert bool(status) == bool(message) == (not (tmp_path / "out").exists())
    if message:
        assert len(errors) == 1 and str(file) in errors[0] and message in errors[0]


@pytest.mark.parametrize(("sizes", "message"), [
    ({"pixels": 64, "patch": 16}, "takes images of 64 pixels a side, the backbone that is trained "
                                  "of 32"),
    ({"vision_width": 128}, "has an image encoder of 128, the teacher's is 256"),
])
def test_a_teacher_with_other_eyes_is_one_line_and_nothing_is_written(
    sizes, message, nerp, small_run, tmp_path
):
    torch.save(random_clip(7, replace(TEACHER, **sizes)), tmp_path / "other.pt")
    status, text = train(nerp, small_run, tmp_path / "other.pt", tmp_path)
    errors = [line for line in text.splitlines() if line.startswith("nerp: error: ")]
    assert status == 1 and len(errors) == 1 and message in errors[0]
    assert not (tmp_path / "out").exists()


def train(nerp, small_run, teacher, tmp_path, change=()):
    flags, opts = small_run
    settings = {
        "TRAINER.PROMPTKD.TEACHER_PATH": teacher, "TRAINER.PROMPTKD.TEACHER_EPOCH": 2,
        "TRAINER.PROMPTKD.TEACHER_CHECKPOINT": GOLDEN / "checkpoints/PromptKD_teacher",
        "TRAINER.PROMPTKD.PROMPT_DEPTH_VISION": 3, "DATASET.SUBSAMPLE_CLASSES": "base",
        "OPTIM.MAX_EPOCH": 1, "DATASET.NUM_SHOTS": 0, **dict(change),
    }
    status, text, error = nerp("train", "--trainer", "PromptKD", *flags, "--output-dir",
                               tmp_path / "out", *opts,
                               *(word for pair in settings.items() for word in pair))
    return status, text + error


def test_a_run_sees_all_classes_says_so_and_is_tested_on_both_halves(
    nerp, small_run, golden_teacher_weights, tmp_path
):
    status, text = train(nerp, small_run, golden_teacher_weights, tmp_path)
    assert status == 0, text
    assert "60 training images of 10 classes" in text
    assert "DATASET.SUBSAMPLE_CLASSES base gives way to all: PromptKD is trained on" in text
    flags, opts = small_run
    for which, trainer in (("base", "PromptKD"), ("new", "PromptKD_NeRP")):
        status, text, error = nerp(
            "test", "--trainer", trainer, *flags, "--model-dir", tmp_path / "out", "--output-dir",
            tmp_path / which, *opts, "DATASET.SUBSAMPLE_CLASSES", which,
            "TRAINER.PROMPTKD.TEACHER_PATH", golden_teacher_weights)
        assert status == 0, error
        assert "trained, too, with the training images of all classes" in text
    assert "NeRP: " in text


@pytest.mark.parametrize(("key", "value", "means"), [
    ("TRAINER.PROMPTKD.PROJECT_LAYER", 2, None), ("TRAINER.PROMPTKD.CE_WEIGHT", 0.0, None),
    ("TRAINER.PROMPTKD.N_CTX_TEXT", 4, None), ("TRAINER.PROMPTKD.PROMPT_DEPTH_TEXT", 9, None),
    ("TRAINER.PROMPTKD.KD_WEIGHT", 5, ("TRAINER.PROMPTKD.KD_WEIGHT", 5)),
])
def test_published_keys(key, value, means):
    assert own_setting(PromptKD, key, value, "here", False) == means


def test_the_best_epoch_on_test_images_is_answered_and_not_taken(nerp):
    show = ("config", "show", "--trainer", "PromptKD", "--dataset", "eurosat")
    status, text, error = nerp(*show, "TEST.FINAL_MODEL", "best_val", "TRAINER.MODAL", "cross")
    assert status == 0 and "would choose an epoch on test images" in text + error


def test_a_layer_without_tokens_gets_none_and_few_words_stay(golden_clip):
    trainer = build("PromptKD", golden_clip, "base")
    teacher = trainer.teacher
    assert teacher.words == "a photo of a" and sorted(teacher.deep("text")) == [2]
    assert teacher.deep("image") == {}


def test_other_classes_share_the_teacher(student):
    whole = student.class_features()
    other = student.for_classes(replace(student.classes, names=EUROSAT[5:]))
    torch.testing.assert_close(other.class_features(), whole[5:])
    assert other.teacher.clip is student.teacher.clip


def test_its_file_is_known_among_those_of_the_same_folder():
    assert read_checkpoint(PUBLISHED).trainer == "PromptKD"
    assert read_checkpoint(PUBLISHED, "PromptSRC").trainer == "PromptKD"
