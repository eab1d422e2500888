"""CasPL's boosting phase: prompts in both encoders learn a larger CLIP's class probabilities from
images without labels. The adapting phase (`nerp.trainers.caspl_adapting`) starts from them."""

from collections.abc import Mapping

from torch import Tensor
from yacs.config import CfgNode

from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip
from nerp.clip.tokenizer import CONTEXT_LENGTH
from nerp.settings.keys import file, number, text, whole
from nerp.trainers.base import precision
from nerp.trainers.deep import DeepPrompts
from nerp.trainers.teacher import Teacher, divergence, open_teacher
from nerp.trainers.tensors import random_tokens

CTX = "prompt_learner_teacher.ctx"
FIRST = "image_encoder.VPT_FIRST"
_DEEP = "{}_encoder.transformer.resblocks.{}.VPT_shallow_FIRST"
# The names of boosting tensors.
PATTERNS = (
    r"prompt_learner_teacher\.ctx", r"image_encoder\.VPT_FIRST",
    r"(image|text)_encoder\.transformer\.resblocks\.\d+\.VPT_shallow_FIRST",
)
SEEN = ("the training images of all classes, without their labels, and the names of all classes, "
        "the novel ones among them")


def boosting_tokens(tensors: Mapping[str, Tensor], encoder: str) -> dict[int, Tensor]:
    """Layer -> boosting tokens [n, W] of the "image" or the "text" encoder, from `tensors`. For
    the text encoder it starts at layer 2, because layer 1 has ctx."""
    start, end = _DEEP.format(encoder, "*").split("*")
    found = {1: tensors[FIRST]} if encoder == "image" else {}
    return found | {
        int(name.removeprefix(start).removesuffix(end)) + 1: tensor
        for name, tensor in tensors.items() if name.startswith(start) and name.endswith(end)
    }


def boosting_depth(tensors: Mapping[str, Tensor], encoder: str) -> int:
    """The number of layers with boosting tokens, layer 1 included."""
    return max(boosting_tokens(tensors, encoder), default=1)


def random_boosting(clip: Clip, settings: CfgNode, image: int, text: int) -> dict[str, Tensor]:
    """Boosting tensors from N(0, 0.02^2), with `image` and `text` tokens per layer. Their depth is
    PROMPT_DEPTH_VISION and PROMPT_DEPTH_TEXT, or the backbone's if that is smaller."""
    tensors = {
        CTX: random_tokens(text, clip.text.width), FIRST: random_tokens(image, clip.image.width)
    }
    for layer in range(2, min(settings.PROMPT_DEPTH_TEXT, clip.text.depth) + 1):
        tensors[_DEEP.format("text", layer - 1)] = random_tokens(text, clip.text.width)
    for layer in range(2, min(settings.PROMPT_DEPTH_VISION, clip.image.depth) + 1):
        tensors[_DEEP.format("image", layer - 1)] = random_tokens(image, clip.image.width)
    return tensors


@TRAINERS.register("CasPL")
class CasPL(DeepPrompts):
    """Text: ctx at positions 1..n; new tokens replace it at the input of layers 2..J. Vision: n_v
    tokens at the end, replaced in the same way.

    Loss: tau^2 KL(p* || p) per image. p* are the probabilities of a larger frozen CLIP; both
    softmaxes have the temperature tau. No label is read. Learned: prompt_learner_teacher.ctx
    [n, W_t], image_encoder.VPT_FIRST [n_v, W_v], and for layer l >= 2
    {text,image}_encoder.transformer.resblocks.{l - 1}.VPT_shallow_FIRST. (Section 3.2; see
    docs/methods/caspl.md.)
    """

    node = "CASPL"
    published = ("IVLP",)
    folder = "CasPL"
    paper = "Wu et al., Cascade Prompt Learning for Vision-Language Model Adaptation, ECCV 2024"
    group = "deep"
    defaults = {
        "N_CTX_VISION": whole(8, 1, 512),
        "N_CTX_TEXT": whole(8, 1, CONTEXT_LENGTH),
        "CTX_INIT": "a photo of a",
        "PROMPT_DEPTH_VISION": whole(12, 1, 512),
        "PROMPT_DEPTH_TEXT": whole(12, 1, 512),
        "TEMPERATURE": number(1.0, above=0),
        "TEACHER": text("ViT-L/14"),
        "TEACHER_PATH": file(""),  # a file of weights to use instead of the published ones
        "PREC": precision("fp16"),
    }
    signature = PATTERNS[:2]
    shape_settings = (
        "N_CTX_VISION", "N_CTX_TEXT", "CTX_INIT", "PROMPT_DEPTH_VISION", "PROMPT_DEPTH_TEXT"
    )
    also_seen = SEEN
    reads_labels = False

    teacher: Teacher | None = None

    @classmethod
    def fits(cls, tensors: Mapping[str, Tensor]) -> bool:
        return "prompt_learner.ctx" not in tensors  # only the adapting phase has it

    @classmethod
    def infer(
        cls, tensors: Mapping[str, Tensor], settings: CfgNode, clip: Clip
    ) -> dict[str, object]:
        return {
            "N_CTX_VISION": len(tensors[FIRST]),
            "N_CTX_TEXT": len(tensors[CTX]),
            "PROMPT_DEPTH_VISION": boosting_depth(tensors, "image"),
            "PROMPT_DEPTH_TEXT": boosting_depth(tensors, "text"),
        }

    def initial(self) -> dict[str, Tensor]:
        counts = self.settings.N_CTX_VISION, self.settings.N_CTX_TEXT
        return {**random_boosting(self.clip, self.settings, *counts), CTX: self.first_context()}

    @property
    def n_ctx(self) -> int:
        return int(self.settings.N_CTX_TEXT)

    @property
    def context(self) -> Tensor:
        return self.parameter(CTX)

    def text_tokens(self) -> dict[int, Tensor]:
        return boosting_tokens(dict(self.learned.named_parameters()), "text")

    def vision_tokens(self) -> dict[int, Tensor]:
        return boosting_tokens(dict(self.learned.named_parameters()), "image")

    def prepare_training(self) -> None:
        """Read the teacher. Raises NerpError as `open_teacher` does."""
        self.teacher = open_teacher(self.settings, self.node, self.clip, self.classes)

    def teacher_logits(self, images: Tensor) -> Tensor:
        """z* [B, C] of images [B, 3, H, W]: the teacher's cosines times the student's scale."""
        if self.teacher is None:
            self.prepare_training()
        assert self.teacher is not None
        return self.similarity(self.teacher.clip.image_features(images), self.teacher.text)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        logits = self.similarity(self.image_features(images), self.class_features())
        target = self.teacher_logits(images)
        return divergence(logits, target, self.settings.TEMPERATURE) / len(images)
