"""A learned context that replaces a prompt's first words; the other words stay."""

from collections.abc import Sequence

from torch import Tensor

from nerp.clip.model import Clip
from nerp.trainers.base import Trainer
from nerp.trainers.tensors import random_tokens
from nerp.trainers.texts import context_prompts, context_start, context_words

_MOST_WORDS = 4  # in the published code a longer context never starts from CTX_INIT


class ContextOverWords(Trainer):
    """Prompts "{CTX_INIT} {name}." whose positions 1..K hold the K learned vectors ctx.

    The whole of CTX_INIT is tokenised, whatever K is: with K = 2 and "a photo of a" the text is
    ctx, ctx, "of", "a", name, ".". If ctx cannot start from CTX_INIT (it is empty or has fewer than
    K words, or K > 4), K placeholders "X" replace it.
    """

    clip: Clip

    @property
    def n_ctx(self) -> int:
        """K, the number of context vectors of the text encoder."""
        return int(self.settings.N_CTX)

    @property
    def words(self) -> str:
        """CTX_INIT as text; "" if the context does not start from it."""
        words = context_words(self.settings.CTX_INIT)
        return words if self.n_ctx <= min(_MOST_WORDS, len(words.split())) else ""

    @property
    def prefix(self) -> str:
        """The beginning of a prompt, up to the class name."""
        return self.words or " ".join(["X"] * self.n_ctx)

    @property
    def places(self) -> Sequence[int]:
        """The positions of the vectors of `context`."""
        return range(1, 1 + self.n_ctx)

    @property
    def context(self) -> Tensor:
        """The learned vectors [K, W_t] in the prompts, at `places`."""
        return self.parameter("prompt_learner.ctx")

    def first_context(self) -> Tensor:
        """An initial ctx [K, W_t]: the token embeddings of the words, or draws from N(0, 0.02^2) if
        there are no words."""
        if self.words:
            return context_start(self.clip, self.words, self.n_ctx)
        return random_tokens(self.n_ctx, self.clip.text.width)

    def prepare(self) -> None:
        places = [self.places] * len(self.classes.names)
        prompts = context_prompts(self.classes, self.prefix, slots_at=places,
                                  tokenizer=self.clip.tokenizer)
        self.prompts = prompts.to(self.clip.device)
