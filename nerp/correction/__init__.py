"""NeRP as functions of tensors: priors, pairs, flip; and the wrapper that joins them to a trainer.

    from nerp.correction import Rule, flip, nearest_pairs, text_prior
"""

from nerp.correction.flipping import Correction, Rule, flip
from nerp.correction.priors import image_prior, text_prior

__all__ = ["Correction", "Rule", "flip", "image_prior", "text_prior"]
