"""KgCoOp: CoOp with every class feature pulled towards frozen CLIP's."""

from collections.abc import Mapping

from torch import Tensor
from yacs.config import CfgNode

from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip
from nerp.settings.keys import number
from nerp.trainers.base import context_settings
from nerp.trainers.coop import CoOp
from nerp.trainers.method import SWITCHED_ON
from nerp.trainers.tensors import cosine_distance


class NearTemplate(CoOp):
    """CoOp with a reference t*: frozen CLIP's features of one template per dataset. The class name
    is always at the end of the prompt.

    Attributes: templates: dataset -> the template of t*, if it differs from the dataset card's.
    """

    published: tuple[str, ...] = ("COOP",)
    shape_settings: tuple[str, ...] = ("N_CTX", "CTX_INIT", "CSC")
    position = "end"
    templates: Mapping[str, str] = {}

    @classmethod
    def published_values(cls, key: str, value: object) -> dict[str, object]:
        """In the published code the class name is always at the end, and ALPHA is never read."""
        if key == "ALPHA" or key == "CLASS_TOKEN_POSITION" and value == cls.position:
            return {"": None}
        return super().published_values(key, value)

    @classmethod
    def infer(
        cls, tensors: Mapping[str, Tensor], settings: CfgNode, clip: Clip
    ) -> dict[str, object]:
        inferred = super().infer(tensors, settings, clip)
        return {**inferred, "CTX_INIT": ""} if inferred.get("CSC") else inferred

    @property
    def class_specific(self) -> bool:
        return bool(self.settings.CSC) and not self.words

    @property
    def template(self) -> str:
        """The template of t*."""
        return self.templates.get(self.classes.dataset, self.classes.template)

    def frozen_prompts(self) -> list[list[str]]:
        return [[self.template.format(name)] for name in self.classes.names]


@TRAINERS.register("KgCoOp")
class KgCoOp(NearTemplate):
    """Loss: CE(s f t^T, y) + W (1 - mean_c cos(t_c, t*_c)). t* are frozen CLIP's features of one
    template.

    Learned: ctx [K, W_t]; with CSC and a random start [C, K, W_t]. See docs/methods/kgcoop.md.
    """

    node = "KGCOOP"
    paper = "Yao et al., Knowledge-guided Context Optimization, CVPR 2023"
    defaults = {
        **context_settings(4, SWITCHED_ON),
        "CSC": False,
        "W": number(8.0, least=0),
    }
    marks: tuple[str, ...] = ("bias_vectors",)
    loss_by_features = True
    one_entropy = True
    templates = {"DescribableTextures": "a photo of a {}, a type of texture."}

    @property
    def pull_weight(self) -> float:
        return float(self.settings.W)

    def pull(self, text: Tensor) -> Tensor:
        """1 minus the mean cosine of class features t [C, D] and t*, a scalar."""
        return cosine_distance(text, self.frozen_class_features())

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        text = self.class_features()
        logits = self.similarity(self.image_features(images), text)
        return self.cross_entropy(logits, labels) + self.pull_weight * self.pull(text)
