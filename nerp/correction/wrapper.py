"""NeRP around any trainer: fetch the priors and the pairs, then flip."""

from dataclasses import dataclass

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.correction.flipping import Correction, Rule, flip
from nerp.correction.pairs import Clues, Pairs, find_pairs
from nerp.correction.priors import image_prior, text_prior
from nerp.trainers.base import Trainer


@dataclass(frozen=True)
class NeRP:
    """A trained model's priors and pairs, ready to correct logits.

    Attributes: text_prior, image_prior [C], in logits.
    """

    rule: Rule
    text_prior: Tensor
    image_prior: Tensor
    pairs: Pairs

    def correct(self, logits: Tensor) -> Correction:
        """Correct the logits [B, C] of the model that the priors are from."""
        return flip(logits, self.text_prior, self.image_prior, self.pairs.index, self.rule)


@torch.no_grad()
def priors(trainer: Trainer, reference: Tensor, settings: CfgNode) -> tuple[Tensor, Tensor]:
    """The text and the image prior [C] of a trained model, on the CPU.

    Args:
        reference: [1, 3, H, W], the reference image after the test transform.
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


def build_nerp(trainer: Trainer, reference: Tensor, cfg: CfgNode) -> NeRP:
    """Priors from `reference` and pairs from NERP.PAIRS, for the classes `trainer` is asked about.

    Raises NerpError for pairs that cannot be had.
    """
    clues = Clues(
        settings=cfg.NERP,
        dataset=cfg.DATASET.NAME,
        task=cfg.TASK,
        classnames=list(trainer.classes.names),
        class_features=lambda: trainer.frozen_class_features().cpu(),
    )
    text, image = priors(trainer, reference, cfg.NERP)
    return NeRP(Rule.from_config(cfg.NERP), text, image, find_pairs(clues))
