"""Shared code of CasPL's adapting phase: frozen boosting prompts beside a method's own prompts."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nerp.base.errors import NerpError
from nerp.clip.tokenizer import Prompts
from nerp.clip.towers import PromptTokens, TokenGroup
from nerp.trainers.caspl import (
    CTX,
    FIRST,
    PATTERNS,
    SEEN,
    CasPL,
    boosting_tokens,
    random_boosting,
)
from nerp.trainers.deep import DeepPrompts, entering
from nerp.trainers.prefixed import Prefixed

_SPLIT, _WORDS = 2, 4  # with 2 adapting tokens and 4 words, 2 words stay before the boosting tokens


if TYPE_CHECKING:

    class _Behind(Prefixed):
        """The members of the method that follows `Boosted` among a class's bases."""

        @property
        def n_ctx(self) -> int: ...

        @property
        def prefix(self) -> str: ...
else:
    _Behind = Prefixed


class Boosted(_Behind):
    """A method with n frozen boosting tokens of a `CasPL` checkpoint.

    A class must list it before the method among its bases. A text consists of the method's m
    tokens, the boosting tokens and the class name. An image's sequence ends with the boosting
    tokens and then the method's. At the input of each layer that has tokens of a kind, they replace
    what is at their positions. Other layers leave those positions unchanged.
    """

    paper = CasPL.paper
    fixed = PATTERNS
    edits = ("text", "image")
    also_seen = SEEN
    builds_on = {"BOOSTING": "CasPL"}
    counts_differ = False  # whether the encoders may have different numbers of boosting tokens

    def initial(self) -> dict[str, Tensor]:
        return super().initial() | self.first_boosting()

    def first_boosting(self) -> dict[str, Tensor]:
        """The checkpoint's boosting tensors. Without a checkpoint they are random, with shapes from
        CasPL's settings. Raises NerpError for tensors that do not fit."""
        found = {name: tensor for name, tensor in self.start.items()
                 if any(re.fullmatch(pattern, name) for pattern in PATTERNS)}
        if not found:
            caspl = self.cfg.TRAINER.CASPL
            counts = caspl.N_CTX_VISION, caspl.N_CTX_TEXT
            return random_boosting(self.clip, caspl, *counts)
        for name in (CTX, FIRST):
            if name not in found:
                raise NerpError(f"{self.node}: the checkpoint lacks {name}")
        for name, tensor in found.items():
            width = (self.clip.image if name.startswith("image") else self.clip.text).width
            count = found[FIRST if name.startswith("image") else CTX].shape[:1].numel()
            if tensor.shape != (count, width):
                raise NerpError(f"{self.node}: the boosting tokens {name} are "
                                f"{tuple(tensor.shape)}, this run needs {(count, width)}: another "
                                "backbone")
        if not self.counts_differ and len(found[FIRST]) != len(found[CTX]):
            raise NerpError(f"{self.node}: this method takes equally many boosting tokens in both "
                            f"encoders; the checkpoint has {len(found[FIRST])} in the image's and "
                            f"{len(found[CTX])} in the text's")
        return found

    def prepare_training(self) -> None:
        super().prepare_training()
        if not self.settings.BOOSTING:
            raise NerpError(f"TRAINER.{self.node}.BOOSTING is empty: this phase builds on a CasPL "
                            "checkpoint (nerp train --trainer CasPL); give its file, or the "
                            "--output-dir of its training")

    def boosting(self, encoder: str) -> dict[int, Tensor]:
        """Layer -> boosting tokens [n, W] of this model's encoder (`boosting_tokens`)."""
        return boosting_tokens(dict(self.learned.named_buffers()), encoder)

    @property
    def boosting_context(self) -> Tensor:
        """The boosting tokens [n, W_t] of the prompt."""
        return self.learned.get_buffer(CTX)

    @property
    def prefix(self) -> str:
        return " ".join([super().prefix, *["X"] * len(self.boosting_context)])

    def text_beside(self) -> Sequence[TokenGroup]:
        return [TokenGroup(self.boosting("text"), self.least_length - len(self.boosting_context))]

    def vision_beside(self) -> Sequence[TokenGroup]:
        tokens = entering(self.clip, self.boosting("image"))
        return [TokenGroup(tokens, -len(tokens[1]) - self.n_image)]

    @property
    def n_image(self) -> int:
        """The number of the method's own tokens in the image encoder."""
        return 0

    @property
    def least_length(self) -> int:
        """1 + the last position of a text token; the boosting tokens are the last ones."""
        return 1 + self.n_ctx + len(self.boosting_context)


class BoostedContext(Boosted):
    """A method that learns only a context. The layers have boosting tokens and no others."""

    own_prefix = "prompt_learner."

    def check(self) -> None:
        super().check()
        if getattr(self, "class_specific", False):
            raise NerpError(f"TRAINER.{self.node}.CSC: the context stands beside the boosting "
                            "tokens, which all classes share; leave it False")

    @property
    def slots(self) -> int:
        return self.n_ctx + len(self.boosting_context)

    def text_features(self, prompts: Prompts, ctx: Tensor) -> Tensor:
        boosting = self.boosting_context.expand(*ctx.shape[:-2], -1, -1)
        state = self.clip.text_state(prompts, torch.cat([ctx, boosting], -2))
        edit = PromptTokens({}, beside=self.text_beside(), insert=False)
        return self.text_of(self.clip.text.features(state, edit))

    def image_features(self, images: Tensor) -> Tensor:
        edit = PromptTokens({}, beside=self.vision_beside())
        return self.image_of(self.clip.image.features(self.clip.image_state(images), edit))


class BoostedDeep(Boosted, DeepPrompts):
    """A method with tokens of its own in the layers of both encoders."""

    @property
    def gap(self) -> int:
        """The number of words between the method's text tokens and the boosting tokens. It is 2
        ("of a") if two of the four words are replaced by tokens, else 0."""
        split = self.n_ctx == _SPLIT and len(self.words.split()) >= _WORDS
        return _WORDS - _SPLIT if split else 0

    @property
    def first_gap(self) -> int:
        """The `gap` in layer 1."""
        return self.gap

    @property
    def least_length(self) -> int:
        return super().least_length + self.gap

    @property
    def places(self) -> Sequence[int]:
        begin = 1 + self.n_ctx + self.first_gap
        return [*super().places, *range(begin, begin + len(self.boosting_context))]

    @property
    def context(self) -> Tensor:
        return torch.cat([super().context, self.boosting_context])
