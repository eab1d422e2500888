"""MMRL: a representation space shared by both towers' upper layers."""

import re

import torch
import torch.nn.functional as F

from nerp.clip.model import normalise
from nerp.clip.tokenizer import build_prompts
from nerp.clip.towers import PromptTokens
from nerp.errors import NerpError
from nerp.keys import listing, number, whole
from nerp.registry import TRAINERS
from nerp.trainers.base import EMBEDDING_STD, Trainer, linear, precision

_TOKENS = "representation_learner.compound_rep_tokens"
_MAP = _TOKENS + "_r2{}proj.{}"
_PROJ = "image_encoder.proj_rep"


@TRAINERS.register("MMRL")
class MMRL(Trainer):
    """Tokens R [K, d_r] are projected into both towers at each of REP_LAYERS; a second image
    feature f_rep is read at the vision tokens.

    Learned: R, a Linear a tower and layer (r2vproj.i, r2tproj.i), proj_rep [W_v, D].
    """

    node = "MMRL"
    folder = "MultiModalRepresentationLearner"
    paper = "Guo and Gu, MMRL: Multi-Modal Representation Learning, CVPR 2025"
    defaults = {
        "ALPHA": number(0.7, least=0, most=1),
        "REG_WEIGHT": number(1.0, least=0),
        "N_REP_TOKENS": whole(5, 1, 512),
        "REP_LAYERS": listing([6, 7, 8, 9, 10, 11, 12], whole(12, 1), 1),
        "REP_DIM": whole(512, 1, 8192),
        "PREC": precision("amp"),
    }
    signature = (_TOKENS, _PROJ)
    shape_settings = ("ALPHA", "N_REP_TOKENS", "REP_LAYERS", "REP_DIM")

    @classmethod
    def infer(cls, tensors, settings, clip):
        count, dim = tensors[_TOKENS].shape
        weight = re.compile(_MAP.format("v", r"\d+") + ".weight")
        n_maps = sum(weight.fullmatch(name) is not None for name in tensors)
        layers = list(settings.REP_LAYERS)
        depth = min(clip.image.depth, clip.text.depth)
        if len(layers) != n_maps or layers[-1] > depth:
            layers = list(range(depth - n_maps + 1, depth + 1))  # the last ones, as published
        return {"N_REP_TOKENS": count, "REP_DIM": dim, "REP_LAYERS": layers}

    @property
    def scale(self):
        return 100.0  # whatever the backbone learned

    def check(self):
        layers = list(self.settings.REP_LAYERS)
        depth = min(self.clip.image.depth, self.clip.text.depth)
        if not layers or layers != sorted(set(layers)) or not 1 <= layers[0] <= layers[-1] <= depth:
            raise NerpError(f"TRAINER.MMRL.REP_LAYERS is {layers}; it takes ascending layers "
                            f"within this backbone's {depth}")

    def initial(self):
        settings = self.settings
        tensors = {
            _TOKENS: EMBEDDING_STD * torch.randn(settings.N_REP_TOKENS, settings.REP_DIM),
            _PROJ: torch.randn(self.clip.image.width, self.clip.embed_dim)
            * self.clip.image.width**-0.5,
        }
        # Every layer's map starts as a copy of one Linear a tower.
        for kind, tower in (("v", self.clip.image), ("t", self.clip.text)):
            first = linear(tower.width, settings.REP_DIM, "")
            for i in range(len(settings.REP_LAYERS)):
                for name, tensor in first.items():
                    tensors[_MAP.format(kind, i) + name] = tensor
        return tensors

    def prepare(self):
        self.text_state = self.constant_text(self.classes.prompts)

    def constant_text(self, texts):
        """The input of the first of REP_LAYERS, which no learned tensor can change."""
        return self.clip.text_state(build_prompts(texts), layer=self.settings.REP_LAYERS[0])

    def edit(self, kind):
        tokens = self.parameter(_TOKENS)
        projected = {
            layer: F.linear(
                tokens,
                self.parameter(_MAP.format(kind, i) + ".weight"),
                self.parameter(_MAP.format(kind, i) + ".bias"),
            )
            for i, layer in enumerate(self.settings.REP_LAYERS)
        }
        count = len(tokens)
        return PromptTokens(projected, keep=1 + count, shift=count)

    def class_features(self, images=None):
        return normalise(self.clip.text.features(self.text_state, self.edit("t")))[0]

    def image_state(self, images):
        return self.clip.image_state(images, self.settings.REP_LAYERS[0])

    def both_features(self, state):
        """f and f_rep, [B, D] each: the class token's, and the mean representation token's."""
        tokens = self.clip.image.tokens(state, self.edit("v"))
        image = normalise(tokens[:, 0] @ self.clip.image.visual.proj)
        return image, normalise(tokens[:, 1:].mean(1) @ self.parameter(_PROJ))

    def image_features(self, images):
        return self.both_features(self.image_state(images))[0]

    def fuse(self, logits, logits_rep, alpha):
        return alpha * logits + (1 - alpha) * logits_rep

    def classifier(self):
        text = self.class_features()

        def logits(images):
            image, rep = (
                self.similarity(f, text) for f in self.both_features(self.image_state(images))
            )
            return self.fuse(image, rep, self.settings.ALPHA) if self.classes.seen else image

        return logits

    def loss(self, images, labels):
        text, frozen_text = self.class_features(), self.frozen_class_features()
        state = self.image_state(images)
        image, rep = self.both_features(state)
        with torch.no_grad():
            frozen_image = normalise(self.clip.image.features(state))
        entropy, entropy_rep = (
            F.cross_entropy(self.similarity(f, text), labels) for f in (image, rep)
        )
        regular = 2 - (image * frozen_image).sum(1).mean() - (text * frozen_text).sum(1).mean()
        fused = self.fuse(entropy, entropy_rep, self.settings.ALPHA)
        return fused + self.settings.REG_WEIGHT * regular

    def tuned_neutral(self):
        state = self.constant_text([self.classes.neutral])
        return normalise(self.clip.text.features(state, self.edit("t")))[0, 0]

    @torch.no_grad()
    def reference_logits(self, image):
        """Where prediction is fused both terms are too, the two features weighing the same."""
        text, frozen_text = self.class_features(), self.frozen_class_features()
        features = self.both_features(self.image_state(image))
        if not self.classes.seen:
            features = features[:1]
        return tuple(
            sum(self.similarity(f, t)[0] for f in features) / len(features)
            for t in (frozen_text, text)
        )
