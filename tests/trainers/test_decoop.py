"""DeCoOp: names and threshold of its detectors, both phases, an interrupted run, the open world."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import EUROSAT, GOLDEN, eurosat_classes, golden_config, golden_options
from settled import settled
from trainers.test_golden import FEATURE, LOGIT, PLAN, build, golden, tensors

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.engine.checkpoint import load_trainer, read_checkpoint
from nerp.engine.optim import build_optimizer, take_step
from nerp.trainers.detecting import margin_of, otsu, parts

METHOD = "DeCoOp"
Z = golden(METHOD)


def trainer_of(clip, which="base", **settings):
    optim = {"LR": 0.02, "MOMENTUM": 0.0, "WEIGHT_DECAY": 0.0, "MAX_EPOCH": 6}
    cfg = golden_config(OPTIM=optim)
    cfg.TRAINER.DECOOP.update({"DETECTOR_EPOCHS": 3, **settings})
    return build(METHOD, clip, which, cfg)


@pytest.mark.parametrize("classes", [5, 6, 7, 10, 51])
def test_the_names_of_each_detector(classes):
    own = parts(classes, 3)
    for i, known in enumerate(own):
        among = np.isin(np.arange(classes), known)
        assert np.array_equal(among, Z[f"classes/{classes}/in"][i].astype(bool))
        labels = [known.index(j) if j % 3 != i else -1 for j in range(classes)]
        assert labels == Z[f"classes/{classes}/labels"][i].tolist()
    assert len({*map(len, own)}) == 1
    assert margin_of("auto", len(own[0])) == pytest.approx(
        float(Z[f"classes/{classes}/auto_margin"]), abs=1e-5)


@pytest.mark.parametrize("i", range(4))
def test_otsu(i):
    assert otsu(Z[f"otsu/{i}/values"]) == pytest.approx(float(Z[f"otsu/{i}/threshold"]), abs=1e-6)


@pytest.mark.parametrize("which", ["base", "new", "all"])
def test_what_is_predicted_from(which, golden_clip, inputs):
    trainer, images = trainer_of(golden_clip, which), inputs[0]
    with torch.no_grad():
        f, detectors = trainer.image_features(images), trainer.detectors()
        text = trainer.classifier_features()
        logits = trainer.logits(images)
        found = {
            "image_features": f, "text_features": text, "logits": logits,
            "zero_shot_text_features": trainer.frozen_class_features(),
            "coop_logits": trainer.classifier_logits(f, text).transpose(1, 2),
            "clip_logits": trainer.similarity(f, trainer.frozen_class_features()),
            "scores": trainer.scores(f, detectors), "probabilities": logits.softmax(1),
        }
    for name, tensor in found.items():
        close = PLAN if name in ("scores", "probabilities") else \
            LOGIT if "logits" in name else FEATURE
        torch.testing.assert_close(tensor, torch.tensor(Z[f"{which}/{name}"]), **close)
    on = Z[f"{which}/scores"] >= float(Z["param/threshold"])
    assert not on.any(1).all() and on.any()


def test_a_batch_without_images_outside(golden_clip, inputs):
    trainer = trainer_of(golden_clip)
    f, labels = trainer.image_features(inputs[0][:4]), inputs[1][:4]
    entropy, margin = trainer.detector_terms(f, labels)
    np.testing.assert_allclose(entropy.detach(), Z["missing/cross_entropy"], atol=1e-3)
    np.testing.assert_allclose(margin.detach(), Z["missing/margin"], atol=1e-3)
    (entropy + margin).mean().backward()
    for name, wanted in tensors(METHOD, "missing/gradient").items():
        torch.testing.assert_close(trainer.parameter(name).grad, wanted, atol=1e-4, rtol=0)


def test_both_phases_and_the_pass_between_them(golden_clip, inputs):
    images, labels, _ = inputs
    trainer = trainer_of(golden_clip)
    trainer.threshold.fill_(-1.0)
    optimizer = build_optimizer(trainer.parameter_groups(), trainer.cfg.OPTIM)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    losses, rates, firsts = [], [], {}
    for epoch in range(6):
        trainer.start_epoch(epoch)
        for step, batch in enumerate(Z["train/batches"].tolist()):
            rate = trainer.step_rate(2 * epoch + step, 2)
            rates.append(rate)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = trainer.loss(images[batch], labels[batch])
            take_step(optimizer, scaler, loss, 0.0)
            losses.append(loss.item())
            for name in tensors(METHOD, "train/first_gradient"):
                kind = "ood" if trainer.detecting else "coop"
                if name.startswith(kind) and name not in firsts:
                    firsts[name] = trainer.parameter(name).grad.clone()
        if trainer.surveys(epoch):
            trainer.survey(golden_clip.image_output(images))
            found = trainer.scores(trainer.image_features(images), trainer.detectors())
            np.testing.assert_allclose(found.detach(), Z["train/scores"], atol=1e-4)
            assert float(trainer.threshold) == pytest.approx(float(Z["train/threshold"]), abs=1e-4)
    wanted = np.concatenate([Z["train/detector_losses"], Z["train/losses"]])
    np.testing.assert_allclose(losses, wanted, atol=1e-3)
    of_rates = np.concatenate([Z["train/detector_lrs"], Z["train/lrs"]])
    np.testing.assert_allclose(rates, of_rates, atol=1e-12)
    for name, tensor in tensors(METHOD, "train/first_gradient").items():
        torch.testing.assert_close(firsts[name], tensor, atol=1e-4, rtol=0)
    for name, tensor in tensors(METHOD, "trained").items():
        torch.testing.assert_close(trainer.parameter(name).detach(), tensor, **FEATURE)
    with torch.no_grad():
        logits = trainer.for_classes(eurosat_classes("all")).logits(images)
    torch.testing.assert_close(logits, torch.tensor(Z["trained_all/logits"]), **LOGIT)


def test_the_second_phase_says_what_it_predicts_right(golden_clip, inputs):
    trainer, (images, labels, _) = trainer_of(golden_clip), inputs
    trainer.loss(images, labels)
    assert trainer.right is None
    trainer.start_epoch(3)
    trainer.loss(images, labels)
    assert trainer.right == (trainer.logits(images).argmax(1) == labels).sum()


def test_the_open_world_has_the_detectors_own_number(nerp, stopped, small_run, tmp_path):
    """Also: a training that is interrupted after its threshold goes on as if it had not been."""
    flags, opts = small_run
    opts = [*opts, *golden_options(METHOD), "OPTIM.MOMENTUM", "0.0", "OPTIM.WARMUP_EPOCH", "0",
            "INPUT.TRANSFORMS", "['center_crop', 'normalize']", "TEST.NO_TEST", "True"]
    command = ["train", "--trainer", METHOD, *flags, *opts, "DATASET.SUBSAMPLE_CLASSES", "base",
               "TRAIN.CHECKPOINT_FREQ", "1", "OPTIM.MAX_EPOCH", "3",
               "TRAINER.DECOOP.DETECTOR_EPOCHS", "2"]
    status, _, error = nerp(*command, "--output-dir", tmp_path / "whole")
    assert status == 0, error
    assert stopped(*command, "--output-dir", tmp_path / "cut")[0] == 130
    assert nerp(*command, "--output-dir", tmp_path / "cut")[0] == 0
    whole, cut = (torch.load(tmp_path / name / "decoop/model.pth.tar-3", weights_only=True)
                  for name in ("whole", "cut"))
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(cut["state_dict"][name], tensor), name
    assert 0 < whole["state_dict"]["threshold"] < 1
    assert whole["classnames"] == list(EUROSAT[:5])
    first = tmp_path / "whole/decoop/model.pth.tar-1"
    assert "threshold" not in torch.load(first, weights_only=True)["state_dict"]
    status, _, error = nerp("test", "--trainer", METHOD, *flags, "--model-dir", first,
                            "--output-dir", tmp_path / "early", *opts[:-2])
    assert status == 1 and "lacks threshold" in error
    status, _, error = nerp("test", "--trainer", METHOD, *flags, "--model-dir", tmp_path / "whole",
                            "--output-dir", tmp_path / "open", *opts[:-2], "TASK", "OW",
                            "DATASET.SUBSAMPLE_CLASSES", "all")
    assert status == 0, error
    record = json.loads((tmp_path / "open/result.json").read_text())
    assert 0 <= record["auroc_detector"] <= 100 and not math.isnan(record["auroc_detector"])


@pytest.mark.parametrize("names", [None, list(EUROSAT[:2])])
def test_a_file_without_its_classes_is_refused(names, golden_clip, tmp_path):
    path = tmp_path / "model.pth.tar-2"
    content = torch.load(GOLDEN / "checkpoints/DeCoOp/decoop/model.pth.tar-2", weights_only=True)
    torch.save({**content, "classnames": names}, path)
    cfg = golden_config()
    cfg.TRAINER.NAME = METHOD
    with pytest.raises(NerpError, match=f"{path}: it names {len(names or ())} classes that it was"):
        load_trainer(settled(cfg), golden_clip, eurosat_classes("base"), read_checkpoint(path))


@pytest.mark.parametrize(("opts", "reason"), [
    (["TRAINER.DECOOP.K", "6"], "TRAINER.DECOOP.K is 6; it takes at most the number of trained"),
    (["TRAINER.DECOOP.DETECTOR_EPOCHS", "2"], "DETECTOR_EPOCHS is 2; it takes less than OPTIM.MAX"),
    (["TRAINER.DECOOP.OOD_MARGIN", "-1"], "it takes auto, or a number of at least 0"),
])
def test_settings_that_do_not_go_together(opts, reason, nerp, small_run, tmp_path):
    flags, given = small_run
    status, _, error = nerp("train", "--trainer", METHOD, *flags, "--output-dir", tmp_path / "out",
                            *given, *golden_options(METHOD), "OPTIM.WARMUP_EPOCH", "0", *opts,
                            "DATASET.SUBSAMPLE_CLASSES", "base")
    assert status == 1 and reason in error and not (tmp_path / "out").exists()


def test_it_is_registered_with_its_layout():
    assert TRAINERS[METHOD].folder == "decoop" and TRAINERS[METHOD].fixed == ("threshold",)
