"""TFUP: a cache of unlabelled images that vote. TFUP-T: training with TFUP's pseudo-labels."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nerp.base.registry import TRAINERS
from nerp.clip.model import normalise
from nerp.settings.keys import choice, file, number, whole
from nerp.trainers.base import Trainer, precision
from nerp.trainers.clip_adapter import adapted_image
from nerp.trainers.on_features import DescendsOnFeatures, Images
from nerp.trainers.pseudo import (
    MOST_SHOTS,
    adapted_text,
    logits,
    marginal,
    select,
    shots,
    similarity,
    votes,
)
from nerp.trainers.votes import columns_by_name
from nerp.trainers.voting import SentenceVoting

__all__ = ["adapted_image", "adapted_text", "logits", "marginal", "select", "shots", "similarity"]

_PSEUDO = {"beta": 1.0, "alpha": 0.3}  # used for the pseudo-labels, whatever the settings are
_CONFIDENT = 0.9
_MARGINAL = 0.3
_RES, _DOWN, _UP = "res", "image_adapter.fc.0.weight", "image_adapter.fc.2.weight"


@TRAINERS.register("TFUP")
class TFUP(SentenceVoting):
    """Logits: 100 f uᵀ + α times the votes of unlabelled images. A vote's weight is the similarity
    of the cached image's class probabilities to the tested image's.

    Built: keys [C K, D], the images selected for each class. No label is used. See
    docs/methods/tfup.md.
    """

    node = "TFUP"
    folder = "tfup"
    paper = "Long et al., Training-Free Unsupervised Prompt, arXiv 2404.16339, 2024"
    defaults = {
        "SOURCE": choice("train", "test"),  # test: the cache is made of test images (†)
        "SHARE": number(0.3, above=0, most=1),
        "TRAIN_SHARE": number(0.75, above=0, most=1),
        "ALPHA": number(0.3, least=0),
        "BETA": number(1.0, least=0),
        "RATIO_ALPHA": number(0.2, least=0, most=1),
        "RATIO_BETA": number(0.5, least=0, most=1),
        "WARMUP_EPOCH": whole(5, 0, 10**6),
        "TEXTS": file(""),  # a sentence file, or a folder of them
        "PREC": precision("fp16"),
    }
    signature: tuple[str, ...] = ("keys", "labels")
    fixed = ("keys", "labels")
    plain = ("source",)

    def initial(self) -> dict[str, Tensor]:
        return {"keys": torch.zeros(0, self.clip.embed_dim),
                "labels": torch.zeros(0, dtype=torch.long)}

    def build(self, images: Images) -> None:
        cache = self.cache_of(images.plain(self.settings.SOURCE))
        self.learn({**self.learned.state_dict(), **cache})

    def cache_of(self, outputs: Tensor) -> dict[str, Tensor]:
        """Keys and labels from unlabelled images' frozen outputs [N, D]."""
        classes = len(self.texts)
        k = shots(len(outputs), classes, self.settings.SHARE, MOST_SHOTS)
        found = select(outputs, self.texts, k)
        labels = torch.arange(classes, device=found.device).repeat_interleave(k)
        return {"keys": outputs[found.flatten()], "labels": labels}

    def having_seen(self, outputs: Tensor) -> Trainer:
        if self.settings.SOURCE == "train":
            return self
        other = self.for_classes(self.classes)
        other.trained = self.classes.names
        other.learn({**self.learned.state_dict(), **self.cache_of(outputs)})
        return other

    @property
    def test_substitute(self) -> str:
        return "" if self.settings.SOURCE == "train" else \
            "† the cache is filled from the tested images, without their labels"

    substitute = test_substitute

    def plain_values(self) -> dict[str, object]:
        return {"source": self.settings.SOURCE}

    def of_features(self) -> Callable[[Tensor], Tensor]:
        text, (keys, labels) = self.class_features(), self.voting_keys()
        beta, alpha = self.settings.BETA, self.settings.ALPHA
        return lambda features: logits(features, keys, labels, text, beta, alpha)


