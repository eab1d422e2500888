"""NeRP around any trainer: fetch the priors and the pairs, settle the rule, then flip."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.correction.calibrate import Calibration, calibrate
from nerp.correction.flipping import Correction, Rule, flip
from nerp.correction.pairs import Clues, Labelled, Pairs, find_pairs
from nerp.correction.priors import image_prior, text_prior
from nerp.correction.sweep import Saved
from nerp.errors import NerpError
from nerp.trainers.base import Trainer


@dataclass(frozen=True)
class NeRP:
    """A trained model's priors and pairs, ready to correct logits.

    Attributes: text_prior, image_prior [C], in logits, on the CPU.
    """

    rule: Rule
    text_prior: Tensor
    image_prior: Tensor
    pairs: Pairs
    calibration: Calibration | None = None

    def correct(self, logits: Tensor) -> Correction:
        """Correct the logits [B, C] of the model that the priors are from."""
        return flip(logits, self.text_prior, self.image_prior, self.pairs.index, self.rule)


@dataclass
class Material:
    """The images that NeRP, or a pair source, may look at; each is fetched only if asked for.

    Attributes:
        reference: [1, 3, H, W], the reference image after the test transform, normalised.
        seen: the trainer asked about the classes it was trained on.
        training, validation: `seen`'s logits on their few-shot training and validation images.
        test_logits: [N, C] on the images under test; test_labels: [N].
    """

    reference: Tensor
    seen: Callable[[], Trainer]
    training: Callable[[], Labelled]
    validation: Callable[[], Labelled]
    test_logits: Callable[[], Tensor]
    test_labels: Callable[[], Tensor]


@torch.no_grad()
def priors(trainer: Trainer, reference: Tensor, settings: CfgNode) -> tuple[Tensor, Tensor]:
    """The text and the image prior [C] of a trained model, on the CPU.

    Args:
        reference: [1, 3, H, W], the reference image after the test transform, normalised.
        settings: the config node NERP.
    """
    with trainer.clip.autocast():
        text = text_prior(
            trainer.reference_class_features(reference),
            *trainer.neutral_features(),
            trainer.scale,
            settings.C_TEXT if settings.RESIDUAL_TEXT_PRIOR else 0.0,
        )
        image = image_prior(
            *trainer.reference_logits(reference),
            settings.C_IMAGE if settings.RESIDUAL_IMAGE_PRIOR else 0.0,
        )
    return text.float().cpu(), image.float().cpu()


@torch.no_grad()
def class_orders(trainer: Trainer, reference: Tensor) -> list[tuple[Tensor, Tensor]]:
    """How the tuned and the frozen model order the classes before any evidence.

    Returns, for the reference image and then for the neutral prompt, the two models' logits [C].
    """
    with trainer.clip.autocast():
        tuned, frozen = trainer.reference_class_features(reference), trainer.frozen_class_features()
        _, tuned_image = trainer.reference_logits(reference)
        frozen_image = trainer.similarity(trainer.clip.image_features(reference), frozen)[0]
        frozen_neutral, tuned_neutral = trainer.neutral_features()
        tuned_text = (tuned * tuned_neutral).sum(-1)
        probes = [(tuned_image, frozen_image), (tuned_text, frozen @ frozen_neutral)]
    return [(a.float().cpu(), b.float().cpu()) for a, b in probes]


def make_clues(trainer: Trainer, cfg: CfgNode, material: Material) -> Clues:
    """What the pair sources may ask about the classes that `trainer` is asked about."""
    return Clues(
        settings=cfg.NERP,
        dataset=cfg.DATASET.NAME,
        task=cfg.TASK,
        classnames=list(trainer.classes.names),
        class_features=lambda: trainer.frozen_class_features().cpu(),
        orders=lambda: class_orders(trainer, material.reference),
        training=material.training,
        test_logits=material.test_logits,
        test_labels=material.test_labels,
    )


def build_nerp(trainer: Trainer, cfg: CfgNode, material: Material) -> NeRP:
    """Priors, pairs (NERP.PAIRS) and rule (NERP.THRESHOLDS) for the classes under test.

    Raises NerpError for pairs that cannot be had.
    """
    text, image = priors(trainer, material.reference, cfg.NERP)
    pairs = find_pairs(make_clues(trainer, cfg, material))
    rule, calibration = Rule.from_config(cfg.NERP), None
    if cfg.NERP.THRESHOLDS == "calibrated":
        calibration = _calibrate(cfg, material, rule)
        rule = calibration.rule
    return NeRP(rule, text, image, pairs, calibration)


def _calibrate(cfg: CfgNode, material: Material, rule: Rule) -> Calibration:
    """The rule that suits the classes trained on, their pairs from the same source.

    A source that cannot serve them (a bundle of the classes under test, or one that looks at
    test images) gives way to text.
    """
    seen = material.seen()
    held = material.validation()
    if not len(held.labels):
        raise NerpError("NERP.THRESHOLDS calibrated: there are no validation images")
    source = cfg.NERP.PAIRS if cfg.NERP.PAIRS in ("text", "reference", "train") else "text"
    settings = cfg.NERP.clone()
    settings.defrost()
    settings.PAIRS = source
    clues = replace(make_clues(seen, cfg, material), settings=settings)
    text, image = priors(seen, material.reference, cfg.NERP)
    index = find_pairs(clues).index
    arrays = (held.logits, held.labels, text, image, index)
    return calibrate(Saved(*(tensor.numpy() for tensor in arrays)), rule)
