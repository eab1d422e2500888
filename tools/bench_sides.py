"""The two sides that tools/bench.py compares: our trainer and a plain formulation."""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import cast
from unittest.mock import patch

import open_clip
import torch
from plain_methods import PLAIN
from plain_methods.adapted import PlainPromptKD
from plain_methods.adapter import PlainMMA
from plain_methods.context import PlainProGrad
from plain_methods.deep import PlainPromptSRC
from plain_methods.inserted import PlainANPrompt
from plain_methods.plain import OpenCLIP
from torch import Tensor, nn

from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip, normalise
from nerp.clip.modules import CLIP
from nerp.data.published import published
from nerp.engine.optim import build_optimizer
from nerp.settings.defaults import default_config
from nerp.settings.protocols import SAR_SUFFIX
from nerp.trainers.anprompt import ANPrompt
from nerp.trainers.base import Trainer
from nerp.trainers.mocoop import MoCoOp
from nerp.trainers.promptsrc import PromptSRC
from nerp.trainers.sar import Aligned
from nerp.trainers.taught import Taught
from nerp.trainers.teacher import Teacher
from nerp.trainers.texts import Classes

# Published batch sizes: training, evaluation.
BATCHES = {
    "CoOp": (32, 100), "CoCoOp": (1, 100), "PromptSRC": (4, 100), "MMA": (16, 100),
    "MMRL": (4, 250), "MMRLpp": (4, 250), "ANPrompt": (4, 250), "KgCoOp": (128, 100),
    "MaPLe": (4, 100), "TCP": (32, 500), "CoPrompt": (4, 100), "CoOp_SAR": (32, 100),
    "BiomedCoOp": (4, 100), "RESTORE": (4, 100), "CLIPLoRA": (32, 256), "MoCoOp": (32, 32),
    "CasPL": (4, 100), "CasPL_CoOp": (32, 100), "CasPL_CoCoOp": (1, 100), "CasPL_MaPLe": (4, 100),
    "CasPL_PromptSRC": (4, 100), "MaPLe_DePT": (4, 100), "PLOT": (128, 200), "PLOTPP": (32, 100),
    "DeCoOp": (32, 256), "ProGrad": (32, 100), "CLIPAdapter": (32, 100), "TaskRes": (256, 500),
    "PromptKD": (8, 100),
}
# The published code of these methods keeps class features for the whole evaluation. That of other
# methods encodes text per batch. How PromptKD's evaluates is not known; it is assumed to keep them.
KEEPS_TEXT = {"MMRL", "MMRLpp", "ANPrompt", "MMA", "PromptKD"}
HAS_FROZEN_COPY = {"MMRL", "MMRLpp", "ANPrompt", "PromptSRC", "CoPrompt", "BiomedCoOp",
                   "CasPL_PromptSRC", "ProGrad"}
TEACHER = "ViT-L-14-quickgelu"  # for CasPL and PromptKD
OPTIMISER = {"MMRL": "adamw", "MMRLpp": "adamw", "ANPrompt": "adamw", "TCP": "adam",
             "CLIPLoRA": "adamw", "TaskRes": "adam"}


Images = Callable[..., Tensor]  # a function of images; a loss also takes labels


