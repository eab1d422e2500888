"""Shared code of methods with a cache of image features and labels."""


import torch
from torch import Tensor

from nerp.base.log import say
from nerp.clip.model import normalise
from nerp.clip.templates import ENSEMBLE_7
from nerp.data.sentences import read_sentences
from nerp.trainers.frozen_text import PlainText
from nerp.trainers.on_features import Images, OnFeatures
from nerp.trainers.texts import mean_of_normalised, mean_outputs
from nerp.trainers.votes import sorted_keys

SCALE = 100.0  # CLIP's logit scale, a literal in the published code
_TEMPLATE = "a photo of a {}."  # for every dataset, if there are no sentences
_IMAGENETS = "ImageNet"  # the beginning of the names of ImageNet and its variants


def validation_images(images: Images, search: str) -> tuple[Tensor, Tensor] | None:
    """Features [V, D], not normalised, and labels [V] of the validation images for a choice. None
    if there are none, if SEARCH is "none", or if they are also test images."""
    if search == "none":
        return None
    if images.validates_on_tested:
        say("SEARCH val: the validation images are tested images too, so nothing is chosen on them")
        return None
    labels = images.labels("val")
    if not len(labels):
        say("SEARCH val: there are no validation images, so nothing is chosen on them")
        return None
    return images.plain("val"), labels


class FrozenText(PlainText, OnFeatures):
    """A method with frozen CLIP's class features and the scale 100. The prompts are the dataset's
    template, or seven general templates on ImageNet and its variants."""

    @property
    def scale(self) -> float:
        return SCALE

    def frozen_class_features(self, images: Tensor | None = None) -> Tensor:
        if self._frozen_class_features is None and self.classes.dataset.startswith(_IMAGENETS):
            self._frozen_class_features = mean_of_normalised(
                self.clip, self.classes.names, ENSEMBLE_7
            )
        return super().frozen_class_features()

    @torch.no_grad()
    def reference_logits(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [C] of the reference image by class features alone, and by the full
        prediction."""
        feature = self.image_features(image)
        plain = self.similarity(feature, self.frozen_class_features())
        return plain[0], self.feature_classifier()(feature)[0]


class Voting(FrozenText):
    """A method with a cache of keys [N, D] and labels [N] of trained classes."""

    by_data: tuple[str, ...] = ("keys", "labels")

    def check_tensors(self) -> None:
        keys, labels = self.tensor("keys"), self.tensor("labels")
        whole = not labels.is_floating_point() and len(labels) == len(keys)
        if not whole or len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(
                self.trained):
            raise ValueError("its labels do not belong to its keys or its classes")

    def voting_keys(self) -> tuple[Tensor, Tensor]:
        """The keys of tested classes, and their labels among the tested classes."""
        return sorted_keys(self.tensor("keys"), self.asked(self.tensor("labels").long()))

    @property
    def about_classes(self) -> str:
        found = len(self.voting_keys()[1].unique())
        asked = len(self.classes.names)
        if found == asked:
            return ""
        rest = "the logits are zero-shot CLIP's" if not found else "the others get no vote"
        return f"{found} of {asked} tested classes have cached images; {rest}"


class SentenceVoting(Voting):
    """A method with a cache, and with class texts that are means over sentences: those of
    TRAINER.<node>.TEXTS, or one template."""

    def prepare(self) -> None:
        self._texts: Tensor | None = None

    @property
    def texts(self) -> Tensor:
        """u° [C, D]: for each class, the mean of the text encoder's outputs for its sentences, not
        normalised."""
        if self._texts is None:
            names, path = self.classes.names, self.settings.TEXTS
            key = f"TRAINER.{self.node}.TEXTS"
            sentences = read_sentences(path, names, key, self.classes.dataset) if path else \
                [[_TEMPLATE.format(name)] for name in names]
            self._texts = mean_outputs(self.clip, sentences)
        return self._texts

    def frozen_class_features(self, images: Tensor | None = None) -> Tensor:
        return normalise(self.texts)
