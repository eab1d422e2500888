"""Every method against the numbers of the published implementations (tests/golden)."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import EUROSAT, GOLDEN, HALVES, LEARNING, asked, eurosat_classes, golden_config
from PIL import Image

from nerp.base.registry import TRAINERS
from nerp.clip.model import normalise
from nerp.correction.wrapper import priors
from nerp.data.images import Normalise, eval_transform
from nerp.engine.optim import build_optimizer, take_step
from nerp.engine.schedule import make_schedule
from nerp.files.yaml_file import load_yaml
from nerp.settings.cards import find_card
from nerp.trainers.anprompt import ANPrompt
from nerp.trainers.biomedcoop import BiomedCoOp
from nerp.trainers.clip_adapter import CLIPAdapter
from nerp.trainers.dept import Decoupled
from nerp.trainers.kgcoop import KgCoOp
from nerp.trainers.maple import MaPLe
from nerp.trainers.mocoop import MoCoOp
from nerp.trainers.plot import Transport, transport_plan
from nerp.trainers.prograd import ProGrad
from nerp.trainers.promptkd import PromptKD
from nerp.trainers.taskres import TaskRes
from nerp.trainers.tcp import TCP
from nerp.trainers.teacher import Teacher
from nerp.trainers.texts import Classes

FUSING = ("MMRL", "MMRLpp")  # on classes they were trained on
# What published checkpoints leave off the front of a name.
PREFIX = {
    "CoOp": "prompt_learner.", "CoCoOp": "prompt_learner.", "MMA": "adapter_learner.",
    "KgCoOp": "prompt_learner.", "TCP": "prompt_learner.", "ProGrad": "prompt_learner.",
    "PLOT": "prompt_learner.",
}
OPTIM = {
    "CoOp": {"LR": 0.002, "WARMUP_EPOCH": 1},
    "CoCoOp": {"LR": 0.002, "WARMUP_EPOCH": 1},
    "PromptSRC": {"LR": 0.0025, "WARMUP_EPOCH": 1},
    "MMA": {"LR": 0.0015},
    "MMRL": {"NAME": "adamw", "LR": 0.001, "WARMUP_EPOCH": 1},
    "MMRLpp": {"NAME": "adamw", "LR": 0.001, "WARMUP_EPOCH": 1},
    "ANPrompt": {"NAME": "adamw", "LR": 0.001, "WARMUP_EPOCH": 1},
    "KgCoOp": {"LR": 0.002, "WARMUP_EPOCH": 1},
    "ProGrad": {"LR": 0.002, "WARMUP_EPOCH": 1},
    "CLIPAdapter": {"LR": 0.002, "WARMUP_EPOCH": 1},
    "PromptKD": {"LR": 0.005, "WARMUP_EPOCH": 1},
    "TaskRes": {"NAME": "adam", "LR": 0.002, "WARMUP_EPOCH": 1},
    "MaPLe": {"LR": 0.0035, "WARMUP_EPOCH": 1},
    "CoPrompt": {"LR": 0.0035, "WARMUP_EPOCH": 1},
    "BiomedCoOp": {"LR": 0.0025, "WARMUP_EPOCH": 1},
    "CasPL": {"LR": 0.0025, "WARMUP_EPOCH": 1},
    "CasPL_CoOp": {"LR": 0.002, "WARMUP_EPOCH": 1},
    "CasPL_CoCoOp": {"LR": 0.002, "WARMUP_EPOCH": 1},
    "CasPL_MaPLe": {"LR": 0.0035, "WARMUP_EPOCH": 1},
    "CasPL_PromptSRC": {"LR": 0.0025, "WARMUP_EPOCH": 1},
    "RESTORE": {"LR": 0.0035, "WARMUP_EPOCH": 1},
    "CLIPLoRA": {
        "NAME": "adamw", "LR": 2e-4, "LR_MIN": 1e-6, "WEIGHT_DECAY": 0.01,
        "LR_SCHEDULER": "cosine_iterations",
    },
    "MoCoOp": {"LR": 0.032, "WARMUP_EPOCH": 1},
    "PLOT": {"LR": 0.05, "WARMUP_EPOCH": 1},
    "PLOTPP": {"LR": 0.05, "WARMUP_EPOCH": 1},
    "CoOp_DePT": {"LR": 0.0035, "WARMUP_EPOCH": 1},
    "CoCoOp_DePT": {"LR": 0.002, "WARMUP_EPOCH": 1},
    "KgCoOp_DePT": {"LR": 0.0035, "WARMUP_EPOCH": 1},
    "MaPLe_DePT": {"LR": 0.0035, "WARMUP_EPOCH": 1},
    "TCP": {"NAME": "adam", "LR": 0.002, "ADAM_EPS": 1e-3, "WARMUP_EPOCH": 1},
}
# Settings that decide about a training alone, where a golden file has its own.
TRAINING = {"KgCoOp_DePT": {"W": 2.0}}
LOGIT, FEATURE = {"atol": 1e-3, "rtol": 0}, {"atol": 1e-5, "rtol": 0}
PLAN = {"atol": 1e-4, "rtol": 0}


def golden(method: str):
    return np.load(GOLDEN / f"{method}.npz")


def tensors(method: str, kind: str) -> dict[str, torch.Tensor]:
    """The learned tensors of a golden file, named as the trainer names them."""
    z = golden(method)
    found = {
        key.removeprefix(kind + "/").removeprefix(PREFIX.get(method, "")): torch.tensor(z[key])
        for key in z.files
        if key.startswith(kind + "/")
    }
    if method == "PromptKD":  # the teacher's, which training leaves alone
        found |= TRAINERS[method].taken_over({
            name.removeprefix("teacher/"): torch.tensor(z[name])
            for name in z.files if name.startswith("teacher/")})
    if method == "TaskRes":  # not trained, but a part of its checkpoint
        found["base_text_features"] = torch.tensor(z["base/base_text_features"])
    return found


def build(method: str, clip, which: str, cfg=None):
    trainer = TRAINERS[method](
        cfg or golden_config(), clip, eurosat_classes(which), tensors(method, "param")
    )
    if method == "DeCoOp":  # which knows the trained names
        trainer.recall(EUROSAT[:5], {})
    return trainer


def outputs(trainer, images) -> dict[str, torch.Tensor]:
    found = {
        "logits": trainer.logits(images),
        "image_features": trainer.image_features(images),
        "text_features": trainer.class_features(images),
    }
    if isinstance(trainer, MoCoOp):
        return found | {
            "gate_logits": trainer.gate(found["image_features"]),
            "expert_text_features": trainer.expert_features(trainer.prompts),
            "prototypes": trainer.prototypes(),
        }
    found["zero_shot_text_features"] = trainer.frozen_class_features()
    if isinstance(trainer, ANPrompt):
        image, prototype = trainer.both_features(trainer.image_state(images))
        text, weak = trainer.class_features(), trainer.weak_class_features()
        found |= {
            "prototype_features": prototype,
            "weak_text_features": weak,
            "f_w": trainer.weak_features(1, 2),
            "logits_aligned": trainer.similarity(image, text),
            "logits_robust": trainer.similarity(image, weak),
            "logits_weak": trainer.similarity(prototype, weak),
        }
    elif hasattr(trainer, "both_features"):
        text = trainer.class_features()
        image, rep = trainer.both_features(trainer.image_state(images))
        found["logits"] = trainer.similarity(image, text)
        found["logits_rep"] = trainer.similarity(rep, text)
        found["logits_fusion"] = 0.7 * found["logits"] + 0.3 * found["logits_rep"]
        found["image_features_rep"] = rep
    if isinstance(trainer, KgCoOp):
        found["score"] = trainer.pull(found["text_features"])
    if isinstance(trainer, ProGrad):
        found["zero_shot_logits"] = trainer.similarity(
            found["image_features"], trainer.frozen_class_features())
    if isinstance(trainer, Transport):
        image, text = trainer.local_images(images), trainer.local_texts()
        local, prompts = normalise(image.locals), normalise(text.locals)
        cosines = torch.einsum("mbd,ncd->bcmn", local, prompts)
        return found | {
            "local_features": local,
            "prompt_features": prompts,
            "plan": transport_plan(cosines, together=False),
            "logits_batch": trainer.matched(image, text, together=True),
        }
    if isinstance(trainer, Decoupled):
        trainer.class_features(images)
        (f, v), u = trainer.taken_image, trainer.taken_text
        return found | {
            "image_features_tower": v,
            "text_features_tower": u if u.dim() == 2 or trainer.text_by_image else u[0],
            "logits_head": trainer.head("image", v),
            "logits_similarity": trainer.similarity(f, found["text_features"]),
        }
    if isinstance(trainer, MaPLe):
        found["vision_prompts"] = torch.stack(list(trainer.vision_tokens().values()))
        trainer.text_output = trainer.image_output = lambda u: u
        found["image_features_tower"] = trainer.clip.image.features(
            trainer.clip.image_state(images), trainer.vision_edit())
        found["text_features_tower"] = trainer.clip.text.features(
            trainer.clip.text_state(trainer.prompts, trainer.context),
            trainer.text_edit())[0]
    if isinstance(trainer, CLIPAdapter):
        found["image_features_tower"] = trainer.clip.image_output(images)
    if isinstance(trainer, PromptKD):
        found["image_features_tower"] = trainer.image_output(images)
    if isinstance(trainer, TaskRes):
        found["base_text_features"] = trainer.base_features()
    if isinstance(trainer, BiomedCoOp):
        found["sentence_features"] = trainer.sentence_features()
    if isinstance(trainer, TCP):
        found["class_prompts"] = trainer.class_tokens(trainer.frozen_class_features())
    return found


# DeCoOp has its own tests, in two phases.
@pytest.mark.parametrize(("method", "which"), [half for half in HALVES if half[0] != "DeCoOp"])
def test_forward(method, which, golden_clip, inputs):
    z = golden(method)
    wanted = [k.split("/")[1] for k in z.files if k.startswith(which) and "classnames" not in k]
    with torch.no_grad():
        found = outputs(build(method, golden_clip, which), inputs[0])
    wanted = [name for name in wanted if name not in ("f_m", "f_n")]  # f_w is of both
    assert wanted and set(wanted) <= set(found)
    for name in wanted:
        tolerance = LOGIT if "logits" in name else FEATURE
        tolerance = PLAN if name == "plan" else tolerance
        torch.testing.assert_close(found[name], torch.tensor(z[f"{which}/{name}"]), **tolerance)


@pytest.mark.parametrize("which", ["base", "new"])
@pytest.mark.parametrize("method", FUSING)
def test_prediction_is_fused_on_base_classes_alone(method, which, golden_clip, inputs):
    z = golden(method)
    with torch.no_grad():
        logits = build(method, golden_clip, which).logits(inputs[0])
    wanted = z[f"{which}/logits_fusion" if which == "base" else f"{which}/logits"]
    torch.testing.assert_close(logits, torch.tensor(wanted), **LOGIT)


@pytest.mark.parametrize("dataset", [
    key.split("/")[1] for key in golden("KgCoOp") if key.endswith("/zero_shot_text_features")
    and key.startswith("templates/")
])
@pytest.mark.parametrize("method", ["KgCoOp", "TCP", "ProGrad"])
def test_a_dataset_has_its_own_templates(method, dataset, golden_clip):
    z = golden(method)
    card = load_yaml(find_card(dataset))["DATASET"]
    names = tuple(name.replace("_", " ") for name in z["templates/classnames"])
    classes = Classes(names, card["TEMPLATE"], card["NEUTRAL"], dataset=dataset)
    trainer = TRAINERS[method](golden_config(), golden_clip, classes, tensors(method, "param"))
    key = "text_features" if method == "KgCoOp" else f"{dataset}/text_features"
    if method == "ProGrad":
        fresh = trainer.initial()["ctx"]
        assert torch.equal(fresh, torch.tensor(z[f"templates/{dataset}/param"]))
    for found, wanted in (
        (trainer.frozen_class_features(), f"{dataset}/zero_shot_text_features"),
        (trainer.class_features(), key),
    ):
        torch.testing.assert_close(found.detach(), torch.tensor(z[f"templates/{wanted}"]),
                                   **FEATURE)


def show_teacher(trainer, z):
    """Give PromptKD's teacher its vision prompts, as a training has them."""
    trainer._vision = {name.removeprefix("teacher/"): torch.tensor(z[name])
                       for name in z.files if name.startswith("teacher/image")}


