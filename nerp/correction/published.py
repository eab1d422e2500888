"""Published rules of others, based on references, features or training labels (see `peers`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.registry import RULES
from nerp.correction.correction import Correction, Extra, Informed, Rescored
from nerp.correction.looked_at import TRAINING_IMAGES, TRAINING_LABELS
from nerp.correction.peers import (
    adjusted,
    contextual_bias,
    labelled_bias,
    normalise_distribution,
)
from nerp.correction.shifting import Shift

_NO_INPUT = ("gap", "matched")  # references that are not a model's output for an input


@RULES.register("contextual")
@dataclass(frozen=True)
class Contextual(Shift):
    """Divides by the mean probabilities of content-free inputs; with one input it is the shift at
    strength 1."""

    name: ClassVar[str] = "contextual"
    effect: ClassVar[str] = ("each class's probability is divided by what neutral references give "
                             "it")

    @classmethod
    def weighed(cls, node: CfgNode) -> list[str]:
        return [name for name in node.REFERENCES if name not in _NO_INPUT] or ["image"]

    @classmethod
    def from_config(cls, node: CfgNode, strengths: Mapping[str, float]) -> "Contextual":
        return cls(node.SCOPE, dict.fromkeys(strengths, 1.0))

    def bias(self, logits: Tensor, priors: Mapping[str, Tensor]) -> Tensor:
        return contextual_bias(torch.stack([priors[name] for name in self.references]))

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        return ()

    @property
    def note(self) -> str:
        return f"contextual calibration by {' and '.join(self.references)}, whole{self.confined}"


@RULES.register("distribution")
@dataclass(frozen=True)
class Distribution(Informed):
    """Subtracts from the cosines of features a quarter of their means (DN)."""

    name: ClassVar[str] = "distribution"
    looked_at: ClassVar[str] = TRAINING_IMAGES
    needs: ClassVar[tuple[str, ...]] = ("image_features", "text_features", "image_mean", "scale")
    effect: ClassVar[str] = ("image and class features lose a quarter of their means before they "
                             "are compared")
    note: ClassVar[str] = "distribution normalisation, weight 0.25"

    @classmethod
    def from_config(cls, node: CfgNode, strengths: Mapping[str, float]) -> "Distribution":
        return cls()

    def correct_with(self, logits: Tensor, extra: Extra) -> Correction:
        text, image, mean = extra.text_features, extra.image_features, extra.image_mean
        scale = extra.scale
        assert text is not None and image is not None and mean is not None and scale is not None
        return Rescored.of(logits, scale * normalise_distribution(image, text, mean, text.mean(0)))


@RULES.register("labelled")
@dataclass(frozen=True)
class Labelled(Informed):
    """Adds the tuned and the zero-shot logits, minus the zero-shot model's log prior (GLA)."""

    name: ClassVar[str] = "labelled"
    looked_at: ClassVar[str] = TRAINING_LABELS
    needs: ClassVar[tuple[str, ...]] = ("zero_shot_logits", "labelled_logits", "labelled_labels")
    effect: ClassVar[str] = ("zero-shot CLIP's logits are added, less the preference that its "
                             "labelled training images show")
    note: ClassVar[str] = "generalised logit adjustment by the training images of these classes"

    @classmethod
    def from_config(cls, node: CfgNode, strengths: Mapping[str, float]) -> "Labelled":
        return cls()

    def correct_with(self, logits: Tensor, extra: Extra) -> Correction:
        zero_shot, labelled = extra.zero_shot_logits, extra.labelled_logits
        labels = extra.labelled_labels
        assert zero_shot is not None and labelled is not None and labels is not None
        bias = labelled_bias(labelled, labels)
        return Rescored.of(logits, adjusted(logits, zero_shot, bias))
