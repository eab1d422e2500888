"""PLOT++: PLOT on a vision transformer with local features from learned vision tokens."""

from collections.abc import Mapping

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.printable import printable
from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip
from nerp.clip.state import State
from nerp.clip.tokenizer import Prompts, build_prompts, tokenize
from nerp.clip.towers import PromptTokens
from nerp.settings.keys import choice, file, listing, text, whole
from nerp.trainers.base import precision
from nerp.trainers.plot import Local, Transport
from nerp.trainers.tensors import EMBEDDING_STD

_CTX, _VISION = "prompt_learner.ctx", "prompt_learner.ctx_vision"
_MOST = 4  # texts per dataset in WORDS
# Dataset -> the texts that its N contexts start from; the first one's words give the length K.
WORDS = {
    "Caltech101": ("a photo of a", "this is a photo", "this is picture of", "one picture of a"),
    "DescribableTextures": ("a photo of a texture", "this is a photo texture",
                            "this is a picture texture", "one picture of a texture"),
    "EuroSAT": ("a centered satellite photo of", "a centered satellite picture of",
                "this is centered satellite photo of", "one centered satellite photo of a"),
    "FGVCAircraft": ("a photo of an aircraft", "a picture of an aircraft",
                     "this is aircraft picture of", "one picture of an aircraft"),
    "Food101": ("a photo of a food", "this is a food photo", "this is food picture of",
                "one picture of a food"),
    "ImageNet": ("a photo of a", "this is a photo", "this is a", "one picture of a"),
    "OxfordFlowers": ("a photo of a flower", "one picture of a flower",
                      "this is flower picture of", "one picture of a flower"),
    "OxfordPets": ("a photo of a pet", "one picture of a pet", "this is pet picture of",
                   "one picture of a pet"),
    "StanfordCars": ("a photo of a", "this is a photo", "this is picture of", "one picture of a"),
    "SUN397": ("a photo of a", "this is a photo", "this is picture of", "one picture of a"),
    "UCF101": ("a photo of a person doing", "this is a photo people doing",
               "this is picture of people doing", "one picture of a person doing"),
}
# Datasets without texts use the first one's, ImageNet's variants the second one's.
_OTHERS, _SOURCE = "Caltech101", "ImageNet"


def dataset_words(dataset: str) -> tuple[str, ...]:
    """The four texts of a training dataset."""
    variant = dataset.startswith(_SOURCE)
    return WORDS.get(_SOURCE if variant else dataset, WORDS[_OTHERS])


