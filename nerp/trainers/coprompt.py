"""CoPrompt: MaPLe's coupled prompts and an adapter behind each encoder. A loss term pulls features
towards frozen CLIP's, of another view of the image and of sentences about the class."""

import random
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.model import normalise
from nerp.clip.tokenizer import tokenize
from nerp.data.sentences import SUBSTITUTE, read_sentences, substitute_sentences
from nerp.settings.keys import file
from nerp.trainers.maple import MaPLe
from nerp.trainers.tensors import cosine_distance

# The adapter's share of a feature, in training and in testing.
_SHARE = {"image": 0.1, "text": 0.2}
_ADAPTER = "adapter_{}.fc.{}.weight"
_DISTANCE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": cosine_distance, "mse": F.mse_loss,
}


@TRAINERS.register("CoPrompt")
class CoPrompt(MaPLe):
    """Loss: CE(s f t^T, y) + W [(1 - mean_c cos(t_c, g_c)) + (1 - mean_b cos(f_b, f*_b))]. f* are
    frozen CLIP's features of a second view of the images. g are those of one sentence per class,
    drawn anew in every step.

    Learned: MaPLe's tensors, and adapter_{image,text}.fc.{0,2} (D -> D / 4 -> D, no bias). See
    docs/methods/coprompt.md.
    """

    node = "CoPrompt"
    paper = "Roy and Etemad, Consistency-guided Prompt Learning, ICLR 2024"
    defaults = {**MaPLe.defaults, "TEXTS": file("")}  # a sentence file, or a folder of them
    signature = (*MaPLe.signature, r"adapter_image\.fc\.0\.weight")
    one_entropy = True
    views = 2

    @property
    def substitute(self) -> str:
        return "" if self.settings.TEXTS else SUBSTITUTE

    def initial(self) -> dict[str, Tensor]:
        width, bottleneck = self.clip.embed_dim, self.clip.embed_dim // 4
        tensors = super().initial()
        for kind in _SHARE:
            tensors[_ADAPTER.format(kind, 0)] = nn.Linear(width, bottleneck, bias=False).weight
            tensors[_ADAPTER.format(kind, 2)] = nn.Linear(bottleneck, width, bias=False).weight
        return tensors

    def prepare(self) -> None:
        super().prepare()
        self.sentences: list[list[str]] | None = None
        self.encoded: dict[int, Tensor] = {}
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        self.draws = random.Random(1_000_003 * self.cfg.SEED + epoch)

    def adapted(self, kind: str, u: Tensor) -> Tensor:
        hidden = F.relu(F.linear(u, self.parameter(_ADAPTER.format(kind, 0))))
        adapter = F.relu(F.linear(hidden, self.parameter(_ADAPTER.format(kind, 2))))
        return _SHARE[kind] * adapter + (1 - _SHARE[kind]) * u

    def text_output(self, u: Tensor) -> Tensor:
        return self.adapted("text", u)

    def image_output(self, u: Tensor) -> Tensor:
        return self.adapted("image", u)

    def prepare_training(self) -> None:
        """Read the sentences, equally many per class. Raises NerpError for files that cannot be
        used."""
        names, path = self.classes.names, self.settings.TEXTS
        key = f"TRAINER.{self.node}.TEXTS"
        if not path:
            self.sentences = substitute_sentences(names)
            return
        sentences = read_sentences(path, names, key, self.classes.dataset)
        for name, own in zip(names, sentences, strict=True):
            if len(own) != len(sentences[0]):
                raise NerpError(f"{key}: {path}: {len(own)} sentences for the class {name!r}, "
                                f"{len(sentences[0])} for {names[0]!r}; it takes equally many")
            for sentence in own:
                tokenize(sentence)
        self.sentences = sentences

    def sentence_features(self) -> Tensor:
        """g [C, D], the features of one drawn sentence per class. Each set of sentences is encoded
        once per run."""
        if self.sentences is None:
            self.prepare_training()
        assert self.sentences is not None
        index = self.draws.randrange(len(self.sentences[0]))
        if index not in self.encoded:
            texts = [own[index] for own in self.sentences]
            self.encoded[index] = normalise(self.clip.text_features(texts))
        return self.encoded[index]

    def loss(self, images: Tensor, labels: Tensor, second: Tensor | None = None) -> Tensor:
        """The loss, a scalar. second: another view of the images [B, 3, H, W]; by default
        `images`."""
        text, image = self.class_features(), self.image_features(images)
        frozen = self.clip.image_features(images if second is None else second)
        distance = _DISTANCE[self.cfg.TRAINER.DISTILL]
        consistency = distance(text, self.sentence_features()) + distance(image, frozen)
        entropy = self.cross_entropy(self.similarity(image, text), labels)
        return entropy + float(self.cfg.TRAINER.W) * consistency

    def frozen_prompts(self) -> list[list[str]]:
        return [[prompt] for prompt in self.classes.prompts]
