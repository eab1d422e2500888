"""The two priors: how much a model prefers each class before it has seen any evidence.

(NeRP, neutral-reference prompting.) Both are in logits, [C].
"""

from torch import Tensor

from nerp.clip.device import in_float32


def text_prior(
    text: Tensor, frozen_neutral: Tensor, tuned_neutral: Tensor, scale: float, residual: float = 0.0
) -> Tensor:
    """The class features' similarity to a prompt that names no class.

    Args:
        text: [C, D] the tuned model's class features, normalised.
        scale: the factor of cosines.
        tuned_neutral: [D], or [C, D] one per class, from the tuned text encoder.
        scale: what cosines are multiplied by.
        residual: c_text, how much of the tuned encoder's similarity is subtracted.
    """
    with in_float32(text.device):
        prior = scale * text @ frozen_neutral
        return prior - residual * scale * (text * tuned_neutral).sum(-1) if residual else prior


def image_prior(frozen: Tensor, tuned: Tensor, residual: float = 0.0) -> Tensor:
    """The logits of a reference image that shows no class in particular.

    Args:
        frozen, tuned: [C] the tuned model's reference feature against frozen CLIP's and against
            the tuned class features (`Trainer.reference_logits`).
        residual: c_image, how much of the tuned logits is subtracted.
    """
    return frozen - residual * tuned if residual else frozen
