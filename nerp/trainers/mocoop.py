"""MoCoOp: prompts that start from groups of templates; each image's gate mixes two of them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.device import in_float32
from nerp.clip.model import Clip, normalise
from nerp.clip.tokenizer import Prompts, build_prompts
from nerp.settings.keys import flag, listing, number, template, whole
from nerp.trainers import gated
from nerp.trainers.base import Trainer, precision
from nerp.trainers.mocoop_words import SIDES, Words, first_of_groups, group_means, settled
from nerp.trainers.norms import OwnNorms, frozen_norms
from nerp.trainers.tensors import Tensors, linear

_SOURCE = "ImageNet"  # a cross-dataset test uses its templates
_SMALL = 4  # in batches below this size only the experts that an image picks are computed
_CTX = "prompt_learner.ctx_{}_{}"
_W = "prompt_learner.w"


@TRAINERS.register("MoCoOp")
class MoCoOp(Trainer):
    """G prompts are the experts. A gate picks two of them for each image and mixes their class
    features. The norms in the image encoder's blocks are learned too.

    Loss: CE(s f_b · t_bc) + TEXT_LOSS_WEIGHT L_text + GATE_LOSS_WEIGHT L_gate. See
    docs/methods/mocoop.md.
    """

    node = "MoCoOp"
    folder = "prompt_learner"
    paper = "Du, Niu and Zhao, Mixture of Prompt Learning for Vision-Language Models, 2025"
    group = "context"
    defaults = {
        "PROMPTS": listing([], template("a photo of a {}.")),
        "GROUPS": listing([], whole(1, 1)),
        "TEXT_LOSS_WEIGHT": number(5.0, least=0),
        "GATE_LOSS_WEIGHT": number(1.0, least=0),
        "ENABLE_CORRECTION": flag(True),
        "TRAIN_W": flag(True),
        "FINETUNE_VIT_LN": flag(True),
        "PREC": precision("amp"),
        "ENABLE": flag(True),
    }
    signature = (r"prompt_learner\.gate\.weight", r"prompt_learner\.ctx_before_\d+")
    shape_settings = ("PROMPTS", "GROUPS", "ENABLE_CORRECTION")
    text_by_image = True
    also_seen = "names of novel classes"  # in base-to-novel
    learns_names = True

    @classmethod
    def seen_besides(cls, cfg: CfgNode) -> str:
        return "" if cfg.DATASET.SUBSAMPLE_CLASSES == "all" else cls.also_seen

    @classmethod
    def published_values(cls, key: str, value: object) -> dict[str, object]:
        """Four keys of published files have no effect in the published code."""
        ignored = ("N_CTX", "CTX_INIT", "ENABLE_IMPLICIT_OP", "PRETRAINED_PROMPTS_DIR")
        return {"": None} if key in ignored else {}

    @classmethod
    def infer(cls, tensors: Tensors, settings: CfgNode, clip: Clip) -> dict[str, object]:
        return {"ENABLE_CORRECTION": _W in tensors}

    def misfit(self, tensors: Tensors) -> str:
        theirs = [
            tuple(len(tensors[_CTX.format(side, g)]) for side in SIDES)
            for g in range(sum("ctx_before_" in name for name in tensors))
        ]
        ours = [words.pieces for words in self.experts]
        return "" if theirs == ours else (
            f"it has {theirs} vectors before and after the name, TRAINER.{self.node}.PROMPTS and "
            f"GROUPS {ours}: give the templates that it was trained with")

    def check(self) -> None:
        """Also sets the templates, which a checkpoint stores, and the tensors that stay frozen."""
        if not self.clip.image.depth:
            raise NerpError("MoCoOp learns norms of a vision transformer; the backbone is a ResNet")
        if not self.settings.ENABLE:
            raise NerpError(f"TRAINER.{self.node}.ENABLE is False; there is no method without it")
        crossing = self.cfg.TASK == "CD" and not self.classes.seen
        dataset = _SOURCE if crossing else self.classes.dataset
        self.settings = settings = settled(self.settings, self.node, dataset)
        self.words = [Words(prompt) for prompt in settings.PROMPTS]
        self.experts = first_of_groups(self.words, settings.GROUPS)
        norms = () if settings.FINETUNE_VIT_LN else tuple(frozen_norms(self.clip.vision))
        self.fixed = norms if settings.TRAIN_W else (*norms, _W)

    def initial(self) -> dict[str, Tensor]:
        tensors = {}
        for g, words in enumerate(self.experts):
            for side, ids in words.first_ids(self.clip.device).items():
                tensors[_CTX.format(side, g)] = self.clip.text.token_embedding(ids)
        if self.settings.ENABLE_CORRECTION:
            tensors[_W] = torch.zeros(1, self.clip.embed_dim)
        tensors |= linear(len(self.experts), self.clip.embed_dim, "prompt_learner.gate")
        return tensors | frozen_norms(self.clip.vision)

    def rate_factor(self, name: str) -> float:
        return 0.1 if name.startswith("image_encoder.") else 1.0

    @property
    def clip_norm(self) -> float:
        return 1.0 if self.settings.PREC == "amp" else 0.0

    def prepare(self) -> None:
        self.tensors = dict(self.learned.named_parameters()) | dict(self.learned.named_buffers())
        device, everyone = self.clip.device, self.classes.everyone
        self.prompts = [words.prompts(self.classes.names).to(device) for words in self.experts]
        # In training with further names, the text loss uses prompts that end in a full stop.
        self.text_prompts = [words.prompts(everyone, ".").to(device)
                             for words in self.experts if everyone]
        self._prototypes: Tensor | None = None

    def expert_features(
        self, prompts: Sequence[Prompts], which: Sequence[int] | None = None
    ) -> Tensor:
        """Features t [G, C, D] of each expert's prompts; zeros for experts not in `which`."""
        features = []
        for g, own in enumerate(prompts):
            if which is not None and g not in which:
                shape = len(own.ids), self.clip.embed_dim
                features.append(torch.zeros(shape, device=self.clip.device))
                continue
            ctx = torch.cat([self.tensors[_CTX.format(side, g)] for side in SIDES])
            features.append(self._encode(own, ctx))
        return torch.stack(features)

    def _encode(self, prompts: Prompts, ctx: Tensor) -> Tensor:
        """normalise(u + w) [C, D], with u the features of prompts with `ctx` in their slots."""
        state = self.clip.text_state(prompts, ctx if len(ctx) else None)
        u = self.clip.text.features(state)[0].float()
        return normalise(u + self.tensors[_W] if _W in self.tensors else u)

    @torch.no_grad()
    def prototypes(self) -> Tensor:
        """Prototypes P [G, A, D] of the names in `Classes.everyone`, or else of the tested classes;
        computed once."""
        if self._prototypes is None:
            names = self.classes.everyone or self.classes.names
            self._prototypes = group_means(self.clip, self.words, self.settings.GROUPS, names)
        return self._prototypes

    def image_features(self, images: Tensor) -> Tensor:
        state = self.clip.image_state(images)
        return normalise(self.clip.image.features(state, OwnNorms(self.tensors)))

    def gate(self, features: Tensor) -> Tensor:
        """The gate's outputs q [B, G] for image features f [B, D]."""
        with in_float32(self.clip.device):
            return self.apply_linear("prompt_learner.gate", features)

    def feature_classifier(self) -> Callable[[Tensor], Tensor]:
        experts = self.expert_features(self.prompts)
        return lambda f: self.scale * gated.mixed_cosines(f, gated.shares(self.gate(f)), experts)

    def _mixed(self, images: Tensor | None, experts: Tensor) -> Tensor:
        """Values [B, ...] of the experts [G, ...], mixed by the images' gates."""
        assert images is not None  # `text_by_image`
        return gated.mixed(gated.shares(self.gate(self.image_features(images))), experts)

    def class_features(self, images: Tensor | None = None) -> Tensor:
        return self._mixed(images, self.expert_features(self.prompts))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        image = self.image_features(images)
        gate = self.gate(image)
        few = self.cfg.DATALOADER.TRAIN_X.BATCH_SIZE < _SMALL
        which = gated.picked(gate) if few else None
        experts = self.expert_features(self.prompts, which)
        everyone = self.expert_features(self.text_prompts, which) if self.text_prompts else experts
        logits = self.scale * gated.mixed_cosines(image, gated.shares(gate), experts)
        prototypes = self.prototypes()
        target = gated.gate_target(image, prototypes[:, labels])
        return (self.cross_entropy(logits, labels)
                + float(self.settings.TEXT_LOSS_WEIGHT) * gated.text_loss(everyone, prototypes)
                + float(self.settings.GATE_LOSS_WEIGHT) * gated.gate_loss(gate, target))

    @torch.no_grad()
    def frozen_class_features(self, images: Tensor | None = None) -> Tensor:
        with self.clip.autocast():
            return self._mixed(images, self.prototypes())[0]

    @torch.no_grad()
    def neutral_features(self, image: Tensor | None) -> tuple[Tensor, Tensor]:
        frozen = normalise(self.clip.text_features([self.classes.neutral]))[0]
        return frozen, self._mixed(image, self.tuned_neutral())[0]

    def tuned_neutral(self) -> Tensor:
        """[G, D]: an expert's vectors before the name replace the prompt's first tokens."""
        contexts = [self.tensors[_CTX.format("before", g)] for g in range(len(self.experts))]
        prompts = [build_prompts([self.classes.neutral], n_ctx=len(ctx)) for ctx in contexts]
        return torch.cat([self._encode(*pair) for pair in zip(prompts, contexts, strict=True)])
