"""TCP: KgCoOp whose context is replaced, half-way up, by tokens made from each class's feature."""

from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip, normalise
from nerp.clip.modules import quick_gelu
from nerp.clip.tokenizer import Prompts, build_prompts
from nerp.clip.towers import ClassTokens
from nerp.settings.keys import whole
from nerp.trainers.base import precision
from nerp.trainers.kgcoop import KgCoOp
from nerp.trainers.tensors import Tensors, linear

_COUNT = 4  # context vectors, and tokens per class
# Dataset -> the text after the context in a class's prompt; on other datasets "{}.".
_PROMPTS = {
    "OxfordPets": "{}, a type of pet.",
    "OxfordFlowers": "{}, a type of flower.",
    "FGVCAircraft": "{}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "StanfordCars": "{}, a type of car",
    "Food101": "{}, a type of food.",
    "UCF101": "person doing {}.",
}


@TRAINERS.register("TCP")
class TCP(KgCoOp):
    """Loss: CE(s f t^T, y) + 8 (1 - mean_c cos(t_c, t*_c)). t* are frozen CLIP's features of one
    template. At CLASS_LAYER class c's context becomes linear2(QuickGELU(linear1(t*_c))).

    Learned: ctx [4, W_t], meta_net (D -> D / 4 -> 4 W_t). See docs/methods/tcp.md.
    """

    node = "TCP"
    paper = "Yao et al., Textual-based Class-aware Prompt Tuning, CVPR 2024"
    defaults = {"CTX_INIT": "", "CLASS_LAYER": whole(9, 2), "PREC": precision("fp16")}
    signature = ("ctx", r"meta_net\.linear1\.weight", r"meta_net\.linear2\.weight")
    marks = ()
    shape_settings = ("CTX_INIT", "CLASS_LAYER")
    edits = ("text",)
    class_specific = False
    n_ctx = _COUNT
    pull_weight = 8.0
    templates = {
        **KgCoOp.templates,
        "FGVCAircraft": "a photo of an aircraft {}.",
        "Food101": "a photo of a {}, a type of food.",
    }

    @classmethod
    def published_values(cls, key: str, value: object) -> dict[str, object]:
        """The published code never reads N_CTX, W and CLASS_TOKEN_POSITION, and supports only CSC
        False."""
        if key in ("N_CTX", "W", "CLASS_TOKEN_POSITION") or (key, str(value)) == ("CSC", "False"):
            return {"": None}
        return super().published_values(key, value)

    @classmethod
    def fits(cls, tensors: Tensors) -> bool:
        return len(tensors["meta_net.linear2.weight"]) == tensors["ctx"].numel()

    @classmethod
    def infer(cls, tensors: Tensors, settings: CfgNode, clip: Clip) -> dict[str, object]:
        return {}

    def check(self) -> None:
        layer, depth = self.settings.CLASS_LAYER, self.clip.text.depth
        if layer > depth:
            raise NerpError(f"TRAINER.TCP.CLASS_LAYER is {layer}; this backbone's text encoder has "
                            f"{depth} layers")
        if self.words and len(self.words.split()) != _COUNT:
            raise NerpError(f"TRAINER.TCP.CTX_INIT is {self.words!r}; it takes {_COUNT} words, or "
                            "none for a random start")

    def initial(self) -> dict[str, Tensor]:
        width, bottleneck = self.clip.embed_dim, self.clip.embed_dim // 4
        return {
            **super().initial(),
            **linear(bottleneck, width, "meta_net.linear1"),
            **linear(_COUNT * self.clip.text.width, bottleneck, "meta_net.linear2"),
        }

    def prepare(self) -> None:
        template = " ".join(["X"] * _COUNT + [_PROMPTS.get(self.classes.dataset, "{}.")])
        texts = [template.format(name) for name in self.classes.names]
        self.prompts = build_prompts(texts, n_ctx=_COUNT).to(self.clip.device)

    def class_tokens(self, frozen: Tensor) -> Tensor:
        """Class tokens P [C, 4, W_t] from frozen class features [C, D]."""
        hidden = quick_gelu(self.apply_linear("meta_net.linear1", frozen))
        return self.apply_linear("meta_net.linear2", hidden).view(len(frozen), _COUNT, -1)

    def encode(self, prompts: Prompts, frozen: Tensor) -> Tensor:
        """t [C, D] of C prompts. frozen: the classes' frozen features [C, D]."""
        state = self.clip.text_state(prompts, self.parameter("ctx"))
        edit = ClassTokens(self.class_tokens(frozen), self.settings.CLASS_LAYER)
        return self.text_of(self.clip.text.features(state, edit))[0]

    def class_features(self, images: Tensor | None = None) -> Tensor:
        return self.encode(self.prompts, self.frozen_class_features())

    def tuned_neutral(self) -> Tensor:
        """Feature [D] of the neutral prompt, which is treated as a class."""
        frozen = normalise(self.clip.text_features([self.classes.neutral]))
        return self.encode(build_prompts([self.classes.neutral], n_ctx=_COUNT), frozen)[0]
