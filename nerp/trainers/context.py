"""A learned context over the first words of a prompt, whose other words stay."""

from torch import Tensor

from nerp.clip.model import Clip
from nerp.trainers.base import Trainer
from nerp.trainers.tensors import random_tokens
from nerp.trainers.texts import context_prompts, context_start, context_words

_MOST_WORDS = 4  # a longer context never starts from CTX_INIT, in the published code


class ContextOverWords(Trainer):
    """Prompts "{CTX_INIT} {name}." whose positions 1..K hold the K learned vectors ctx.

    The whole of CTX_INIT is tokenised whatever K is: with K = 2 and "a photo of a" the text is
    ctx, ctx, "of", "a", name, ".". Where CTX_INIT is no start for ctx (it is empty or has fewer
    than K words, or K > 4) K placeholders "X" stand in its place.
    """

    clip: Clip

    @property
    def n_ctx(self) -> int:
        """K of the text encoder."""
        return int(self.settings.N_CTX)

    @property
    def words(self) -> str:
        """CTX_INIT as text; "" where the context does not start from it."""
        words = context_words(self.settings.CTX_INIT)
        return words if self.n_ctx <= min(_MOST_WORDS, len(words.split())) else ""

    def first_context(self) -> Tensor:
        """A fresh ctx [K, W_t]: the token embeddings of the words, or N(0, 0.02^2)."""
        if self.words:
            return context_start(self.clip, self.words, self.n_ctx)
        return random_tokens(self.n_ctx, self.clip.text.width)

    def prepare(self) -> None:
        prefix = self.words or " ".join(["X"] * self.n_ctx)
        prompts = context_prompts(self.classes, prefix, n_ctx=self.n_ctx,
                                  tokenizer=self.clip.tokenizer)
        self.prompts = prompts.to(self.clip.device)
