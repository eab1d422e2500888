"""A larger frozen CLIP as the teacher of the trained one."""

import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.clip.model import Clip, build_clip, normalise
from nerp.trainers.texts import Classes


def divergence(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """tau^2 sum_b KL(softmax(target / tau) || softmax(logits / tau)), a scalar. target, logits:
    [B, C]. temperature: tau."""
    own, wanted = ((z / temperature).log_softmax(1) for z in (logits, target))
    return temperature**2 * F.kl_div(own, wanted, reduction="sum", log_target=True)


class Teacher:
    """A frozen CLIP for the same classes and images as the student.

    Attributes: clip: the backbone. text: its class features [C, D_T], normalised.
    """

    def __init__(self, clip: Clip, classes: Classes):
        self.clip = clip
        self.text = normalise(clip.text_features(classes.prompts))


def open_teacher(settings: CfgNode, node: str, student: Clip, classes: Classes) -> Teacher:
    """The teacher that TEACHER and TEACHER_PATH of a method's settings name.

    Raises NerpError if it cannot be read, or if its image size differs from the student's.
    """
    clip = open_backbone(settings.TEACHER, settings.TEACHER_PATH, settings.PREC, student)
    check_size(clip, student, f"TRAINER.{node}.TEACHER")
    return Teacher(clip, classes)


def open_backbone(name: str, path: str, precision: str, student: Clip) -> Clip:
    """The teacher's backbone, by name or from a file of weights (`path`), on the student's device.
    Raises NerpError if it cannot be read."""
    clip, notes = build_clip(name, path, "auto", precision, student.device)
    for note in notes:
        say(f"teacher: {note}")
    return clip


def check_size(teacher: Clip, student: Clip, key: str) -> None:
    """Raise NerpError, naming the teacher's key, if both have different image sizes."""
    if teacher.size != student.size:
        raise NerpError(f"{key}: {teacher.name} takes images of {teacher.size} pixels "
                        f"a side, the backbone that is trained of {student.size}; both see the "
                        "same images, so give a teacher of that size")
