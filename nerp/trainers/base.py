"""What a method is: learned tensors, an edit per tower, a loss; and what it must answer."""

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from nerp.clip.model import PRECISIONS, Clip, normalise
from nerp.clip.tokenizer import build_prompts, encode
from nerp.keys import Key, choice

EMBEDDING_STD = 0.02


@dataclass(frozen=True)
class Classes:
    """The classes a model is asked about.

    Attributes:
        names: C class names in label order, underscores already spaces.
        template: the dataset's prompt, with one {}. neutral: its prompt that names no class.
        seen: whether the model was trained on these classes.
        dataset: its registry name, for methods with prompts of their own a dataset.
    """

    names: tuple[str, ...]
    template: str
    neutral: str
    seen: bool = True
    dataset: str = ""

    @property
    def prompts(self) -> list[str]:
        return [self.template.format(name) for name in self.names]


def tree(tensors: Mapping[str, Tensor], fixed: Collection[str] = ()) -> nn.Module:
    """A module whose state dict is `tensors`: dotted names become nested modules. Those in `fixed`
    are buffers, the others parameters."""
    root = nn.Module()
    for name, tensor in tensors.items():
        *parents, leaf = name.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = getattr(module, parent)
        if name in fixed:
            module.register_buffer(leaf, tensor.detach().clone())
        else:
            module.register_parameter(leaf, nn.Parameter(tensor.detach().clone().float()))
    return root


def precision(default: str) -> Key:
    """A method's PREC."""
    return choice(default, *(name for name in PRECISIONS if name != default))


def linear(out_width: int, in_width: int, name: str) -> dict[str, Tensor]:
    """Weight and bias of a Linear as PyTorch initialises it, under `name`."""
    layer = nn.Linear(in_width, out_width)
    return {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}


