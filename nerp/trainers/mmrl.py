"""MMRL: tokens of a representation space that the upper layers of both encoders share."""

from collections.abc import Callable
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip
from nerp.settings.keys import listing, number, whole
from nerp.trainers.base import precision
from nerp.trainers.inserted import InsertedTokens, equal_maps, last_layers
from nerp.trainers.tensors import EMBEDDING_STD, Tensors

TOKENS = "representation_learner.compound_rep_tokens"
_MAP = TOKENS + "_r2{}proj.{}"
_PROJ = "image_encoder.proj_rep"
# The settings that MMRL++ has too.
SETTINGS = {
    "ALPHA": number(0.7, least=0, most=1),
    "REG_WEIGHT": number(1.0, least=0),
    "N_REP_TOKENS": whole(5, 1, 512),
    "REP_LAYERS": listing([6, 7, 8, 9, 10, 11, 12], whole(12, 1), 1),
    "REP_DIM": whole(512, 1, 8192),
    "PREC": precision("amp"),
}


@TRAINERS.register("MMRL")
class MMRL(InsertedTokens):
    """Tokens R [K, d_r] are projected into both encoders at each layer of REP_LAYERS. A second
    image feature f_rep is computed from the vision tokens. (docs/methods/mmrl.md)

    Loss: α CE(100 f tᵀ) + (1 - α) CE(100 f_rep tᵀ) + λ [(1 - cos(f, f*)) + (1 - cos(t, t*))].

    Learned: R, a Linear per encoder and layer (r2vproj.i, r2tproj.i), proj_rep [W_v, D].
    """

    node = "MMRL"
    published = ("CRL",)  # in the NeRP release's script for cross-dataset runs
    folder = "MultiModalRepresentationLearner"
    paper = "Guo and Gu, MMRL: Multi-Modal Representation Learning, CVPR 2025"
    group = "deep"
    defaults = SETTINGS
    signature = (TOKENS, _PROJ)
    shape_settings: tuple[str, ...] = ("ALPHA", "N_REP_TOKENS", "REP_LAYERS", "REP_DIM")
    layers_key = "REP_LAYERS"
    two_heads = True

    @classmethod
    def infer(cls, tensors: Tensors, settings: CfgNode, clip: Clip) -> dict[str, object]:
        count, dim = tensors[TOKENS].shape
        one_a_layer = _MAP.format("v", r"\d+") + ".weight"
        layers = last_layers(settings.REP_LAYERS, tensors, one_a_layer, clip)
        return {"N_REP_TOKENS": count, "REP_DIM": dim, "REP_LAYERS": layers}

    def initial(self) -> dict[str, Tensor]:
        dim = self.settings.REP_DIM
        return {
            TOKENS: EMBEDDING_STD * torch.randn(self.settings.N_REP_TOKENS, dim),
            _PROJ: torch.randn(self.clip.image.width, self.clip.embed_dim)
            * self.clip.image.width**-0.5,
            **equal_maps(self.clip, dim, len(self.layers), _MAP.format),
        }

    def mapped(self, kind: str) -> list[Tensor]:
        tokens = self.parameter(TOKENS)
        return [self.apply_linear(_MAP.format(kind, i), tokens) for i in range(len(self.layers))]

    def project_mean(self, mean: Tensor) -> Tensor:
        return mean @ self.parameter(_PROJ)

    def fuse(self, image: Tensor, rep: Tensor) -> Tensor:
        """α x + (1 - α) y, with x from the image feature and y from the representation feature:
        either logits [B, C] or scalar losses."""
        alpha: float = self.settings.ALPHA
        return alpha * image + (1 - alpha) * rep

    def classifier(self) -> Callable[[Tensor], Tensor]:
        text = self.class_features()

        def logits(images: Tensor) -> Tensor:
            image, rep = (
                self.similarity(f, text) for f in self.both_features(self.image_state(images))
            )
            return self.fuse(image, rep) if self.classes.seen else image

        return logits

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        text = self.class_features()
        state = self.image_state(images)
        image, rep = self.both_features(state)
        first, second = self.similarity(image, text), self.similarity(rep, text)
        self.count_right(self.fuse(first, second), labels)
        fused = self.fuse(F.cross_entropy(first, labels), F.cross_entropy(second, labels))
        return fused + float(self.settings.REG_WEIGHT) * self.drift(state, image, text)

    @torch.no_grad()
    def reference_logits(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [C] of the frozen and of the tuned class features. If the prediction is fused,
        both use the two image features with equal weights."""
        text, frozen_text = self.class_features(), self.frozen_class_features()
        features: tuple[Tensor, ...] = self.both_features(self.image_state(image))
        if not self.classes.seen:
            features = features[:1]
        frozen, tuned = (
            reduce(torch.add, (self.similarity(f, t)[0] for f in features)) / len(features)
            for t in (frozen_text, text)
        )
        return frozen, tuned
