"""CoOp: a learned context in front of the class name."""

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip
from nerp.clip.templates import ENSEMBLE_60
from nerp.clip.tokenizer import CONTEXT_POSITIONS, Prompts, build_prompts
from nerp.settings.keys import choice
from nerp.trainers.base import Trainer, context_settings
from nerp.trainers.tensors import EMBEDDING_STD, Tensors
from nerp.trainers.texts import context_prompts, context_start, context_words, mean_templates


@TRAINERS.register("CoOp")
class CoOp(Trainer):
    """K context vectors, shared by all classes or, with CSC, one set per class.

    Loss: CE(s f tᵀ). Learned: ctx [K, W_t] or [C, K, W_t]. See docs/methods/coop.md.
    """

    node = "COOP"
    folder = "prompt_learner"
    paper = "Zhou et al., Learning to Prompt for Vision-Language Models, IJCV 2022"
    group = "context"
    defaults = {
        **context_settings(16, ""),
        "CSC": False,
        "CLASS_TOKEN_POSITION": choice(*CONTEXT_POSITIONS),
    }
    signature: tuple[str, ...] = ("ctx",)
    shape_settings: tuple[str, ...] = ("N_CTX", "CTX_INIT", "CSC", "CLASS_TOKEN_POSITION")
    one_entropy = True

    @classmethod
    def fits(cls, tensors: Tensors) -> bool:
        if any(name.startswith("ZS_image_encoder.") for name in tensors):  # BiomedCoOp's
            return False
        # With class-specific contexts there is one prompt per context; in PLOT's files each context
        # has a prompt for every class.
        first = tensors.get("token_prefix")
        return tensors["ctx"].dim() == 2 or first is None or len(first) == len(tensors["ctx"])

    @classmethod
    def infer(cls, tensors: Tensors, settings: CfgNode, clip: Clip) -> dict[str, object]:
        n_ctx = tensors["ctx"].shape[-2]
        fits = len(context_words(settings.CTX_INIT).split()) == n_ctx
        inferred = {"N_CTX": n_ctx, "CTX_INIT": settings.CTX_INIT if fits else ""}
        if "CSC" in cls.defaults:
            inferred["CSC"] = tensors["ctx"].dim() == 3
        return inferred

    @property
    def class_specific(self) -> bool:
        return bool(self.settings.CSC)

    @property
    def position(self) -> str:
        return str(self.settings.CLASS_TOKEN_POSITION)

    @property
    def words(self) -> str:
        return context_words(self.settings.CTX_INIT)

    @property
    def n_ctx(self) -> int:
        return len(self.words.split()) if self.words else int(self.settings.N_CTX)

    @property
    def prefix(self) -> str:
        """The beginning of a prompt, with as many tokens as there are slots."""
        return self.words or " ".join(["X"] * self.n_ctx)

    @property
    def slots(self) -> int:
        """The number of context vectors in a prompt."""
        return self.n_ctx

    def initial(self) -> dict[str, Tensor]:
        copies = (len(self.classes.names),) if self.class_specific else ()
        if self.words:
            ctx = context_start(self.clip, self.words, self.n_ctx)
            return {"ctx": ctx.expand(*copies, -1, -1)}
        return {"ctx": EMBEDDING_STD * torch.randn(*copies, self.n_ctx, self.clip.text.width)}

    def prepare(self) -> None:
        ctx = self.parameter("ctx")
        if ctx.dim() == 3 and len(ctx) != len(self.classes.names):
            raise NerpError(f"the contexts are class-specific (CSC) and belong to {len(ctx)} "
                            f"classes; they cannot serve {len(self.classes.names)} others")
        self.prompts = context_prompts(
            self.classes,
            self.prefix,
            n_ctx=self.slots,
            position=self.position,
            class_specific=self.class_specific,
            tokenizer=self.clip.tokenizer,
        ).to(self.clip.device)

    def text_features(self, prompts: Prompts, ctx: Tensor) -> Tensor:
        """Normalised features [G, C, D] of `prompts` with `ctx` in their slots."""
        return self.text_of(self.clip.text.features(self.clip.text_state(prompts, ctx)))

    def class_features(self, images: Tensor | None = None) -> Tensor:
        return self.text_features(self.prompts, self.parameter("ctx").flatten(0, -2))[0]

    def frozen_prompts(self) -> list[list[str]]:
        return mean_templates(self.classes, ENSEMBLE_60)

    def tuned_neutral(self) -> Tensor:
        """The context replaces the neutral prompt's first K tokens."""
        ctx = self.parameter("ctx")
        prompts = build_prompts(
            [self.classes.neutral] * (len(ctx) if self.class_specific else 1),
            n_ctx=self.slots,
            class_specific=self.class_specific,
            tokenizer=self.clip.tokenizer,
        )
        features = self.text_features(prompts, ctx.flatten(0, -2))[0]
        return features if self.class_specific else features[0]
