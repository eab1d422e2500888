"""Shared code of methods whose class features are frozen CLIP's."""

from torch import Tensor

from nerp.clip.model import normalise
from nerp.trainers.base import Trainer


class PlainText(Trainer):
    """A method whose text encoder is frozen CLIP's."""

    learns_text = False

    def class_features(self, images: Tensor | None = None) -> Tensor:
        return self.frozen_class_features()

    def tuned_neutral(self) -> Tensor:
        return normalise(self.clip.text_features([self.classes.neutral]))[0]
