"""BiomedCoOp: CoOp held near two frozen teachers, made of sentences about the classes."""

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.device import in_float32
from nerp.clip.model import Clip, normalise
from nerp.clip.tokenizer import CONTEXT_LENGTH, CONTEXT_POSITIONS, build_prompts
from nerp.data.sentences import SUBSTITUTE, read_sentences, substitute_sentences
from nerp.settings.keys import choice, file, number, whole
from nerp.settings.protocols import NERP_SUFFIX
from nerp.trainers.base import precision
from nerp.trainers.context import ContextOverWords

_CTX = "prompt_learner.ctx"
# Frozen tensors beside ctx in a published file. The last two belong to the trained classes.
_SECOND_ENCODER = "prompt_learner.ZS_image_encoder."
_BESIDE = {_CTX, "prompt_learner.token_prefix", "prompt_learner.token_suffix"}
_BERT, _BERT_WIDTH = "text_encoder.model.", 768  # of the release's files for BiomedCLIP


@TRAINERS.register("BiomedCoOp")
class BiomedCoOp(ContextOverWords):
    """Loss: CE(s f t^T, y) + SCCM_LAMBDA mean((t - T_mean)^2) + KDSP_LAMBDA KL / (B C), where KL is
    the divergence of the logits from those of T_sel. T_mean [C, D] is the mean feature of each
    class's sentences. T_sel [C, D] is the mean over the sentences that are not outliers on the
    batch.

    Learned: prompt_learner.ctx [K, W_t]. See docs/methods/biomedcoop.md.
    """

    node = "BIOMEDCOOP"
    folder = "prompt_learner"
    loss_by_features = True
    paper = "Koleilat et al., BiomedCoOp, CVPR 2025"
    group = "context"
    defaults = {
        "N_CTX": whole(4, 1, CONTEXT_LENGTH),
        "CTX_INIT": "a photo of a",
        "CSC": False,  # the published code reads and ignores this key and the next
        "CLASS_TOKEN_POSITION": choice(*CONTEXT_POSITIONS),
        "PREC": precision("fp32"),
        "SCCM_LAMBDA": number(1.0, least=0),
        "KDSP_LAMBDA": number(1.0, least=0),
        "TAU": number(1.5, least=0),
        "N_PROMPTS": whole(50, 1, 10**4),
        "TEXTS": file(""),  # a sentence file, or a folder of them
    }
    signature = (re.escape(_CTX),)
    shape_settings = ("N_CTX", "CTX_INIT")
    one_entropy = True

    @classmethod
    def fits(cls, tensors: Mapping[str, Tensor]) -> bool:
        """Whether the file has ctx and either a second image encoder or no other learned tensor.
        Prompts in an encoder's layers would make it a file of PromptSRC."""
        own = {name for name in tensors if name.startswith("prompt_learner.")}
        second = any(name.startswith(_SECOND_ENCODER) for name in own)
        prompts = any("VPT" in name for name in tensors)
        return tensors[_CTX].dim() == 2 and not prompts and (second or own <= _BESIDE)

    @classmethod
    def refusal(cls, tensors: Mapping[str, Tensor], clip: Clip) -> str:
        width = tensors[_CTX].shape[1]
        named = any(name.startswith(_BERT) for name in tensors)
        if clip.text.depth and (named or width == _BERT_WIDTH != clip.text.width):
            return (f"trained over BiomedCLIP, whose text encoder is a BERT (a context {width} "
                    f"wide); this backbone's is CLIP's, {clip.text.width} wide")
        return ""

    @classmethod
    def infer(
        cls, tensors: Mapping[str, Tensor], settings: CfgNode, clip: Clip
    ) -> dict[str, object]:
        return {"N_CTX": len(tensors[_CTX])}

    @property
    def words(self) -> str:
        """CTX_INIT as text. With a BERT as text encoder it is "" unless there are four context
        vectors, as in the published code."""
        return super().words if self.clip.text.depth or self.n_ctx == 4 else ""

    def initial(self) -> dict[str, Tensor]:
        return {_CTX: self.first_context()}

    def prepare(self) -> None:
        super().prepare()
        self._sentence_features: Tensor | None = None

    @property
    def substitute(self) -> str:
        return "" if self.settings.TEXTS else SUBSTITUTE

    @property
    def test_substitute(self) -> str:
        """As `substitute` if NeRP corrects the prediction, because t* is made of sentences. The
        method's own prediction uses none, so it is "" otherwise."""
        corrected = self.cfg.TRAINER.NAME.endswith(NERP_SUFFIX) and (
            self.cfg.NERP.ON_BASE or not self.classes.seen)
        return self.substitute if corrected else ""

    def prepare_training(self) -> None:
        self.sentence_features()

    def sentences(self) -> list[list[str]]:
        """N_PROMPTS sentences per class; without TEXTS at most the 60 substitutes. Raises NerpError
        for a file with too few sentences."""
        names, count = self.classes.names, self.settings.N_PROMPTS
        if not self.settings.TEXTS:
            return [own[:count] for own in substitute_sentences(names)]
        key, path = f"TRAINER.{self.node}.TEXTS", self.settings.TEXTS
        found = read_sentences(path, names, key, self.classes.dataset)
        for name, own in zip(names, found, strict=True):
            if len(own) < count:
                raise NerpError(f"{key}: {path}: {len(own)} sentences for the class {name!r}, "
                                f"TRAINER.{self.node}.N_PROMPTS is {count}")
        return [own[:count] for own in found]

    @torch.no_grad()
    def sentence_features(self) -> Tensor:
        """T [C, P, D]: frozen features of each class's P sentences, each normalised."""
        if self._sentence_features is None:
            columns = zip(*self.sentences(), strict=True)
            features = [normalise(self.clip.text_features(list(texts))) for texts in columns]
            self._sentence_features = torch.stack(features, 1)
        return self._sentence_features

    def frozen_class_features(self, images: Tensor | None = None) -> Tensor:
        """T_mean [C, D], normalised: the mean over all sentences of each class."""
        if self._frozen_class_features is None:
            self._frozen_class_features = normalise(self.sentence_features().mean(1))
        return self._frozen_class_features

    @torch.no_grad()
    def scores(self, image: Tensor) -> Tensor:
        """a [P]: how well the p-th sentences of all classes fit image features f [B, D]. It is the
        largest logit over the classes, averaged over the images."""
        similarity = self.similarity(image, self.sentence_features().flatten(0, 1))
        by_class = torch.unflatten(similarity, 1, (len(self.classes.names), -1))
        return by_class.amax(1).mean(0)

    def kept(self, scores: Tensor) -> Tensor:
        """Mask [P] of the sentences that are kept: those whose score is within TAU standard
        deviations of the mean. All are kept if none is within, if all scores are equal, or if
        there is only one sentence."""
        centred = scores - scores.mean()
        deviation = (centred.square().sum() / (len(scores) - 1)).sqrt()
        within = centred.abs() / deviation <= float(self.settings.TAU)
        return within | ~within.any()

    @torch.no_grad()
    def teacher_logits(self, image: Tensor) -> Tensor:
        """Logits [B, C] of f [B, D] with T_sel, the mean of the sentences kept on this batch."""
        with in_float32(self.clip.device):
            kept = self.kept(self.scores(image)).float()
            return self.similarity(image, normalise(kept @ self.sentence_features()))

    def class_features(self, images: Tensor | None = None) -> Tensor:
        state = self.clip.text_state(self.prompts, self.parameter(_CTX))
        return self.text_of(self.clip.text.features(state))[0]

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        text, image = self.class_features(), self.image_features(images)
        logits, teacher = self.similarity(image, text), self.teacher_logits(image)
        divergence = F.kl_div(
            logits.log_softmax(1), teacher.log_softmax(1), reduction="sum", log_target=True
        )
        return (
            self.cross_entropy(logits, labels)
            + float(self.settings.SCCM_LAMBDA) * F.mse_loss(text, self.frozen_class_features())
            + float(self.settings.KDSP_LAMBDA) * divergence / logits.numel()
        )

    def tuned_neutral(self) -> Tensor:
        """The context replaces the neutral prompt's first K tokens."""
        prompts = build_prompts([self.classes.neutral], n_ctx=self.n_ctx,
                                tokenizer=self.clip.tokenizer)
        state = self.clip.text_state(prompts, self.parameter(_CTX))
        return normalise(self.clip.text.features(state))[0, 0]
