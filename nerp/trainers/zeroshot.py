"""Zero-shot CLIP, alone and with an ensemble of prompts."""

from torch import Tensor

from nerp.base.registry import TRAINERS
from nerp.clip.templates import ENSEMBLE_7
from nerp.trainers.base import precision
from nerp.trainers.frozen_text import PlainText
from nerp.trainers.texts import mean_of_normalised


@TRAINERS.register("ZeroshotCLIP")
class ZeroshotCLIP(PlainText):
    """Zero-shot CLIP with the dataset's template. Nothing is learned.

    Logits: s f tᵀ. See docs/methods/zeroshot.md.
    """

    node = "ZEROSHOT"
    paper = "Radford et al., ICML 2021"
    group = "zero-shot"
    defaults = {"PREC": precision("fp16")}


@TRAINERS.register("ZeroshotCLIP2")
class ZeroshotEnsemble(ZeroshotCLIP):
    """Zero-shot CLIP that averages normalised features over seven general templates and the
    dataset's own. See docs/methods/zeroshot.md."""

    def frozen_class_features(self, images: Tensor | None = None) -> Tensor:
        if self._frozen_class_features is None:
            templates = dict.fromkeys([*ENSEMBLE_7, self.classes.template])
            self._frozen_class_features = mean_of_normalised(
                self.clip, self.classes.names, templates
            )
        return self._frozen_class_features