@TRAINERS.register("TFUP_T")
class TFUP_T(DescendsOnFeatures, TFUP):
    """Logits: 100 g tᵀ, with adapted image features g, and class texts t with residuals. The cache
    is used in training only, for pseudo-labels.

    Learned: res [C, D] and an image adapter D -> D / 4 -> D. See docs/methods/tfup.md.
    """

    group = "adapters"
    signature = (*TFUP.signature, _RES, r"image_adapter\.fc\.0\.weight")
    by_data = (*TFUP.by_data, _RES)

    def initial(self) -> dict[str, Tensor]:
        width, bottleneck = self.clip.embed_dim, self.clip.embed_dim // 4
        return {
            **super().initial(),
            _RES: torch.zeros(len(self.classes.names), width),
            _DOWN: nn.Linear(width, bottleneck, bias=False).weight,
            _UP: nn.Linear(bottleneck, width, bias=False).weight,
        }

    @property
    def rate_steps(self) -> int:
        """The steps of all epochs, if each were as long as a warm-up epoch. After so many steps the
        rate rises again."""
        size = self.cfg.DATALOADER.TRAIN_X.BATCH_SIZE
        return self.epochs * max(1, len(self.entries) // int(size))

    def build(self, images: Images) -> None:
        super().build(images)
        outputs = images.plain(self.settings.SOURCE)
        k = shots(len(outputs), len(self.texts), self.settings.TRAIN_SHARE)
        self.entries = select(outputs, self.texts, k).flatten()
        found = logits(outputs[self.entries], self.tensor("keys"), self.tensor("labels"),
                       self.texts, **_PSEUDO)
        self.pseudo_labels = found.argmax(1)

    def batches(self, images: Images, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        source = self.settings.SOURCE
        if epoch < self.settings.WARMUP_EPOCH:
            outputs = images.drawn(epoch, self.entries.tolist(), source)
            for batch in self.shuffled(len(outputs), epoch, keep_last=False):
                yield outputs[batch], self.pseudo_labels[batch]
            return
        still, outputs = images.plain(source), images.drawn(epoch, None, source)
        for batch in self.shuffled(len(outputs), epoch, keep_last=False):
            yield outputs[batch], *self.confident(still[batch])

    def confident(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """For outputs [B, D] of unaugmented images: the labels [B] predicted with the votes, and
        whether [B] each has a probability above 0.9."""
        with torch.no_grad():
            image, text = self.from_frozen(outputs), self.class_features()
            weak = self.similarity(image, text) + self.settings.ALPHA * votes(
                image, normalise(self.tensor("keys")), self.tensor("labels"), text,
                self.settings.BETA)
            most, labels = weak.softmax(1).max(1)
        return labels, most > _CONFIDENT

    def feature_loss(self, *batch: Tensor) -> Tensor:
        """The loss, a scalar, of outputs [B, D] and pseudo-labels. After the warm-up it uses only
        confident labels, and a term keeps the class shares balanced."""
        outputs, labels, *sure = batch
        found = self.similarity(self.from_frozen(outputs), self.class_features())
        if not sure:
            return F.cross_entropy(found, labels)
        kept = sure[0]
        entropy = F.cross_entropy(found[kept], labels[kept]) if bool(kept.any()) else 0.0
        return entropy + _MARGINAL * marginal(found)

    def from_frozen(self, output: Tensor) -> Tensor:
        return adapted_image(output, self.tensor(_DOWN), self.tensor(_UP),
                             self.settings.RATIO_ALPHA)

    def having_seen(self, outputs: Tensor) -> Trainer:
        return self

    def class_features(self, images: Tensor | None = None) -> Tensor:
        """t [C, D]. A class that was not trained on has the residual 0, so its t is the text
        alone."""
        names = self.classes.names
        places = torch.arange(len(names), device=self.clip.device)
        rows = columns_by_name(places, names, self.trained)
        res = torch.cat([self.tensor(_RES), self.texts.new_zeros(1, self.texts.shape[1])])[rows]
        return adapted_text(self.texts, res, self.settings.RATIO_BETA)

    def of_features(self) -> Callable[[Tensor], Tensor]:
        text = self.class_features()
        return lambda features: self.similarity(features, text)

    @property
    def about_classes(self) -> str:
        unknown = len(set(self.classes.names).difference(self.trained))
        return f"{unknown} of {len(self.classes.names)} tested classes have no residual" \
            if unknown else ""
