"""A method over a frozen CLIP: how it is built, and what training, testing and NeRP need of it."""

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
    """The settings of a text context: its length, the words that it starts from, the precision."""
    return {
        "N_CTX": whole(n_ctx, 1, CONTEXT_LENGTH), "CTX_INIT": words, "PREC": precision("fp16"),
    }


def precision(default: str) -> Key:
    """A method's PREC."""
    return choice(default, *(name for name in PRECISIONS if name != default))


class Trainer(Method):
    """A prompt-learning method over a frozen CLIP. A subclass defines what `Method` lists, and a
    `loss` if it is not the cross entropy alone.

    Attributes:
        learned: the learned tensors, in training mode while a run trains them.
        right: how many images of the latest `loss` were predicted right, a scalar; None if the
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
        cfg: the whole configuration. clip: the backbone. classes: what to tell apart.
        tensors: learned tensors by name; by default freshly initialised from torch's generator.
        start: those of a checkpoint, of which `initial` may take some: of the method that this one
            builds on, or of this one where it is tested.
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
        """Use these learned tensors, of any shapes."""
        self.learned = tree(tensors, self.fixed).to(self.clip.device).eval()

    def _prepare(self) -> None:
        self._frozen_class_features: Tensor | None = None
        with self.clip.autocast():
            self.prepare()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The training loss, a scalar, of images [B, 3, H, W] with labels [B]. Where
        `learns_on_outputs`, of the frozen image encoder's outputs [B, D] as well."""
        return self.cross_entropy(self.logits(images), labels)

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """CE of logits [B, C], from which a class would be predicted; a scalar."""
        self.count_right(logits, labels)
        return nn.functional.cross_entropy(logits, labels)

    def count_right(self, logits: Tensor, labels: Tensor) -> None:
        """Count right predictions for the training history, in a loss whose cross entropy uses
        other logits than those [B, C] from which a class would be predicted."""
        self.right = (logits.detach().argmax(1) == labels).sum()

    @property
    def frozen_images(self) -> bool:
        """Whether images always have frozen CLIP's features, which all such methods share. It
        follows from the method's definition: neither `image_features` nor `classifier`."""
        method = type(self)
        own = method.image_features, method.classifier
        return own == (Trainer.image_features, Trainer.classifier)

    @property
    def learns_on_outputs(self) -> bool:
        """Whether `loss` takes frozen CLIP's image encoder outputs [B, D] in place of images. An
        epoch's images are then encoded once for all such methods."""
        losses = [vars(kind) for kind in type(self).__mro__ if "loss" in vars(kind)]
        by_features = all(of.get("loss_by_features") for of in losses)
        return self.frozen_images and self.views == 1 and by_features

    @classmethod
    def has_one_entropy(cls) -> bool:
        """Whether the loss is what `one_entropy` says, so that DePT fits. A subclass with a loss of
        its own says it anew."""
        said = next(vars(kind) for kind in cls.__mro__ if {"loss", "one_entropy"} & {*vars(kind)})
        return bool(said.get("one_entropy"))

    @classmethod
    def is_cosine(cls) -> bool:
        """Whether prediction is by the cosine of `image_features` and one class feature for all
        images. It follows from the method's definition: neither `classifier` nor
        `feature_classifier`."""
        own = cls.classifier, cls.feature_classifier
        return own == (Trainer.classifier, Trainer.feature_classifier) and not cls.text_by_image

    @property
    def scale(self) -> float:
        """What cosines are multiplied by."""
        return self.clip.scale

    def similarity(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] in float32 of f [B, D] and t, [C, D] or one set per image [B, C, D]."""
        with in_float32(self.clip.device):
            if text.dim() == 3:
                return self.scale * (text @ image[:, :, None])[:, :, 0]
            return self.scale * image @ text.t()

    def having_seen(self, outputs: Tensor) -> "Trainer":
        """The trainer that predicts images with these frozen outputs [N, D], for a method with
        `frozen_images`: itself, unless it looks at all of them first (†)."""
        return self

    def logits(self, images: Tensor) -> Tensor:
        """Logits [B, C] of images [B, 3, H, W], from which a class is predicted."""
        return self.classifier()(images)

    def classifier(self) -> Callable[[Tensor], Tensor]:
        """`logits` with the class features computed once: call it for batch after batch."""
        classify = self.feature_classifier()
        return lambda images: classify(self.image_features(images))

    def feature_classifier(self) -> Callable[[Tensor], Tensor]:
        """`classifier` of image features f [B, D] instead of images."""
        text = self.class_features()
        return lambda features: self.similarity(features, text)

    def linear_classifier(self) -> LinearClassifier | None:
        """The classifier of frozen CLIP's normalised image features, where it is linear in them;
        None where it is not, or the image encoder is another."""
        plain = type(self).from_frozen is Method.from_frozen
        if not (self.frozen_images and plain and self.is_cosine()):
            return None
        return LinearClassifier.cosine(self.class_features(), self.scale)

    def folded(self) -> dict[str, Tensor] | None:
        """The backbone's state dict, changed so that plain CLIP with it equals this model, for any
        classes in the method's prompts; None if no such state dict exists."""
        return None

    @property
    def frozen_clip(self) -> Clip:
        """The CLIP whose text encoder makes t*; its image encoder's features belong to them."""
        return self.clip

    def frozen_class_features(self, images: Tensor | None = None) -> Tensor:
        """Frozen CLIP's class features t* [C, D] as the method uses them, computed once. Those of
        a method that mixes them by the image are of `images` [1, 3, H, W]."""
        if self._frozen_class_features is None:
            columns = zip(*self.frozen_prompts(), strict=True)
            parts = (self.clip.text_features(list(texts)) for texts in columns)
            self._frozen_class_features = normalise(reduce(torch.add, parts))
        return self._frozen_class_features

    @torch.no_grad()
    def neutral_features(self, image: Tensor | None) -> tuple[Tensor, Tensor]:
        """The neutral prompt's features from the frozen [D] and the tuned text encoder; image: the
        reference [1, 3, H, W], which a method's text may depend on."""
        frozen = normalise(self.clip.text_features([self.classes.neutral]))[0]
        return frozen, self.tuned_neutral()

    @torch.no_grad()
    def reference_logits(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [C] of a reference image [1, 3, H, W] against frozen and tuned class features.

        The image's feature is the tuned model's in both. (NeRP: the image prior's two terms.)
        """
        feature = self.image_features(image)
        frozen = self.similarity(feature, self.frozen_class_features(image))
        tuned = self.similarity(feature, self.class_features(image))
        return frozen[0], tuned[0]

    @torch.no_grad()
    def reference_class_features(self, image: Tensor | None) -> Tensor:
        """The tuned class features t [C, D] that the text prior uses. image: the reference
        [1, 3, H, W], of a method whose text depends on the image (`text_by_image`)."""
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
        """The learned tensors in groups of one `rate_factor`, as torch's optimisers take them."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, tensor in self.learned.named_parameters():
            groups.setdefault(self.rate_factor(name), []).append(tensor)
        return [{"params": tensors, "factor": factor} for factor, tensors in groups.items()]
