"""NeRP as functions of tensors: priors, pairs, rules; and the wrapper that joins them to a trainer.

With any model's logits [images, classes] and priors [classes]:

    from nerp.correction import Rule, flip, shift, uniform_bias
    flip(logits, text_prior, image_prior, pairs, Rule(tau=0.0, thres=2.0)).predictions
    shift(logits, 0.1 * (prior - prior.mean())).predictions
    shift(logits, uniform_bias(logits)).apply(logits)           # transductive
    shift(logits, guarded_bias(logits, bias)).apply(logits)     # the same, where it can be trusted
"""

from nerp.correction import matched, published
from nerp.correction.correction import Correction
from nerp.correction.flipping import Rule, flip
from nerp.correction.matching import anchored_bias, guarded_bias, stray, uniform_bias
from nerp.correction.pairs import strongest_pairs
from nerp.correction.peers import (
    adjusted,
    batch_bias,
    contextual_bias,
    contextual_scores,
    labelled_bias,
    normalise_distribution,
    sinkhorn,
    stationary_bias,
)
from nerp.correction.priors import image_prior, text_prior
from nerp.correction.running import Running
from nerp.correction.shifting import class_bias, shift
from nerp.correction.stacking import affordable_number, best_number
from nerp.correction.transport import transport

__all__ = [
    "Correction",
    "Rule",
    "Running",
    "adjusted",
    "affordable_number",
    "anchored_bias",
    "batch_bias",
    "best_number",
    "class_bias",
    "contextual_bias",
    "contextual_scores",
    "flip",
    "guarded_bias",
    "image_prior",
    "labelled_bias",
    "matched",
    "normalise_distribution",
    "published",
    "shift",
    "sinkhorn",
    "stationary_bias",
    "stray",
    "strongest_pairs",
    "text_prior",
    "transport",
    "uniform_bias",
]
