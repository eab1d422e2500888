"""PromptKD: vision prompts and a projection learn a prompted teacher's class probabilities from
images without labels. The class features are the teacher's."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip
from nerp.clip.towers import PromptTokens
from nerp.settings.keys import file, number, text, whole
from nerp.trainers.base import precision
from nerp.trainers.caspl import SEEN
from nerp.trainers.deep import entering
from nerp.trainers.projection import FIRST, RUNNING, Projecting
from nerp.trainers.taught import Taught, layers_of
from nerp.trainers.teacher import divergence
from nerp.trainers.tensors import random_tokens

_FIRST, _DEEP = "image_encoder.VPT", "image_encoder.transformer.resblocks.{}.VPT_shallow"


@TRAINERS.register("PromptKD")
class PromptKD(Taught, Projecting):
    """Vision: K_v tokens at the end, replaced at the input of layers 2..J. The output u is mapped
    into the teacher's joint space, A₃ relu(BatchNorm(A₀ u + b₀)) + b₃, and normalised. Text: the t
    of the teacher, a larger CLIP with PromptSRC's prompts.

    Loss: w τ² / (B C) Σ_b KL(q || p). q are the teacher's probabilities, p = softmax(s f tᵀ / τ).
    No label is read. Learned: image_encoder.VPT and VPT_shallow, VPT_image_trans.conv1. See
    docs/methods/promptkd.md.
    """

    node = "PROMPTKD"
    folder = "VLPromptLearner"
    paper = "Li et al., PromptKD: Unsupervised Prompt Distillation, CVPR 2024"
    group = "deep"
    defaults = {
        "N_CTX_VISION": whole(4, 1, 512),
        "PROMPT_DEPTH_VISION": whole(9, 1, 512),
        "CTX_INIT": "a photo of a",
        "TEMPERATURE": number(1.0, above=0),
        "KD_WEIGHT": number(1000.0, least=0),
        "TEACHER_NAME": text("ViT-L/14"),
        "TEACHER_PATH": file(""),  # a file of weights to use instead of the published ones
        "TEACHER_CHECKPOINT": file(""),  # a PromptSRC checkpoint, or its run directory
        "TEACHER_EPOCH": whole(20, 0),
        "PREC": precision("fp16"),
    }
    signature = (r"VPT_image_trans\.conv1\.0\.weight", r"image_encoder\.VPT")
    shape_settings = ("N_CTX_VISION", "PROMPT_DEPTH_VISION", "CTX_INIT")
    fixed = (r"teacher\..*", RUNNING)
    edits = ("image",)
    also_seen = SEEN
    reads_labels = False
    all_classes = True
    first = FIRST

    @classmethod
    def disregards(cls, name: str, value: object) -> str | None:
        if name == "TEST.FINAL_MODEL" and value == "best_val":
            return "TEST.FINAL_MODEL best_val would choose an epoch on test images; the last counts"
        return "" if name == "TRAINER.MODAL" else None

    @classmethod
    def published_values(cls, key: str, value: object) -> dict[str, object]:
        """Four keys need no action: the teacher's checkpoint has the shapes of its prompts."""
        ignored = ("N_CTX_TEXT", "PROMPT_DEPTH_TEXT", "PROJECT_LAYER", "CE_WEIGHT")
        return {"": None} if key in ignored else super().published_values(key, value)

    @classmethod
    def unfit(
        cls, cfg: CfgNode, names: Sequence[str], source: str, trained: Sequence[str]
    ) -> str:
        if source == cfg.DATASET.NAME and not {*trained} <= {*names}:
            return f"it was trained on classes that {source} does not have"
        if cfg.TASK in ("B2N", "OW") and source not in ("", cfg.DATASET.NAME):
            return f"it was trained on {source}; only TASK FS takes a teacher of another dataset"
        return ""

    @classmethod
    def infer(
        cls, tensors: Mapping[str, Tensor], settings: CfgNode, clip: Clip
    ) -> dict[str, object]:
        return {"N_CTX_VISION": len(tensors[_FIRST]),
                "PROMPT_DEPTH_VISION": max(layers_of(tensors, "image"), default=1)}

    def initial(self) -> dict[str, Tensor]:
        count, image = self.settings.N_CTX_VISION, self.clip.image
        layers = range(2, min(self.settings.PROMPT_DEPTH_VISION, image.depth) + 1)
        tokens = {name: random_tokens(count, image.width)
                  for name in (_FIRST, *(_DEEP.format(layer - 1) for layer in layers))}
        return tokens | self.fresh_projection(self.width) | self.first_teacher()

    def prepare_training(self) -> None:
        super().prepare_training()
        if self.cfg.DATALOADER.TRAIN_X.BATCH_SIZE < 2:
            raise NerpError("DATALOADER.TRAIN_X.BATCH_SIZE is 1; PromptKD normalises each batch by "
                            "its own mean and variance: it takes at least 2")

    def image_features(self, images: Tensor) -> Tensor:
        return self.projected(self.image_output(images), training=False)

    def image_output(self, images: Tensor) -> Tensor:
        """u [B, D] of images [B, 3, H, W], not normalised."""
        deep = layers_of(dict(self.learned.named_parameters()), "image")
        tokens = entering(self.clip, {1: self.parameter(_FIRST), **deep})
        state = self.clip.image_state(images)
        return self.clip.image.features(state, PromptTokens(tokens, at_end=True))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        f = self.projected(self.image_output(images), training=True)
        logits = self.similarity(f, self.class_features())
        found = divergence(logits, self.teacher_logits(images), self.settings.TEMPERATURE)
        return float(self.settings.KD_WEIGHT) / logits.numel() * found
