"""MMRL++: MMRL with maps that share a weight, and tokens blended with the previous layer's."""

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip
from nerp.settings.keys import number, whole
from nerp.trainers.inserted import last_layers
from nerp.trainers.mmrl import MMRL, SETTINGS, TOKENS
from nerp.trainers.tensors import EMBEDDING_STD, Tensors, linear

_WEIGHT = "representation_learner.srra_r2{}proj.weight"
_OWN = "representation_learner.srra_r2{}proj.srra.{}."  # A, B and bias of one layer's map
_PROJ = "image_encoder."  # A and B


@TRAINERS.register("MMRLpp")
class MMRLpp(MMRL):
    """A layer's map is weight + A_i B_i, with one weight per encoder. At later layers the tokens
    become β tokens_i + (1 - β) x. f_rep is projected by CLIP's proj + A B. (docs/methods/mmrlpp.md)

    Loss: MMRL's, α CE(100 f tᵀ) + (1 - α) CE(100 f_rep tᵀ) + λ [(1 - cos(f, f*)) +
    (1 - cos(t, t*))].

    Learned: R [K, d_r]; per encoder a weight [W, d_r], and for each layer A_i [W, r], B_i [r, d_r]
    and a bias; A [W_v, q], B [q, D].
    """

    node = "MMRLpp"
    paper = "Guo and Gu, MMRL++: Parameter-Efficient and Interaction-Aware, IJCV 2026"
    defaults = {
        **SETTINGS,
        "BETA": number(0.9, least=0, most=1),
        "RES_LORA_DIM": whole(4, 1, 8192),
        "PROJ_LORA_DIM": whole(64, 1, 8192),
    }
    signature = (TOKENS, _WEIGHT.format("v"))
    shape_settings = (*MMRL.shape_settings, "BETA", "RES_LORA_DIM", "PROJ_LORA_DIM")

    @classmethod
    def carried(cls, task: str) -> tuple[str, ...]:
        """All shape settings, except that in cross-dataset tests the test dataset decides β, as in
        the published code."""
        return tuple(key for key in cls.shape_settings if key != "BETA" or task != "CD")

    @classmethod
    def infer(cls, tensors: Tensors, settings: CfgNode, clip: Clip) -> dict[str, object]:
        count, dim = tensors[TOKENS].shape
        one_a_layer = _OWN.format("v", r"\d+") + "A"
        return {
            "N_REP_TOKENS": count,
            "REP_DIM": dim,
            "REP_LAYERS": last_layers(settings.REP_LAYERS, tensors, one_a_layer, clip),
            "RES_LORA_DIM": tensors[_OWN.format("v", 0) + "A"].shape[1],
            "PROJ_LORA_DIM": tensors[_PROJ + "A"].shape[1],
        }

    @property
    def keep_share(self) -> float:
        return 1 - float(self.settings.BETA)

    def initial(self) -> dict[str, Tensor]:
        settings = self.settings
        dim = settings.REP_DIM
        tensors = {TOKENS: EMBEDDING_STD * torch.randn(settings.N_REP_TOKENS, dim)}
        for kind, tower in (("v", self.clip.image), ("t", self.clip.text)):
            shared = linear(tower.width, dim, "")
            tensors[_WEIGHT.format(kind)] = shared[".weight"]
            for i in range(len(self.layers)):
                own = _OWN.format(kind, i)
                tensors |= low_rank(tower.width, dim, settings.RES_LORA_DIM, own)
                tensors[own + "bias"] = shared[".bias"]
        width, rank = self.clip.image.width, settings.PROJ_LORA_DIM
        return {**tensors, **low_rank(width, self.clip.embed_dim, rank, _PROJ)}

    def mapped(self, kind: str) -> list[Tensor]:
        tokens = self.parameter(TOKENS)
        shared = F.linear(tokens, self.parameter(_WEIGHT.format(kind)))
        found = []
        for i in range(len(self.layers)):
            a, b, bias = (
                self.parameter(_OWN.format(kind, i) + leaf) for leaf in ("A", "B", "bias")
            )
            found.append(shared + F.linear(F.linear(tokens, b), a, bias))
        return found

    def project_mean(self, mean: Tensor) -> Tensor:
        a, b = self.parameter(_PROJ + "A"), self.parameter(_PROJ + "B")
        return mean @ self.clip.vision.visual.proj + (mean @ a) @ b


def low_rank(out_width: int, in_width: int, rank: int, name: str) -> dict[str, Tensor]:
    """Initial A [out, rank], uniform within ± 1/√rank, and B [rank, in], zero. `name` is the prefix
    of their names."""
    bound = rank**-0.5
    return {
        f"{name}A": torch.empty(out_width, rank).uniform_(-bound, bound),
        f"{name}B": torch.zeros(rank, in_width),
    }