class Trainer:
    """A prompt-learning method over a frozen CLIP.

    Every method that returns features returns them in float32 and normalised. Callers hold
    `clip.autocast()` around training and testing alike.

    Class attributes:
        node: its node below TRAINER in a configuration, and `defaults` what is in it: a `Key` that
            states the range of a number, or a plain text or truth value.
        folder: the checkpoint's folder, as in the published code; "" where nothing is learned.
        paper: the publication, for `nerp methods`.
        signature: patterns; a checkpoint can be this method's where each matches a tensor's name.
        marks: further ones, of what a published file also holds; needed of a file that does not
            say whose it is, where the learned tensors alone have another method's names.
        shape_settings: the settings that a checkpoint carries, since its tensors are of no use
            without them.
        fixed: names of tensors in a checkpoint that are not trained.
        text_by_image: whether a class has another feature for each image.
        views: how many augmented views of an image `loss` takes, one after the other.

    Attributes:
        right: how many images of the latest `loss` were predicted right, a scalar; None where the
            method's loss does not say.
    """

    node: str
    folder: str = ""
    paper: str
    defaults: Mapping[str, object]
    signature: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    shape_settings: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    text_by_image: bool = False
    views: int = 1
    right: Tensor | None = None

    def __init__(
        self,
        cfg: CfgNode,
        clip: Clip,
        classes: Classes,
        tensors: Mapping[str, Tensor] | None = None,
    ):
        """Args:
        cfg: the whole configuration. clip: the backbone. classes: what to tell apart.
        tensors: learned tensors by name; by default freshly initialised from torch's generator.
        """
        self.cfg = cfg
        self.settings = cfg.TRAINER[self.node]
        self.clip = clip
        self.classes = classes
        self.check()
        tensors = self.initial() if tensors is None else tensors
        self.learned = tree(tensors, self.fixed).to(clip.device)
        self._prepare()

    def for_classes(self, classes: Classes) -> "Trainer":
        """The same model, its learned tensors shared, asked about other classes."""
        other = copy.copy(self)
        other.classes = classes
        other._prepare()
        return other

    def _prepare(self) -> None:
        self._frozen_class_features = None
        with self.clip.autocast():
            self.prepare()

    # What a method defines.

    @classmethod
    def fits(cls, tensors: Mapping[str, Tensor]) -> bool:
        """Whether tensors with the signature's names have this method's shapes."""
        return True

    @classmethod
    def infer(
        cls, tensors: Mapping[str, Tensor], settings: CfgNode, clip: Clip
    ) -> dict[str, object]:
        """The settings that a checkpoint's tensors imply."""
        return {}

    @classmethod
    def carried(cls, task: str) -> tuple[str, ...]:
        """The settings that a checkpoint decides, where it knows them, in a test under the
        protocol `task`: its shape settings."""
        return cls.shape_settings

    def check(self) -> None:
        """Raise NerpError for settings that do not fit the backbone."""

    def initial(self) -> dict[str, Tensor]:
        """Freshly initialised learned tensors, under their names in published checkpoints."""
        return {}

    def prepare(self) -> None:
        """Whatever depends on the classes and not on the learned tensors."""

    def class_features(self, images: Tensor | None = None) -> Tensor:
        """t [C, D]; for a method whose text depends on the image, those of `images` [B, C, D]."""
        raise NotImplementedError

    def image_features(self, images: Tensor) -> Tensor:
        """f [B, D] of images [B, 3, H, W]."""
        return self.clip.image_features(images)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The training loss, a scalar, of images [B, 3, H, W] with labels [B]."""
        return self.cross_entropy(self.logits(images), labels)

    def frozen_prompts(self) -> list[list[str]]:
        """For each class, the texts whose frozen features average to t*."""
        return [[prompt] for prompt in self.classes.prompts]

    def tuned_neutral(self) -> Tensor:
        """The tuned text tower's feature of the neutral prompt [D], or [C, D] one a class."""
        raise NotImplementedError

    def prepare_training(self) -> None:
        """Read and compute what only training needs, before anything is written. Raises NerpError
        for files that cannot be used."""

    def start_epoch(self, epoch: int) -> None:
        """Called before the steps of epoch 0, 1, ...: what is random in a step depends on the
        run's seed and this alone, so that a resumed run draws the same."""

    def epoch_weights(self, epochs: int) -> Tensor | None:
        """Weights [E] of the epochs' tensors in the final ones; None: the last epoch's."""
        return None

    # What follows for every method.

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """CE of logits [B, C] that a class would be predicted from, a scalar."""
        self.count_right(logits, labels)
        return nn.functional.cross_entropy(logits, labels)

    def count_right(self, logits: Tensor, labels: Tensor) -> None:
        """For the history of training, of a loss whose cross entropy is of other logits than those
        [B, C] that a class would be predicted from."""
        self.right = (logits.detach().argmax(1) == labels).sum()

    def account(self, untrained: Callable[[], Collection[str]]) -> dict[str, object]:
        """What the record of a training run holds besides.

        Args: untrained: names the dataset's classes that are not trained on, which a test may be
            of.
        """
        return {}

    @property
    def frozen_images(self) -> bool:
        """Whether images have frozen CLIP's features whatever was learned, which all such methods
        share. It follows from what a method defines: neither `image_features` nor `classifier`."""
        method = type(self)
        own = method.image_features, method.classifier
        return own == (Trainer.image_features, Trainer.classifier)

    @property
    def substitute(self) -> str:
        """What training uses in place of files that a method has and was not given, in words."""
        return ""

    @property
    def test_substitute(self) -> str:
        """The same of a test."""
        return ""

    @property
    def scale(self) -> float:
        """What cosines are multiplied by."""
        return self.clip.scale

    def similarity(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] in float32 of f [B, D] and t, [C, D] or one set an image [B, C, D]."""
        with torch.autocast(self.clip.device.type, enabled=False):
            if text.dim() == 3:
                return self.scale * (text @ image[:, :, None])[:, :, 0]
            return self.scale * image @ text.t()

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

    def frozen_class_features(self) -> Tensor:
        """Frozen CLIP's class features t* [C, D] as the method uses them, computed once."""
        if self._frozen_class_features is None:
            columns = zip(*self.frozen_prompts(), strict=True)
            sums = sum(self.clip.text_features(list(texts)) for texts in columns)
            self._frozen_class_features = normalise(sums)
        return self._frozen_class_features

    @torch.no_grad()
    def neutral_features(self) -> tuple[Tensor, Tensor]:
        """The neutral prompt's features from the frozen [D] and the tuned text tower."""
        frozen = normalise(self.clip.text_features([self.classes.neutral]))[0]
        return frozen, self.tuned_neutral()

    @torch.no_grad()
    def reference_logits(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [C] of a reference image [1, 3, H, W] against frozen and tuned class features.

        The image's feature is the tuned model's in both. (NeRP: the image prior's two terms.)
        """
        feature = self.image_features(image)
        frozen = self.similarity(feature, self.frozen_class_features())
        tuned = self.similarity(feature, self.class_features(image))
        return frozen[0], tuned[0]

    @torch.no_grad()
    def reference_class_features(self, image: Tensor) -> Tensor:
        """The tuned class features t [C, D] that the text prior uses."""
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


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - the mean cosine of rows [N, D] that are normalised, a scalar."""
    return 1 - (a * b).sum(1).mean()


def context_words(words: str) -> str:
    """CTX_INIT as text: underscores are spaces."""
    return words.replace("_", " ").strip()


def context_start(clip: Clip, words: str, n_ctx: int) -> Tensor:
    """The token embeddings [n_ctx, W_t] of the first n_ctx tokens of `words`."""
    ids = torch.tensor(encode(words)[:n_ctx], device=clip.device)
    return clip.text.token_embedding(ids).float()


def context_prompts(classes: Classes, prefix: str, **kwargs):
    """Prompts "{prefix} {name}." (see `build_prompts` for the rest)."""
    texts = [f"{prefix} {name}." for name in classes.names]
    return build_prompts(texts, names=classes.names, **kwargs)


def mean_of_normalised(clip: Clip, names: Sequence[str], templates: Iterable[str]) -> Tensor:
    """Frozen features [C, D] of C names: each template's normalised, their mean normalised."""
    texts = ([template.format(name) for name in names] for template in templates)
    return normalise(sum(normalise(clip.text_features(column)) for column in texts))


def mean_templates(classes: Classes, templates: Iterable[str]) -> list[list[str]]:
    """For each class, its name in every template."""
    return [[template.format(name) for template in templates] for name in classes.names]