class Ours:
    """Our path: one training step, and the evaluation of one batch."""

    def __init__(self, bench: "Bench", trainer: Trainer, compiled: bool = False):
        self.trainer = trainer
        self.images, self.labels, self.eval_images = bench.images, bench.labels, bench.eval_images
        self.optimizer = build_optimizer(trainer.parameters(), bench.cfg.OPTIM)
        if isinstance(trainer, ANPrompt):  # computed once per run, by training
            with trainer.clip.autocast():
                trainer.weak_class_features()
        self.compiled = compiled
        self.loss = self.compile(trainer.loss)

    def compile(self, function: Images) -> Images:
        return torch.compile(function) if self.compiled else function

    def step(self) -> Tensor:
        with self.trainer.clip.autocast():
            loss = self.loss(self.images, self.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.trainer.change_gradients()
        self.optimizer.step()
        return loss.detach()

    @torch.inference_mode()
    def prepare(self) -> None:
        with self.trainer.clip.autocast():
            self.classify = self.compile(self.trainer.classifier())

    @torch.inference_mode()
    def evaluate(self) -> Tensor:
        with self.trainer.clip.autocast():
            return self.classify(self.eval_images)


class Plain:
    """The plain method's training step, and its evaluation of one batch."""

    def __init__(self, bench: "Bench", args: argparse.Namespace, method: str):
        self.method = method
        self.images, self.labels, self.eval_images = bench.images, bench.labels, bench.eval_images
        learned = {
            name: nn.Parameter(tensor.detach().clone())
            for name, tensor in bench.trainer.learned.named_parameters()
        }
        tensors: dict[str, Tensor] = {**learned, **dict(bench.trainer.learned.named_buffers())}
        classes, settings = bench.trainer.classes, bench.trainer.settings
        of_sar = bench.of_sar() if method.endswith(SAR_SUFFIX) else {}
        if args.memory:  # only this side is measured
            del bench.trainer, bench.clip
        copies = 2 if method in HAS_FROZEN_COPY else 1
        model, *frozen = (plain_model(args.backbone, bench.device) for _ in range(copies))
        self.plain = PLAIN[method](
            model, classes.names, classes.template, tensors, settings,
            frozen=frozen[0] if frozen else None,
        )
        vars(self.plain).update(of_sar)
        self.optimizer = build_optimizer(list(learned.values()), bench.cfg.OPTIM)
        dtype = bench.precision.weights
        self.autocast: Callable[[], AbstractContextManager[object]] = lambda: torch.autocast(
            bench.device.type, dtype=dtype, enabled=dtype != torch.float32
        )
        # Encoded once per run, in the published code too.
        vars(self.plain).update(
            frozen_text=lambda: bench.frozen_text, sentence_features=lambda: bench.frozen_text,
            sentences=bench.sentences,  # BiomedCoOp's
            prototypes=bench.prototypes,  # MoCoOp's
            weight=bench.cfg.TRAINER.W,
        )
        text = bench.teacher.text if bench.teacher else None
        if args.memory:
            del bench.teacher
        if isinstance(self.plain, PlainPromptKD):
            self.plain.teacher = bench.plain_teacher()
        elif text is not None:
            vars(self.plain).update(
                teacher_text=lambda: text, teacher=plain_model(TEACHER, bench.device))
        if isinstance(self.plain, PlainANPrompt):
            weak = self.plain.weak_text()
            vars(self.plain)["weak_text"] = lambda: weak

    def step(self) -> Tensor:
        with self.autocast():
            loss = self.plain.loss(self.images, self.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if isinstance(self.plain, PlainMMA):
            self.plain.unscale()
        elif isinstance(self.plain, PlainProGrad):
            self.plain.project()
        self.optimizer.step()
        return loss.detach()

    @torch.inference_mode()
    def prepare(self) -> None:
        self.text = self.plain.text() if self.method in KEEPS_TEXT else None

    @torch.inference_mode()
    def evaluate(self) -> Tensor:
        if self.text is not None:
            vars(self.plain)["text"] = lambda: self.text
        try:
            with self.autocast():
                return self.plain.logits(self.eval_images)
        finally:
            vars(self.plain).pop("text", None)


class Bench:
    """One method at one class count: its inputs, and the sides built on them."""

    def __init__(self, method: str, classes: int, args: argparse.Namespace):
        torch.manual_seed(0)
        self.method = method
        self.device = torch.device(args.device)
        train_batch, eval_batch = BATCHES[method]
        self.train_batch = args.train_images or train_batch
        self.eval_batch = min(eval_batch, args.eval_images)
        self.cfg = default_config()
        self.cfg.OPTIM.NAME = OPTIMISER.get(method, "sgd")
        self.cfg.TRAINER.NAME = method
        if method.endswith(SAR_SUFFIX):
            self.cfg.DATASET.NAME = "ImageNet"  # its list has more names than are used
        # Names of a real benchmark, because invented names would share more or fewer words.
        names = tuple(published()["ImageNet"]["classnames"][:classes])
        self.classes = Classes(names, "a photo of a {}.", "a photo of an object.")
        self.clip = Clip(random_model(args.backbone), args.precision, self.device, args.backbone)
        self.precision = self.clip.precision
        self.teacher: Teacher | None = None
        self.start: dict[str, Tensor] = {}
        if method in ("CasPL", "PromptKD"):
            clip = Clip(random_model(TEACHER), args.precision, self.device, TEACHER)
            with clip.autocast():
                self.teacher = Teacher(clip, self.classes)
            if method == "PromptKD":
                self.start = PromptSRC(self.cfg, clip, self.classes).learned.state_dict()
        # This model replaces a backbone from a file.
        with patch.object(Taught, "_backbone", self.teacher and self.teacher.clip):
            self.trainer: Trainer = TRAINERS[method](
                self.cfg, self.clip, self.classes, start=self.start)
        size, width = self.clip.size, self.clip.embed_dim
        most = max(self.train_batch, self.eval_batch)
        images = torch.randn(most, 3, size, size, device=self.device)
        self.images, self.eval_images = images[: self.train_batch], images[: self.eval_batch]
        self.labels = torch.randint(0, classes, (self.train_batch,), device=self.device)
        # Texts are encoded once per run, so they are no part of a step. Any values serve here.
        self.frozen_text = normalise(torch.randn(classes, width, device=self.device))
        self.sentences = self.prototypes = torch.empty(0)
        if isinstance(self.trainer, MoCoOp):
            experts = len(self.trainer.experts)
            self.prototypes = normalise(torch.randn(experts, classes, width, device=self.device))
        if method == "BiomedCoOp":
            each = self.trainer.settings.N_PROMPTS
            self.sentences = normalise(torch.randn(classes, each, width, device=self.device))
        elif method in HAS_FROZEN_COPY and not args.memory:
            self.frozen_text = self.trainer.frozen_class_features()
        self.hold_references(self.trainer)

    def hold_references(self, trainer: Trainer) -> None:
        """Set a trainer's features that are encoded once per run, so that no step encodes them."""
        if self.method == "BiomedCoOp":
            vars(trainer)["sentence_features"] = lambda: self.sentences
            return
        vars(trainer)["prototypes"] = lambda: self.prototypes  # MoCoOp's
        if self.method == "TaskRes":  # a part of its checkpoint
            return
        vars(trainer).update(
            frozen_class_features=lambda: self.frozen_text,
            sentence_features=lambda: self.frozen_text,  # CoPrompt's
        )
        if self.method == "CasPL":
            vars(trainer)["teacher"] = self.teacher
        elif self.teacher:
            vision = {name: tensor for name, tensor in self.start.items() if "image" in name}
            vars(trainer).update(_backbone=self.teacher.clip, _vision=vision)
        if isinstance(trainer, ANPrompt):
            trainer.weak_class_features()

    def side(self, name: str, args: argparse.Namespace) -> Ours | Plain:
        if name == "ours":
            return Ours(self, self.trainer)
        if name == "plain":
            return Plain(self, args, self.method)
        copied = {name: t.clone() for name, t in self.trainer.learned.state_dict().items()}
        trainer = TRAINERS[self.method](self.cfg, self.clip, self.classes, copied)
        self.hold_references(trainer)
        return Ours(self, trainer, compiled=True)

    def plain_teacher(self) -> PlainPromptSRC:
        """PromptKD's teacher as a plain PromptSRC."""
        return PlainPromptSRC(
            plain_model(TEACHER, self.device), self.classes.names, self.classes.template,
            self.start, self.cfg.TRAINER.PROMPTSRC)

    def of_sar(self) -> dict[str, object]:
        """The attributes of a plain method for SAR's term. It draws the same sets S as the
        trainer."""
        trainer = self.trainer
        assert isinstance(trainer, Aligned)
        generator = torch.Generator().manual_seed(trainer.generator.initial_seed())
        return {"novel": trainer.novel.names, "sar": trainer.sar, "frozen_all": trainer.frozen,
                "generator": generator}

    def bare_forward(self, args: argparse.Namespace) -> Callable[[], Tensor]:
        """open_clip's image forward alone, all its matrices in the precision's type."""
        dtype = self.precision.weights
        model = plain_model(args.backbone, self.device, dtype)
        images = self.eval_images.to(dtype)
        return torch.inference_mode()(lambda: model.encode_image(images))


def plain_model(
    name: str, device: torch.device, dtype: torch.dtype = torch.float32
) -> OpenCLIP:
    """`random_model` on a device, with the type that tools/plain_methods uses."""
    return cast(OpenCLIP, random_model(name).to(device, dtype))


def random_model(name: str) -> CLIP:
    """An open_clip model of that name with random weights, frozen; the same at every call."""
    torch.manual_seed(1)
    model: CLIP = open_clip.create_model(name, load_weights=False)
    with torch.no_grad():
        model.get_parameter("logit_scale").fill_(4.6052)
    return model.eval().requires_grad_(False)
