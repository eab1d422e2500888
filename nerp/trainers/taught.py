"""A teacher with PromptSRC's prompts, and a student that uses the teacher's class features."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nerp.base.errors import NerpError
from nerp.clip.model import Clip
from nerp.trainers.base import Trainer
from nerp.trainers.promptsrc import PromptSRC
from nerp.trainers.teacher import check_size, open_backbone
from nerp.trainers.tensors import random_tokens

_LAYER = r"{}_encoder\.transformer\.resblocks\.(\d+)\.VPT_shallow"
_PREFIX, _CTX, _VPT = "teacher.", "prompt_learner.ctx", "image_encoder.VPT"
_USUAL = 4  # the usual number of tokens
# The tensors of a PromptSRC checkpoint that a test needs too, and those that only training needs.
_OF_TEXT = r"prompt_learner\.ctx|text_encoder\.transformer\.resblocks\.\d+\.VPT_shallow"
_OF_IMAGES = r"image_encoder\.VPT|image_encoder\.transformer\.resblocks\.\d+\.VPT_shallow"
_WIDTHS = {"ViT-L/14": 768}  # D_T of the usual teacher, known without reading its weights


def layers_of(tensors: Mapping[str, Tensor], encoder: str) -> dict[int, Tensor]:
    """Layer -> PromptSRC's tokens [K, W] in the "image" or the "text" encoder, for layers >= 2."""
    found = ((re.fullmatch(_LAYER.format(encoder), name), tensor)
             for name, tensor in tensors.items())
    return {int(match[1]) + 1: tensor for match, tensor in found if match}


class PromptedTeacher(PromptSRC):
    """A frozen CLIP with the prompts of a PromptSRC checkpoint, in their number and depth. The
    image encoder's prompts may be missing if no image is encoded. Its settings are the student's
    (`node`); it reads only CTX_INIT."""

    node = "PROMPTKD"

    def check(self) -> None:
        """Check nothing: the checkpoint decides all settings."""

    @property
    def n_ctx(self) -> int:
        return len(self.parameter("prompt_learner.ctx"))

    def deep(self, encoder: str) -> dict[int, Tensor]:
        return layers_of(dict(self.learned.named_parameters()), encoder)


