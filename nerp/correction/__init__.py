"""NeRP as functions of tensors: priors, pairs, flip; and the wrapper that joins them to a trainer.

With any model's logits, two priors and a pair list:

    from nerp.correction import Rule, flip
    result = flip(logits, text_prior, image_prior, pairs, Rule(tau=0.0, thres=2.0))
    result.predictions
"""

from nerp.correction.flipping import Correction, Rule, flip
from nerp.correction.pairs import strongest_pairs
from nerp.correction.priors import image_prior, text_prior

__all__ = ["Correction", "Rule", "flip", "image_prior", "strongest_pairs", "text_prior"]
