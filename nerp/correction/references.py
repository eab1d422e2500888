"""Neutral references: inputs that show none of the tested classes, and the model's logits for them.

A reference yields a prior [C] in logits: how strongly the model prefers each class without any
evidence. It is a function of `Probe` that returns a `Prior`, registered under its name in
NERP.REFERENCES. predictions.npz keeps the prior as `<name>_prior`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.registry import REFERENCES
from nerp.clip.device import in_float32
from nerp.correction.gap import gap_prior, slope_between_halves
from nerp.correction.looked_at import NOTHING, TRAINING_IMAGES, TRAINING_LABELS
from nerp.correction.matching import uniform_bias
from nerp.correction.pairs import Labelled, not_at_hand
from nerp.correction.priors import image_prior, text_prior
from nerp.trainers.base import Trainer

# The gap's strength is this share of the mean of its slope and a constant, since few classes say
# little about the slope. The other two are the strengths of the mean image and of the match on
# other classes. All were chosen on benchmarks drawn with other seeds than any reported ones
# (docs/study/choice.md).
GAP_STRENGTH = 1 / 3
GAP_SHARE = 1.25
IMAGE_STRENGTH = 1 / 16
MATCHED_STRENGTH = 0.1


class Unsuited(NerpError):
    """A reference is not neutral for the classes under test."""


@dataclass(frozen=True)
class Prior:
    """Attributes:
        values: [C], in logits, on the CPU.
        looked_at: the data that it was computed from (`nerp.correction.looked_at`).
        strength: the share of it that NERP.STRENGTH auto subtracts.
    """

    values: Tensor
    looked_at: str
    strength: float


@dataclass(frozen=True)
class Shown:
    """Labelled images of the classes that a model was trained on, as the model sees them.

    Attributes:
        features: [N, D] the tuned model's, normalised. labels: [N]; each class occurs.
        text: [K, D] the tuned class features. classnames: K names.
    """

    features: Tensor
    labels: Tensor
    text: Tensor
    classnames: list[str]


@dataclass(frozen=True)
class Openness:
    """What a test in the open world knows. base: [C], whether each class was trained on. held:
    logits over all classes, and labels, of validation images of the base classes. tested: the same
    of the images under test."""

    base: Tensor
    held: Callable[[], Labelled]
    tested: Callable[[], Labelled]


@dataclass(frozen=True)
class Probe:
    """The inputs of references. Expensive inputs are functions, called only if needed.

    Attributes:
        trainer: the model, for the classes under test.
        settings: the config node NERP.
        reference: the mean training image [1, 3, H, W] after the test transform, normalised.
        shown: the model's few-shot training images and their classes.
        shown_logits: the model's logits [N, C] over the classes under test on those images.
        openness: for a test in the open world; otherwise None.
        frozen_shown: the same images and classes as frozen CLIP sees them; None: not available.
    """

    trainer: Trainer
    settings: CfgNode
    reference: Callable[[], Tensor]
    shown: Callable[[], Shown] = not_at_hand
    shown_logits: Callable[[], Tensor] = not_at_hand
    openness: Openness | None = None
    frozen_shown: Callable[[], Shown] | None = None

    @property
    def image(self) -> Tensor:
        """The reference image itself."""
        return self.reference()


def image_for(trainer: Trainer, reference: Callable[[], Tensor]) -> Tensor | None:
    """The reference image [1, 3, H, W] if class features depend on an image; otherwise None."""
    return reference() if trainer.text_by_image else None


@REFERENCES.register("text")
def neutral_prompt(probe: Probe) -> Prior:
    """A prompt that names no class. (NeRP: the text prior.)"""
    trainer, settings = probe.trainer, probe.settings
    image = image_for(trainer, probe.reference)
    values = text_prior(
        trainer.reference_class_features(image),
        *trainer.neutral_features(image),
        trainer.scale,
        settings.C_TEXT if settings.RESIDUAL_TEXT_PRIOR else 0.0,
    )
    return Prior(values.float().cpu(), NOTHING, 0.05)


@REFERENCES.register("image")
def mean_image(probe: Probe) -> Prior:
    """The mean training image. (NeRP: the image prior.)"""
    settings = probe.settings
    values = image_prior(
        *probe.trainer.reference_logits(probe.image),
        settings.C_IMAGE if settings.RESIDUAL_IMAGE_PRIOR else 0.0,
    )
    return Prior(values.float().cpu(), TRAINING_IMAGES, IMAGE_STRENGTH)


@REFERENCES.register("others")
def images_of_other_classes(probe: Probe) -> Prior:
    """The mean logits of the training images, if they show none of the tested classes."""
    _require_other_classes(probe)
    return Prior(probe.shown_logits().mean(0).float().cpu(), TRAINING_IMAGES, 0.1)


@REFERENCES.register("matched")
def match_on_other_classes(probe: Probe) -> Prior:
    """The bias with which the mean prediction of the training images is uniform, if they show none
    of the tested classes."""
    _require_other_classes(probe)
    logits = probe.shown_logits().float().cpu()
    with in_float32(logits.device):
        return Prior(uniform_bias(logits), TRAINING_IMAGES, MATCHED_STRENGTH)


def _require_other_classes(probe: Probe) -> None:
    shared = set(probe.shown().classnames) & set(probe.trainer.classes.names)
    if shared:
        raise Unsuited(f"the training images show tested classes ({sorted(shared)[0]}, ...)")
    if len(probe.trainer.classes.names) < 2:
        raise Unsuited("there is one tested class")


@REFERENCES.register("gap")
def modality_gap(probe: Probe) -> Prior:
    """The common offset of training images that their classes do not explain (`correction.gap`)."""
    trainer, shown = probe.trainer, probe.shown()
    labelled = shown.features, shown.labels, shown.text
    tested = trainer.reference_class_features(image_for(trainer, probe.reference))
    values = gap_prior(*labelled, tested, trainer.scale)
    slope = slope_between_halves(*labelled, trainer.scale)
    if slope is None:
        return Prior(values.float().cpu(), TRAINING_LABELS, GAP_STRENGTH)
    slope = _clipped(slope)
    if probe.frozen_shown:
        # Some methods' own slope is nearly 0 on the classes that they were trained on.
        frozen = probe.frozen_shown()
        known = slope_between_halves(frozen.features, frozen.labels, frozen.text,
                                     trainer.frozen_clip.scale)
        slope = (slope + _clipped(known or 0.0)) / 2
    strength = GAP_SHARE * (GAP_STRENGTH + slope) / 2
    return Prior(values.float().cpu(), TRAINING_LABELS, strength)


def _clipped(slope: float) -> float:
    return min(max(slope, 0.0), 1.0)