class Taught(Trainer):
    """A method whose class features are those of a frozen larger CLIP with PromptSRC's prompts.

    The checkpoint stores the teacher's text prompts, so that a test needs no other checkpoint. The
    teacher's vision prompts are used in training only. Settings: TEACHER_NAME and TEACHER_PATH for
    the teacher's backbone, TEACHER_CHECKPOINT for its prompts.
    """

    builds_on = {"TEACHER_CHECKPOINT": "PromptSRC"}
    plain = ("teacher_backbone",)
    learns_text = False
    first = ""  # the name of a tensor whose first dimension is D_T

    _backbone: Clip | None = None
    _vision: Mapping[str, Tensor] = {}
    _teacher: PromptedTeacher | None = None  # for the same classes
    _text: Tensor | None = None

    @classmethod
    def lacks(cls, tensors: Mapping[str, Tensor]) -> bool:
        return _PREFIX + _CTX not in tensors  # as in every published file

    @classmethod
    def taken_over(cls, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {_PREFIX + name: t for name, t in tensors.items() if re.fullmatch(_OF_TEXT, name)}

    def first_teacher(self) -> dict[str, Tensor]:
        """The teacher's text prompts under their names in the student's checkpoint. They are those
        of the student's checkpoint, or else of the PromptSRC checkpoint that training starts from.
        Without either, and with TEACHER_PATH, they are random ones of layer 1."""
        start: Mapping[str, Tensor] = self.start
        kept = {name: t for name, t in start.items() if name.startswith(_PREFIX)}
        if kept:
            return kept
        if _CTX not in start and self.settings.TEACHER_PATH:
            start = {_CTX: random_tokens(_USUAL, self.backbone.text.width),
                     _VPT: random_tokens(_USUAL, self.backbone.image.width)}
        self._vision = {name: t for name, t in start.items() if re.fullmatch(_OF_IMAGES, name)}
        return self.taken_over(start)

    @property
    def width(self) -> int:
        """D_T, from the student's checkpoint or else from the teacher's backbone."""
        if self.first in self.start:
            return len(self.start[self.first])
        known = _WIDTHS.get(self.settings.TEACHER_NAME, 0)
        needed = self.start or self.settings.TEACHER_PATH or not known
        return self.backbone.embed_dim if needed else known

    @property
    def backbone(self) -> Clip:
        """The teacher's CLIP, read once; without TEACHER_NAME another copy of the student's. Raises
        NerpError if it cannot be read."""
        if self._backbone is None:
            own = self.settings
            name, path = (own.TEACHER_NAME, own.TEACHER_PATH) if own.TEACHER_NAME else \
                (self.cfg.MODEL.BACKBONE.NAME, self.cfg.MODEL.BACKBONE.PATH)
            self._backbone = open_backbone(name, path, own.PREC, self.clip)
        return self._backbone

    @property
    def teacher(self) -> PromptedTeacher:
        """The teacher for these classes. Raises NerpError if the prompts do not fit its backbone,
        or if its image size differs from the student's."""
        if self._teacher is None:
            own = {name.removeprefix(_PREFIX): tensor
                   for name, tensor in self.learned.named_buffers() if name.startswith(_PREFIX)}
            clip = self.backbone
            found = clip.embed_dim, clip.text.width
            wanted = len(self.parameter(self.first)), own[_CTX].shape[-1]
            if found != wanted:
                raise NerpError(f"TRAINER.{self.node}.TEACHER_NAME: {clip.name} has features of "
                                f"{found[0]} and a text encoder of {found[1]}, the teacher's are "
                                f"{wanted[0]} and {wanted[1]}: name its backbone")
            widths = {tensor.shape[-1] for tensor in self._vision.values()}
            if not widths <= {clip.image.width}:
                raise NerpError(f"TRAINER.{self.node}.TEACHER_NAME: {clip.name} has an image "
                                f"encoder of {clip.image.width}, the teacher's is "
                                f"{max(widths)}: name its backbone")
            check_size(clip, self.clip, f"TRAINER.{self.node}.TEACHER_NAME")
            self._teacher = PromptedTeacher(self.cfg, clip, self.classes, {**own, **self._vision})
        return self._teacher

    def prepare(self) -> None:
        self._text = None
        if self._teacher is not None:
            other = self._teacher.for_classes(self.classes)
            assert isinstance(other, PromptedTeacher)
            self._teacher = other

    def prepare_training(self) -> None:
        if not self.settings.TEACHER_CHECKPOINT:
            raise NerpError(f"TRAINER.{self.node}.TEACHER_CHECKPOINT is empty: the student learns "
                            "from a PromptSRC checkpoint of the teacher's backbone (nerp train "
                            "--trainer PromptSRC); give its file, or the --output-dir of its "
                            "training")
        self.class_features()

    def plain_values(self) -> dict[str, object]:
        return {"teacher_backbone": self.backbone.digest}

    def recall(self, trained: Sequence[str], plain: Mapping[str, object]) -> None:
        said = plain.get("teacher_backbone")
        if said not in (None, "", self.teacher.clip.digest):
            raise NerpError("its teacher had other weights than those of "
                            f"TRAINER.{self.node}.TEACHER_NAME or TEACHER_PATH")

    def class_features(self, images: Tensor | None = None) -> Tensor:
        """t of the teacher, computed once."""
        if self._text is None:
            # The first call may come from a test, and training uses the same tensor later.
            with torch.inference_mode(False), torch.no_grad():
                self._text = self.teacher.class_features()
        return self._text

    @property
    def frozen_clip(self) -> Clip:
        return self.backbone

    def frozen_class_features(self, images: Tensor | None = None) -> Tensor:
        return self.teacher.frozen_class_features()

    def neutral_features(self, image: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.teacher.neutral_features(image)

    def tuned_neutral(self) -> Tensor:
        return self.teacher.tuned_neutral()

    def teacher_logits(self, images: Tensor) -> Tensor:
        """The teacher's logits z_T [B, C] of images [B, 3, H, W], with the teacher's scale."""
        text, teacher = self.class_features(), self.teacher
        with torch.no_grad():
            return teacher.similarity(teacher.image_features(images), text)
