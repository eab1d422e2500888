"""`Trainer`: a method on a frozen CLIP, with the operations that training, testing and NeRP use."""

import copy
from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.clip.device import in_float32
from nerp.clip.model import PRECISIONS, Clip, normalise
from nerp.clip.tokenizer import CONTEXT_LENGTH
from nerp.settings.keys import Key, choice, whole
from nerp.trainers.linear import LinearClassifier
from nerp.trainers.method import Method
from nerp.trainers.tensors import NO_TENSORS, Tensors, tree
from nerp.trainers.texts import Classes


def context_settings(n_ctx: int, words: str) -> dict[str, object]:
    """The settings of a text context: its length, its initial words and the precision."""
    return {
        "N_CTX": whole(n_ctx, 1, CONTEXT_LENGTH), "CTX_INIT": words, "PREC": precision("fp16"),
    }


def precision(default: str) -> Key:
    """The setting PREC of a method, with this default and the other precisions as choices."""
    return choice(default, *(name for name in PRECISIONS if name != default))


class Trainer(Method):
    """A prompt-learning method over a frozen CLIP. A subclass defines what `Method` lists, and a
    `loss` if it is not the cross entropy alone.

    Attributes:
        learned: the learned tensors, in training mode while a run trains them.
        right: the number of correct predictions in the latest `loss`, a scalar; None if the
            method's loss does not count them.
    """

    right: Tensor | None = None
    loss_by_features = True

    def __init__(
        self,
        cfg: CfgNode,
        clip: Clip,
        classes: Classes,
        tensors: Tensors | None = None,
        start: Tensors = NO_TENSORS,
    ):
        """Args:
        cfg: the whole configuration. clip: the backbone. classes: the classes to predict.
        tensors: learned tensors by name; by default freshly initialised from torch's generator.
        start: the tensors of a checkpoint, some of which `initial` may use. In training it is a
            checkpoint of the method that this one builds on; in a test it is this method's own.
        """
        self.cfg = cfg
        self.settings = cfg.TRAINER[self.node]
        self.clip = clip
        self.classes = classes
        self.start = start
        self._check_layers()
        self.check()
        tensors = self.initial() if tensors is None else tensors
        self.start = NO_TENSORS  # it may be large
        self.learn(tensors)
        self._prepare()

    def _check_layers(self) -> None:
        for name in self.edits:
            encoder = getattr(self.clip, name)
            if not encoder.depth:
                raise NerpError(f"{self.node}: this method changes layers of CLIP's {name} "
                                f"encoder; this backbone's is {encoder.kind}")

    def for_classes(self, classes: Classes) -> "Trainer":
        """The same model, with shared learned tensors, for other classes."""
        other = copy.copy(self)
        other.classes = classes
        other._prepare()
        return other

    def learn(self, tensors: Tensors) -> None:
        """Replace the learned tensors by these, which may have any shapes."""
        self.learned = tree(tensors, self.fixed).to(self.clip.device).eval()

    def _prepare(self) -> None:
        self._frozen_class_features: Tensor | None = None
        with self.clip.autocast():
            self.prepare()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The training loss, a scalar, of images [B, 3, H, W] with labels [B]. If
        `learns_on_outputs`, `images` may also be the frozen image encoder's outputs [B, D]."""
        return self.cross_entropy(self.logits(images), labels)

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The cross entropy, a scalar, of logits [B, C]. It also counts correct predictions, so
        the logits must be those that prediction uses."""
        self.count_right(logits, labels)
        return nn.functional.cross_entropy(logits, labels)

    def count_right(self, logits: Tensor, labels: Tensor) -> None:
        """Count correct predictions for the training history. logits: [B, C], as prediction uses
        them. A loss calls this itself if its cross entropy uses other logits."""
        self.right = (logits.detach().argmax(1) == labels).sum()

    @property
    def frozen_images(self) -> bool:
        """Whether image features are always frozen CLIP's, which all such methods share. This is
        so if the method defines neither `image_features` nor `classifier`."""
        method = type(self)
        own = method.image_features, method.classifier
        return own == (Trainer.image_features, Trainer.classifier)

    @property
    def learns_on_outputs(self) -> bool:
        """Whether `loss` accepts the frozen image encoder's outputs [B, D] in place of images. An
        epoch's images are then encoded once for all such methods."""
        losses = [vars(kind) for kind in type(self).__mro__ if "loss" in vars(kind)]
        by_features = all(of.get("loss_by_features") for of in losses)
        return self.frozen_images and self.views == 1 and by_features

    @classmethod
    def has_one_entropy(cls) -> bool:
        """Whether the loss has the form that `one_entropy` describes, which DePT requires. A
        subclass that defines its own `loss` must set `one_entropy` again."""
        said = next(vars(kind) for kind in cls.__mro__ if {"loss", "one_entropy"} & {*vars(kind)})
        return bool(said.get("one_entropy"))

    @classmethod
    def is_cosine(cls) -> bool:
        """Whether the method predicts by the cosine of `image_features` and class features that
        do not depend on the image. This is so if the method defines neither `classifier` nor
        `feature_classifier`, and not `text_by_image`."""
        own = cls.classifier, cls.feature_classifier
        return own == (Trainer.classifier, Trainer.feature_classifier) and not cls.text_by_image

    @property
    def scale(self) -> float:
        """The logit scale s: logits are s times cosines."""
        return self.clip.scale

    def similarity(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] in float32 from image features f [B, D] and class features t: [C, D], or
        [B, C, D] if each image has its own."""
        with in_float32(self.clip.device):
            if text.dim() == 3:
                return self.scale * (text @ image[:, :, None])[:, :, 0]
            return self.scale * image @ text.t()

    def having_seen(self, outputs: Tensor) -> "Trainer":
        """The trainer that predicts the test images. outputs: their frozen image encoder outputs
        [N, D], of a method with `frozen_images`. It is this trainer itself, unless the method uses
        all test images before it predicts (transductive, †)."""
        return self

    def logits(self, images: Tensor) -> Tensor:
        """Logits [B, C] of images [B, 3, H, W]; the predicted class has the largest."""
        return self.classifier()(images)

    def classifier(self) -> Callable[[Tensor], Tensor]:
        """A function equal to `logits` that reuses class features for every batch."""
        classify = self.feature_classifier()
        return lambda images: classify(self.image_features(images))

    def feature_classifier(self) -> Callable[[Tensor], Tensor]:
        """As `classifier`, but the function's input is image features f [B, D], not images."""
        text = self.class_features()
        return lambda features: self.similarity(features, text)

    def linear_classifier(self) -> LinearClassifier | None:
        """The classifier as a linear function of frozen CLIP's normalised image features. None if
        it is not linear in them or the method changes image features."""
        plain = type(self).from_frozen is Method.from_frozen
        if not (self.frozen_images and plain and self.is_cosine()):
            return None
        return LinearClassifier.cosine(self.class_features(), self.scale)

    def folded(self) -> dict[str, Tensor] | None:
        """A state dict of the backbone with which plain CLIP equals this model, for any classes in
        the method's prompts. None if no such state dict exists."""
        return None

    @property
    def frozen_clip(self) -> Clip:
        """The CLIP whose text encoder computes t*. Its image features match t*."""
        return self.clip

    def frozen_class_features(self, images: Tensor | None = None) -> Tensor:
        """Frozen CLIP's class features t* [C, D] as the method uses them, computed once. If the
        method mixes class features by the image, they are those of `images` [1, 3, H, W]."""
        if self._frozen_class_features is None:
            columns = zip(*self.frozen_prompts(), strict=True)
            parts = (self.clip.text_features(list(texts)) for texts in columns)
            self._frozen_class_features = normalise(reduce(torch.add, parts))
        return self._frozen_class_features

    @torch.no_grad()
    def neutral_features(self, image: Tensor | None) -> tuple[Tensor, Tensor]:
        """The neutral prompt's feature from the frozen text encoder [D], and from the tuned one
        (`tuned_neutral`). image: the reference image [1, 3, H, W], on which a method's text
        may depend."""
        frozen = normalise(self.clip.text_features([self.classes.neutral]))[0]
        return frozen, self.tuned_neutral()

    @torch.no_grad()
    def reference_logits(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [C] of a reference image [1, 3, H, W] against frozen and tuned class features.

        Both use the tuned model's image feature. NeRP's image prior compares the two.
        """
        feature = self.image_features(image)
        frozen = self.similarity(feature, self.frozen_class_features(image))
        tuned = self.similarity(feature, self.class_features(image))
        return frozen[0], tuned[0]

    @torch.no_grad()
    def reference_class_features(self, image: Tensor | None) -> Tensor:
        """The tuned class features t [C, D] for the text prior. image: the reference image
        [1, 3, H, W], needed if the method's text depends on the image (`text_by_image`)."""
        text = self.class_features(image)
        return text[0] if text.dim() == 3 else text

    def parameter(self, name: str) -> Tensor:
        """A learned tensor by its name in a checkpoint."""
        return self.learned.get_parameter(name)

    def apply_linear(self, name: str, x: Tensor) -> Tensor:
        """x [..., in] through the learned Linear called `name`."""
        return nn.functional.linear(
            x, self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias")
        )

    def parameters(self) -> list[nn.Parameter]:
        return list(self.learned.parameters())

    def parameter_groups(self) -> list[dict[str, object]]:
        """The learned tensors as parameter groups for torch's optimisers, one per `rate_factor`."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, tensor in self.learned.named_parameters():
            groups.setdefault(self.rate_factor(name), []).append(tensor)
        return [{"params": tensors, "factor": factor} for factor, tensors in groups.items()]
