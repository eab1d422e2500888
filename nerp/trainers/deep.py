"""Shared code of methods with deep prompts in both encoders: PromptSRC, MaPLe and their kin."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor

from nerp.clip.model import Clip, normalise
from nerp.clip.state import State
from nerp.clip.templates import ENSEMBLE_60
from nerp.clip.tokenizer import build_prompts
from nerp.clip.towers import PromptTokens, TokenGroup
from nerp.trainers.context import ContextOverWords
from nerp.trainers.texts import mean_templates


class DeepPrompts(ContextOverWords):
    """Text: ctx at positions 1..K; new tokens replace it at the input of deeper layers. Vision: K_v
    tokens at the end, replaced in the same way. The vision tokens of layer 1 enter before
    `ln_pre`."""

    edits = ("text", "image")

    # Defined by each method.

    @abstractmethod
    def text_tokens(self) -> Mapping[int, Tensor]:
        """Layer -> text tokens [K, W_t], for layers >= 2."""

    @abstractmethod
    def vision_tokens(self) -> Mapping[int, Tensor]:
        """Layer -> vision tokens [K_v, W_v], for layers >= 1."""

    def text_output(self, u: Tensor) -> Tensor:
        """The text feature from the text encoder's projected output u [..., D]."""
        return u

    def image_output(self, u: Tensor) -> Tensor:
        """The image feature from the image encoder's projected output."""
        return u

    def text_beside(self) -> Sequence[TokenGroup]:
        """Further text tokens, for layers >= 2."""
        return ()

    def vision_beside(self) -> Sequence[TokenGroup]:
        """Further vision tokens, in front of `vision_tokens`."""
        return ()

    # Shared by all methods.

    def text_edit(self) -> PromptTokens:
        return PromptTokens(
            self.text_tokens(), beside=self.text_beside(), insert=False, output=self.text_output
        )

    def vision_edit(self, tokens: Mapping[int, Tensor] | None = None) -> PromptTokens:
        """The image encoder's edit. tokens: the result of `vision_tokens`, if already computed."""
        return PromptTokens(
            entering(self.clip, tokens or self.vision_tokens()), at_end=True,
            beside=self.vision_beside(), output=self.image_output,
        )

    def class_features(self, images: Tensor | None = None) -> Tensor:
        state = self.clip.text_state(self.prompts, self.context)
        return self.text_of(self.clip.text.features(state, self.text_edit()))[0]

    def image_features(self, images: Tensor) -> Tensor:
        return self.tuned_image(self.clip.image_state(images))

    def tuned_image(self, state: State, tokens: Mapping[int, Tensor] | None = None) -> Tensor:
        """f [B, D] from the input of layer 1, `state`. tokens: as in `vision_edit`."""
        return self.image_of(self.clip.image.features(state, self.vision_edit(tokens)))

    @property
    def least_length(self) -> int:
        """The least length of a text, at which the deeper prompts have their positions."""
        return 1 + self.n_ctx

    def frozen_prompts(self) -> list[list[str]]:
        return mean_templates(self.classes, ENSEMBLE_60)

    def tuned_neutral(self) -> Tensor:
        """Feature [D] of the neutral prompt, whose own embeddings enter layer 1. The deeper prompts
        are used as in any text."""
        prompts = build_prompts([self.classes.neutral], min_length=self.least_length)
        state = self.clip.text_state(prompts)
        return normalise(self.clip.text.features(state, self.text_edit()))[0, 0]


def entering(clip: Clip, tokens: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Vision tokens by layer, with `ln_pre` applied to those of layer 1."""
    return {**tokens, 1: clip.vision.entering(tokens[1])}
