"""CasPL: the boosting phase against its golden file, and what the adapting phase makes of it."""

import numpy as np
import pytest
import torch
from conftest import GOLDEN, eurosat_classes, golden_config
from trainers.test_golden import FEATURE, LOGIT, build, golden

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.engine.checkpoint import read_checkpoint
from nerp.trainers.caspl import boosting_depth
from nerp.trainers.teacher import Teacher, open_teacher

ADAPTING = ("CasPL_CoOp", "CasPL_CoCoOp", "CasPL_MaPLe", "CasPL_PromptSRC")


def boosting():
    """The tensors of the golden boosting phase after its training."""
    return read_checkpoint(GOLDEN / "checkpoints/CasPL/CasPL/model.pth.tar-2").tensors


@pytest.fixture
def caspl(golden_clip, golden_teacher):
    """The boosting phase on all ten classes, beside its teacher."""
    trainer = build("CasPL", golden_clip, "all")
    trainer.teacher = Teacher(golden_teacher, trainer.classes)
    return trainer


def test_the_teacher_and_all_classes_are_as_published(caspl, inputs):
    z, images = golden("CasPL"), inputs[0]
    with torch.no_grad():
        found = {
            "logits": caspl.logits(images),
            "text_features": caspl.class_features(),
            "zero_shot_text_features": caspl.frozen_class_features(),
            "teacher_logits": caspl.teacher_logits(images),
            "teacher_text_features": caspl.teacher.text,
            "teacher_image_features": caspl.teacher.clip.image_features(images),
        }
    for name, tensor in found.items():
        tolerance = LOGIT if name.endswith("logits") else FEATURE
        torch.testing.assert_close(tensor, torch.tensor(z[f"all/{name}"]), **tolerance)


@pytest.mark.parametrize(("temperature", "wanted"), [
    (1.0, golden("CasPL")["train/losses"][0]), (2.0, golden("CasPL")["train/loss_temperature_2"]),
])
def test_the_loss_at_two_temperatures(temperature, wanted, caspl, inputs):
    caspl.settings.TEMPERATURE = temperature
    loss = caspl.loss(inputs[0][:4], inputs[1][:4])
    np.testing.assert_allclose(loss.item(), wanted, atol=1e-3)


def test_no_label_is_read(caspl, inputs):
    with torch.no_grad():
        losses = {caspl.loss(inputs[0][:4], labels).item() for labels in (None, inputs[1][:4])}
    assert len(losses) == 1 and caspl.right is None


def test_a_teacher_of_another_input_size_is_refused(golden_clip, golden_teacher_weights):
    settings = golden_config().TRAINER.CASPL
    settings.TEACHER_PATH = str(golden_teacher_weights)
    golden_clip.size = 48
    with pytest.raises(NerpError, match=r"TRAINER.CASPL.TEACHER: .* of 32 pixels .* of 48"):
        open_teacher(settings, "CASPL", golden_clip, eurosat_classes("all"))


@pytest.mark.parametrize("method", ADAPTING)
def test_boosting_tokens_are_those_of_the_checkpoint_and_have_no_gradient(
    method, golden_clip, inputs
):
    trainer = TRAINERS[method](golden_config(), golden_clip, eurosat_classes("base"),
                               start=boosting())
    trainer.loss(inputs[0][:2], inputs[1][:2]).backward()
    frozen = dict(trainer.learned.named_buffers())
    assert set(frozen) == {name for name in boosting() if name.endswith(("ctx", "_FIRST"))}
    for name, tensor in frozen.items():
        assert torch.equal(tensor, boosting()[name]) and tensor.grad is None
    assert all(tensor.grad is not None for tensor in trainer.parameters())


def test_promptsrc_draws_the_layers_that_the_checkpoint_lacks_and_drops_those_beyond(golden_clip):
    cfg = golden_config()
    cfg.TRAINER.CASPL_PROMPTSRC.update(PROMPT_DEPTH_TEXT=4, PROMPT_DEPTH_VISION=2)
    trainer = TRAINERS["CasPL_PromptSRC"](cfg, golden_clip, eurosat_classes("base"),
                                          start=boosting())
    frozen = dict(trainer.learned.named_buffers())
    assert boosting_depth(frozen, "text") == 4 and boosting_depth(frozen, "image") == 2
    for name in frozen.keys() & boosting().keys():
        assert torch.equal(frozen[name], boosting()[name])
    (drawn,) = frozen.keys() - boosting().keys()
    assert drawn == "text_encoder.transformer.resblocks.3.VPT_shallow_FIRST"
    assert 0.01 < frozen[drawn].std() < 0.03


@pytest.mark.parametrize("method", ADAPTING)
def test_encoders_with_different_numbers_of_boosting_tokens(method, golden_clip, inputs):
    start = boosting()
    for name in start:
        if name.startswith("image_encoder") and name.endswith("_FIRST"):
            start[name] = start[name][:3]

    def make():
        return TRAINERS[method](golden_config(), golden_clip, eurosat_classes("base"), start=start)

    if method == "CasPL_PromptSRC":
        assert make().logits(inputs[0][:1]).isfinite().all()
    else:
        with pytest.raises(NerpError, match="has 3 in the image's and 5 in the text's"):
            make()


@pytest.mark.parametrize(("change", "message"), [
    (lambda start: start.pop("image_encoder.VPT_FIRST"), "the checkpoint lacks image_encoder.VPT"),
    (lambda start: start.update({"image_encoder.VPT_FIRST": torch.zeros(5, 768)}),
     r"are \(5, 768\), this run needs \(5, 192\): another backbone"),
])
def test_tokens_of_another_backbone_are_refused(change, message, golden_clip):
    start = boosting()
    change(start)
    with pytest.raises(NerpError, match=message):
        TRAINERS["CasPL_CoOp"](golden_config(), golden_clip, eurosat_classes("base"), start=start)


def test_a_context_of_each_class_has_no_place_beside_shared_boosting_tokens(golden_clip):
    cfg = golden_config()
    cfg.TRAINER.CASPL_COOP.CSC = True
    with pytest.raises(NerpError, match="TRAINER.CASPL_COOP.CSC"):
        TRAINERS["CasPL_CoOp"](cfg, golden_clip, eurosat_classes("base"))
