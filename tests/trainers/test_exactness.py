"""The shortcuts (cut text, shared starts, frozen layers computed once, a short last layer) change
nothing: every method against a plain full-length formulation, and its gradients with it."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import HALVES, TEACHER, TEMPLATE, eurosat_classes, golden_config
from plain_methods import PLAIN
from tiny_clip import open_clip_model, random_clip

from nerp.base.registry import TRAINERS
from nerp.data.sentences import substitute_sentences
from nerp.trainers.teacher import Teacher

VARIANTS = [
    ("ZeroshotCLIP", {}),
    ("CoOp", {}),
    ("CoOp", {"N_CTX": 5, "CLASS_TOKEN_POSITION": "middle"}),
    ("CoOp", {"N_CTX": 3, "CLASS_TOKEN_POSITION": "front"}),
    ("CoOp", {"CSC": True}),
    ("CoOp", {"CTX_INIT": "a satellite photo of"}),
    ("CoCoOp", {}),
    ("PromptSRC", {}),
    ("PromptSRC", {"N_CTX_TEXT": 2, "PROMPT_DEPTH_TEXT": 1, "PROMPT_DEPTH_VISION": 4}),
    ("MMA", {}),
    ("MMA", {"ADAPTER_START": 1, "ADAPTER_END": 3}),
    ("MMRL", {}),
    ("MMRL", {"REP_LAYERS": [1, 2, 3, 4], "N_REP_TOKENS": 2}),
    ("MMRL", {"REP_LAYERS": [4]}),
    ("KgCoOp", {}),
    ("KgCoOp", {"CTX_INIT": "", "CSC": True, "N_CTX": 3, "W": 1.5}),
    ("ProGrad", {}),
    ("ProGrad", {"CTX_INIT": "", "CSC": True, "N_CTX": 3, "LAMBDA": 1.0, "T": 0.7}),
    ("CLIPAdapter", {}),
    ("CLIPAdapter", {"RATIO": 0.7, "REDUCTION": 3}),
    ("TaskRes", {}),
    ("PromptKD", {}),
    ("PromptKD", {"N_CTX_VISION": 3, "PROMPT_DEPTH_VISION": 1, "TEMPERATURE": 2.0}),
    ("TCP", {}),
    ("TCP", {"CLASS_LAYER": 2}),
    ("TCP", {"CLASS_LAYER": 4}),
    ("MaPLe", {}),
    ("MaPLe", {"N_CTX": 5, "PROMPT_DEPTH": 1}),
    ("MaPLe", {"N_CTX": 4, "PROMPT_DEPTH": 6}),
    ("CoPrompt", {}),
    ("CasPL", {}),
    ("CasPL", {"N_CTX_TEXT": 3, "N_CTX_VISION": 2, "PROMPT_DEPTH_TEXT": 1,
               "PROMPT_DEPTH_VISION": 9, "TEMPERATURE": 2.0}),
    ("CasPL_CoOp", {}),
    ("CasPL_CoOp", {"CTX_INIT": "a big satellite photo of a"}),
    ("CasPL_CoCoOp", {}),
    ("CasPL_MaPLe", {}),
    ("CasPL_MaPLe", {"N_CTX": 2, "PROMPT_DEPTH": 1}),
    ("CasPL_MaPLe", {"N_CTX": 8, "PROMPT_DEPTH": 4}),
    ("CasPL_PromptSRC", {}),
    ("CasPL_PromptSRC", {"N_CTX_TEXT": 2, "PROMPT_DEPTH_TEXT": 4, "PROMPT_DEPTH_VISION": 2}),
    ("BiomedCoOp", {}),
    ("BiomedCoOp", {"N_CTX": 5, "TAU": 0.3}),
    ("RESTORE", {}),
    ("RESTORE", {"N_CTX": 4, "PROMPT_DEPTH": 1}),
    ("CLIPLoRA", {}),
    ("CLIPLoRA", {"PARAMS": ["q", "o"], "ENCODER": "text"}),
    ("CLIPLoRA", {"PARAMS": ["o"], "ENCODER": "vision", "RANK": 5}),
    ("MoCoOp", {}),
    ("MMRLpp", {}),
    ("MMRLpp", {"REP_LAYERS": [1, 2, 3, 4], "N_REP_TOKENS": 2, "RES_LORA_DIM": 1}),
    ("MMRLpp", {"REP_LAYERS": [2, 4], "BETA": 0.0}),
    ("MaPLe_DePT", {}),
    ("PLOT", {"N": 2}),
    ("PLOTPP", {"M": 2}),
    ("DeCoOp", {"K": 2}),
    ("ANPrompt", {}),
    ("ANPrompt", {"LAYERS": [1, 3], "N_TOKENS": 7, "MAIN_TEXTS": "", "NOISE_TEXTS": ""}),
]


def pair(method, settings, clip, model, which="base"):
    """The trainer and its plain counterpart, sharing no tensor."""
    torch.manual_seed(0)
    cfg = golden_config()
    cfg.TRAINER[TRAINERS[method].node].update(settings)
    classes = eurosat_classes(which)
    ours = TRAINERS[method](cfg, clip, classes)
    with torch.no_grad():  # biases and adapters begin at values that hide mistakes
        for tensor in ours.parameters():
            tensor += 0.02 * torch.randn_like(tensor)
    copies = {n: t.detach().clone().requires_grad_() for n, t in ours.learned.named_parameters()}
    copies |= dict(ours.learned.named_buffers())
    plain = PLAIN[method](
        model, classes.names, TEMPLATE, copies, ours.settings, seen=classes.seen
    )
    if method == "MaPLe_DePT":
        plain.head_weight = cfg.TRAINER.DEPT.WEIGHT
    if method == "CoPrompt":
        index = copy.deepcopy(ours.draws).randrange(60)
        plain.sentences = [own[index] for own in substitute_sentences(classes.names)]
        plain.weight = cfg.TRAINER.W
    if method == "PromptKD":
        teacher = ours.teacher
        plain.teacher = PLAIN["PromptSRC"](
            open_clip_model(random_clip(7, TEACHER)), classes.names, TEMPLATE,
            dict(teacher.learned.named_parameters()), ours.settings)
    if method == "CasPL":
        plain.teacher = copy.deepcopy(model)
        ours.teacher = Teacher(clip, classes)
    if method == "BiomedCoOp":
        plain.sentences = ours.sentence_features()
    if method == "MoCoOp":
        plain.prototypes = ours.prototypes()
    if method == "RESTORE" and ours.deep_layers:  # as if some training lay behind them
        ours.first_norms = plain.first_norms = 0.5 + torch.rand(2, len(ours.deep_layers))
    return ours, plain


@pytest.mark.parametrize(("method", "settings", "which"), [
    (method, settings, which) for method, settings in VARIANTS for which in ("base", "new")
    if (method, which) in HALVES or method == "ZeroshotCLIP"
])
def test_logits(method, settings, which, golden_clip, golden_model, inputs):
    ours, plain = pair(method, settings, golden_clip, golden_model, which)
    with torch.no_grad():
        torch.testing.assert_close(
            ours.logits(inputs[0]), plain.logits(inputs[0]), atol=2e-4, rtol=0
        )


@pytest.mark.parametrize(("method", "settings"), VARIANTS[1:])
def test_loss_and_gradients(method, settings, golden_clip, golden_model, inputs):
    images, labels, _ = inputs
    ours, plain = pair(method, settings, golden_clip, golden_model)
    loss, plain_loss = ours.loss(images, labels), plain.loss(images, labels)
    torch.testing.assert_close(loss, plain_loss, atol=1e-4, rtol=0)
    loss.backward()
    ours.change_gradients()
    plain_loss.backward()
    if method == "ProGrad":
        plain.project()
    if method == "MMA":
        plain.unscale()
    for name, tensor in ours.learned.named_parameters():
        wanted = plain.tensors[name].grad
        if wanted is None and method == "DeCoOp":  # of the other phase
            assert tensor.grad is None or not tensor.grad.any()
            continue
        if wanted is None:  # a prompt of a layer that the towers do not have
            assert tensor.grad is None and settings["PROMPT_DEPTH"] > golden_clip.text.depth
            continue
        if not wanted.numel():  # nothing is learned there
            continue
        # BatchNorm takes this bias away: its gradient is the rounding of the weight's.
        of = plain.tensors[name.replace("conv1.0.bias", "conv1.0.weight")].grad
        torch.testing.assert_close(tensor.grad, wanted, atol=1e-4 * float(of.abs().max()),
                                   rtol=0, msg=name)


@pytest.mark.parametrize("method", [m for m, s in VARIANTS if not s])
def test_one_class_alone(method, golden_clip, golden_model, inputs):
    """A single prompt has no common start with others: another path through the text tower."""
    ours, plain = pair(method, {}, golden_clip, golden_model)
    many = ours.class_features(inputs[0][:1])
    one = ours.for_classes(replace(ours.classes, names=ours.classes.names[2:3]))
    torch.testing.assert_close(
        one.class_features(inputs[0][:1])[..., 0, :], many[..., 2, :], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("method", ["CoCoOp"])
def test_a_batch_gives_what_its_images_give_alone(method, golden_clip, golden_model, inputs):
    ours, _ = pair(method, {}, golden_clip, golden_model)
    together = ours.logits(inputs[0])
    alone = torch.cat([ours.logits(image[None]) for image in inputs[0]])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
