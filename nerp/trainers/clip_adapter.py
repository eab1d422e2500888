"""CLIP-Adapter: two small linear layers on frozen image features, mixed with those features."""

from collections.abc import Mapping

from torch import Tensor, nn
from yacs.config import CfgNode

from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip, normalise
from nerp.settings.keys import number, whole
from nerp.trainers.base import precision
from nerp.trainers.frozen_text import PlainText

_DOWN, _UP = "fc.0.weight", "fc.2.weight"


def adapted_image(features: Tensor, down: Tensor, up: Tensor, ratio: float) -> Tensor:
    """g [B, D]: (1 - ratio) f° + ratio relu(up relu(down f°)), normalised.

    Args: features: f° [B, D]. down: [D/4, D]. up: [D, D/4]. (Gao et al. 2021, section 3.2.)
    """
    adapter = (features @ down.t()).relu() @ up.t()
    return normalise((1 - ratio) * features + ratio * adapter.relu())


@TRAINERS.register("CLIPAdapter", "CLIP_Adapter")
class CLIPAdapter(PlainText):
    """Image features are (1 - ρ) u + ρ relu(W₂ relu(W₀ u)), normalised; u is frozen CLIP's.

    Loss: CE(s f tᵀ). Learned: fc.0.weight [D/4, D], fc.2.weight [D, D/4]. See
    docs/methods/clip_adapter.md.
    """

    node = "CLIPADAPTER"
    folder = "clip_adapter"
    paper = "Gao et al., CLIP-Adapter: Better Vision-Language Models with Feature Adapters, 2021"
    group = "adapters"
    defaults = {
        "RATIO": number(0.2, least=0, most=1),
        "REDUCTION": whole(4, 1, 8192),
        "PREC": precision("fp32"),
    }
    signature = (r"fc\.0\.weight", r"fc\.2\.weight")
    shape_settings = ("RATIO", "REDUCTION")

    @classmethod
    def infer(
        cls, tensors: Mapping[str, Tensor], settings: CfgNode, clip: Clip
    ) -> dict[str, object]:
        return {"REDUCTION": max(1, clip.embed_dim // len(tensors[_DOWN]))}

    def initial(self) -> dict[str, Tensor]:
        width = self.clip.embed_dim
        bottleneck = max(1, width // self.settings.REDUCTION)
        return {
            _DOWN: nn.Linear(width, bottleneck, bias=False).weight,
            _UP: nn.Linear(bottleneck, width, bias=False).weight,
        }

    def from_frozen(self, output: Tensor) -> Tensor:
        return adapted_image(output, self.parameter(_DOWN), self.parameter(_UP),
                             self.settings.RATIO)