def settle_draws(trainer, z):
    """Give CoPrompt the sentences of a golden file, drawn as it says."""
    indices = iter(z["train/sentence_index"].tolist())
    trainer.sentences = z["train/sentences"].tolist()
    trainer.draws = SimpleNamespace(randrange=lambda count: next(indices))


def test_coprompts_sentences_and_its_other_distance(golden_clip, inputs):
    images, labels, _ = inputs
    z = golden("CoPrompt")
    cfg = golden_config(TRAINER={"DISTILL": "mse"})
    trainer = build("CoPrompt", golden_clip, "base", cfg)
    settle_draws(trainer, z)
    second = torch.tensor(z["train/images2"])
    loss = trainer.loss(images[:4], labels[:4], second[:4])
    np.testing.assert_allclose(loss.item(), z["train/mse_loss"], atol=1e-3)
    assert list(trainer.encoded) == [z["train/sentence_index"][0]]
    for index, features in trainer.encoded.items():
        wanted = torch.tensor(z["train/sentence_features"][index])
        torch.testing.assert_close(features, wanted, **FEATURE)


@pytest.mark.parametrize("method", [name for name in LEARNING if name != "DeCoOp"])
def test_six_training_steps(method, golden_clip, golden_teacher, inputs):
    images, labels, _ = inputs
    z = golden(method)
    cfg = golden_config(OPTIM={"MAX_EPOCH": 3, **OPTIM[method]})
    unlabelled = method in ("CasPL", "PromptKD")
    cfg.TRAINER[TRAINERS[method].node].update(TRAINING.get(method, {}))
    trainer = build(method, golden_clip, "all" if unlabelled else "base", cfg)
    if method == "PromptKD":
        show_teacher(trainer, z)
    if method == "CasPL":
        trainer.teacher = Teacher(golden_teacher, trainer.classes)
    if trainer.learns_names:
        trainer = trainer.for_classes(replace(trainer.classes, everyone=EUROSAT))
    optimizer = build_optimizer(trainer.parameter_groups(), cfg.OPTIM)
    schedule = make_schedule(cfg.OPTIM, 2, 6 if trainer.steps else None)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    weights = trainer.epoch_weights(3)
    if method == "CoPrompt":
        settle_draws(trainer, z)
    second = torch.tensor(z["train/images2"]) if trainer.views == 2 else None
    losses, rates, mean = [], [], None
    for epoch in range(3):
        for step, batch in enumerate((slice(0, 4), slice(4, 8))):
            rates.append(schedule.rate(epoch, step))
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(epoch, step, group["factor"])
            views = [images[batch]] if second is None else [images[batch], second[batch]]
            loss = trainer.loss(views[0], labels[batch], *views[1:])
            take_step(optimizer, scaler, loss, trainer.clip_norm, trainer.change_gradients)
            losses.append(loss.item())
        trainer.end_epoch(epoch)
        if weights is not None:
            now = {name: weights[epoch] * t for name, t in trainer.learned.state_dict().items()}
            mean = now if mean is None else {name: mean[name] + now[name] for name in now}
    np.testing.assert_allclose(rates, z["train/lrs"], atol=1e-12)
    np.testing.assert_allclose(losses, z["train/losses"], atol=1e-3, rtol=0)
    final = mean or trainer.learned.state_dict()
    frozen = tensors(method, "param") if trainer.builds_on else {}  # what it builds on stays
    wanted = frozen | tensors(method, "trained")
    assert set(wanted) == set(final)
    for name, tensor in wanted.items():
        torch.testing.assert_close(final[name].float(), tensor.float(), **FEATURE)


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("method", [name for name in LEARNING if name != "CoOp"])
def test_priors(method, kind, golden_clip, inputs):
    z = golden(method)
    residual = kind == "residual"
    cfg = golden_config(NERP={
        "RESIDUAL_TEXT_PRIOR": residual, "RESIDUAL_IMAGE_PRIOR": residual,
        "C_TEXT": 0.8, "C_IMAGE": 0.6,
    })
    pixels = eval_transform(cfg, golden_clip.size)(Image.fromarray(inputs[2]))[None]
    reference = Normalise(cfg, golden_clip.device)(pixels)
    trainer = build(method, golden_clip, asked(method))
    text, image = priors(trainer, reference, cfg.NERP)
    np.testing.assert_allclose(text, z[f"nerp/{kind}/text_prior"], atol=1e-3)
    np.testing.assert_allclose(image, z[f"nerp/{kind}/image_prior"], atol=1e-3)
    if method in FUSING:
        seen = trainer.for_classes(replace(trainer.classes, seen=True))
        _, fused = priors(seen, reference, cfg.NERP)
        np.testing.assert_allclose(fused, z[f"nerp/{kind}/image_prior_fusion"], atol=1e-3)


@pytest.mark.parametrize("method", LEARNING)
def test_fresh_tensors_have_the_published_names_and_shapes(method, golden_clip):
    trainer = TRAINERS[method](golden_config(), golden_clip, eurosat_classes("base"))
    fresh, published = ({name: tensor.shape for name, tensor in found.items()
                         if not name.startswith("teacher.")}  # of any depth
                        for found in (trainer.learned.state_dict(), tensors(method, "param")))
    assert fresh == published
