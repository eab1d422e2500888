"""A larger frozen CLIP beside the one that is trained."""

import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.clip.model import Clip, build_clip, normalise
from nerp.trainers.texts import Classes


def divergence(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """tau^2 sum_b KL(softmax(target / tau) || softmax(logits / tau)), a scalar, of [B, C] each."""
    own, wanted = ((z / temperature).log_softmax(1) for z in (logits, target))
    return temperature**2 * F.kl_div(own, wanted, reduction="sum", log_target=True)


class Teacher:
    """A frozen CLIP that knows the same classes and is shown the same images.

    Attributes: clip: the backbone. text: its class features [C, D_T], normalised.
    """

    def __init__(self, clip: Clip, classes: Classes):
        self.clip = clip
        self.text = normalise(clip.text_features(classes.prompts))


def open_teacher(settings: CfgNode, node: str, student: Clip, classes: Classes) -> Teacher:
    """The teacher that TEACHER and TEACHER_PATH of a method's settings name.

    Raises NerpError where it cannot be had, or takes images of another size than the student.
    """
    clip = open_backbone(settings.TEACHER, settings.TEACHER_PATH, settings.PREC, student)
    check_size(clip, student, f"TRAINER.{node}.TEACHER")
    return Teacher(clip, classes)


def open_backbone(name: str, path: str, precision: str, student: Clip) -> Clip:
    """The backbone of that name, or of the weights in a file, as a teacher beside a student. Raises
    NerpError where it cannot be had."""
    clip, notes = build_clip(name, path, "auto", precision, student.device)
    for note in notes:
        say(f"teacher: {note}")
    return clip


def check_size(teacher: Clip, student: Clip, key: str) -> None:
    """Raise NerpError, naming the teacher's key, where it takes images of another size."""
    if teacher.size != student.size:
        raise NerpError(f"{key}: {teacher.name} takes images of {teacher.size} pixels "
                        f"a side, the backbone that is trained of {student.size}; both see the "
                        "same images, so give a teacher of that size")
