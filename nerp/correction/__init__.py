"""NeRP as functions of tensors: priors, pairs, rules; and the wrapper that joins them to a trainer.

With any model's logits [images, classes] and priors [classes]:

    from nerp.correction import Rule, flip, shift, uniform_bias
    flip(logits, text_prior, image_prior, pairs, Rule(tau=0.0, thres=2.0)).predictions
    shift(logits, 0.1 * (prior - prior.mean())).predictions
    shift(logits, uniform_bias(logits)).apply(logits)           # transductive
"""

from nerp.correction.correction import Correction
from nerp.correction.flipping import Rule, flip
from nerp.correction.pairs import strongest_pairs
from nerp.correction.priors import image_prior, text_prior
from nerp.correction.shifting import class_bias, shift, uniform_bias

__all__ = [
    "Correction",
    "Rule",
    "class_bias",
    "flip",
    "image_prior",
    "shift",
    "strongest_pairs",
    "text_prior",
    "uniform_bias",
]
