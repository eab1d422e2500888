"""A larger frozen CLIP beside the one that is trained."""

from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.clip.model import Clip, build_clip, normalise
from nerp.trainers.texts import Classes


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
    clip, notes = build_clip(
        settings.TEACHER, settings.TEACHER_PATH, "auto", settings.PREC, student.device
    )
    for note in notes:
        say(f"teacher: {note}")
    if clip.size != student.size:
        raise NerpError(f"TRAINER.{node}.TEACHER: {clip.name} takes images of {clip.size} pixels "
                        f"a side, the backbone that is trained of {student.size}; both see the "
                        "same images, so give a teacher of that size")
    return Teacher(clip, classes)