@TRAINERS.register("PLOTPP")
class PLOTPP(Transport):
    """N contexts that start from words, and M groups of K_v vision tokens at the input of layer 1.
    An image's m-th local feature is that of its class token in a pass with the tokens of group m.

    Training has two stages. MODEL_UPD "vision" learns only the vision tokens. "joint" learns both
    and starts from the first stage's checkpoint (PRETRAIN_DIR). Learned: prompt_learner.ctx
    [N, K, W_t], prompt_learner.ctx_vision [M, K_v, W_v]. See docs/methods/plotpp.md.
    """

    node = "PLOTPP"
    folder = "prompt_learner"
    paper = "Chen et al., PLOT: Prompt Learning with Optimal Transport, ICLR 2023"
    group = "deep"
    defaults = {
        "N": whole(4, 1, _MOST),
        "M": whole(4, 1, 1024),
        "N_CTX_V": whole(2, 1, 512),
        "WORDS": listing([], text("")),  # default: the dataset's; a checkpoint stores them
        "TRADE_OFF": False,
        "MODEL_UPD": choice("joint", "vision"),
        "PRETRAIN_DIR": file(""),  # the first stage's checkpoint; only training reads it
        "PRETRAIN_DIR_EPOCH": whole(0, 0),  # 0: the newest
        "PREC": precision("fp16"),
    }
    signature = (r"prompt_learner\.ctx_vision", r"prompt_learner\.ctx")
    shape_settings = ("N", "M", "N_CTX_V", "WORDS")
    edits = ("image",)
    builds_on = {"PRETRAIN_DIR": "PLOTPP"}

    unlike = ""  # the reason why the tensors of PRETRAIN_DIR do not fit

    @classmethod
    def published_values(cls, key: str, value: object) -> dict[str, object]:
        """Some of CoOp's keys need no action at the only values that the published code supports.
        It never reads N_CTX, and treats an empty MODEL_UPD as "joint"."""
        settled = {"CTX_INIT": ("True",), "CSC": ("False",), "CLASS_TOKEN_POSITION": ("end",)}
        if key == "MODEL_UPD" and not value:
            return {key: "joint"}
        return {"": None} if key == "N_CTX" or str(value) in settled.get(key, ()) else {}

    @classmethod
    def infer(
        cls, tensors: Mapping[str, Tensor], settings: CfgNode, clip: Clip
    ) -> dict[str, object]:
        groups, count, _ = tensors[_VISION].shape
        return {"N": len(tensors[_CTX]), "M": groups, "N_CTX_V": count}

    def check(self) -> None:
        """Also sets WORDS, which a checkpoint stores."""
        settings = self.settings.clone()
        settings.defrost()
        if not settings.WORDS:
            crossing = self.cfg.TASK == "CD" and not self.classes.seen
            dataset = _SOURCE if crossing else self.classes.dataset
            settings.WORDS = list(dataset_words(dataset))[: settings.N]
        there = [words for words in settings.WORDS if words.split()]
        if len(there) != settings.N or len(settings.WORDS) != settings.N:
            raise NerpError(f"TRAINER.{self.node}.WORDS has {len(there)} texts; it takes "
                            f"one for each of TRAINER.{self.node}.N {settings.N} contexts")
        self.settings = settings

    @property
    def n_ctx(self) -> int:
        """K, the number of vectors per context."""
        return len(str(self.settings.WORDS[0]).split())

    def initial(self) -> dict[str, Tensor]:
        shape = self.settings.M, self.settings.N_CTX_V, self.clip.image.width
        tensors = {_CTX: self.first_context(), _VISION: EMBEDDING_STD * torch.randn(shape)}
        for name, tensor in tensors.items():
            started = self.start.get(name, tensor)
            if started.shape == tensor.shape:
                tensors[name] = started
            else:
                self.unlike = (f"its {name} is {tuple(started.shape)}, this run needs "
                               f"{tuple(tensor.shape)}: another backbone, dataset or setting")
        return tensors

    def prepare_training(self) -> None:
        if self.unlike:
            raise NerpError(f"TRAINER.{self.node}.PRETRAIN_DIR "
                            f"{printable(self.settings.PRETRAIN_DIR)}: {self.unlike}")

    def first_context(self) -> Tensor:
        """The initial contexts [N, K, W_t]: each text's token embeddings at positions 1..K, also if
        end-of-text or padding is there."""
        last = 1 + self.n_ctx
        ids = [(tokenize(words) + [0] * last)[1:last] for words in self.settings.WORDS]
        return self.clip.text.token_embedding(torch.tensor(ids, device=self.clip.device)).float()

    def prepare(self) -> None:
        texts = [[f"{words.strip()} {name}." for name in self.classes.names]
                 for words in self.settings.WORDS]
        prompts = [build_prompts(own, n_ctx=self.n_ctx) for own in texts]
        self.prompts = [own.to(self.clip.device) for own in prompts]
        self.parameter(_CTX).requires_grad_(self.settings.MODEL_UPD == "joint")

    @property
    def summed(self) -> bool:
        return bool(self.settings.TRADE_OFF)

    def encode(self, prompts: Prompts, context: Tensor) -> Tensor:
        """Outputs u [C, D] of the text encoder for C prompts with a context [K, W_t] in their
        slots."""
        return self.clip.text.features(self.clip.text_state(prompts, context))[0]

    def local_texts(self) -> Local:
        # Each text has its own tokens behind the slots, so each context needs its own pass.
        contexts = self.parameter(_CTX)
        u = torch.stack([self.encode(*both) for both in zip(self.prompts, contexts, strict=True)])
        return Local(u, u.float().mean(0))

    def local_images(self, images: Tensor) -> Local:
        groups = self.clip.vision.entering(self.parameter(_VISION))
        once = self.clip.image_state(images)
        count, length, ends, behind = once.sizes
        state = State(once.x.repeat(len(groups), 1), (len(groups) * count, length, ends, behind))
        edit = PromptTokens({1: groups.repeat_interleave(count, 0)}, at_end=True)
        v = self.clip.image.features(state, edit).unflatten(0, (len(groups), count))
        return Local(v, v.float().mean(0))

    def neutral_outputs(self) -> Tensor:
        prompts = build_prompts([self.classes.neutral], n_ctx=self.n_ctx)
        return torch.cat([self.encode(prompts, own) for own in self.parameter(_CTX)]).float()
