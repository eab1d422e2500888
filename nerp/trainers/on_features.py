"""Methods that are built from, or trained on, frozen image features instead of images."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nerp.trainers.base import Trainer
from nerp.trainers.texts import Classes
from nerp.trainers.votes import columns_by_name


class Images(Protocol):
    """Frozen features [N, D] of a run's images: the image encoder's outputs, not normalised.

    Each set is encoded once and kept for later runs. The labels of test images are not available
    here.
    """

    def plain(self, split: str) -> Tensor:
        """Features of the images of "train", "val" or "test" after the test transform."""

    def drawn(
        self, number: int, which: Sequence[int] | None = None, split: str = "train"
    ) -> Tensor:
        """Features of the images after the random transform, which is drawn anew for each `number`.

        Args: which: the images' indices. An index may occur twice; each occurrence has its own
        draw.
        """

    def labels(self, split: str) -> Tensor:
        """Labels [N] of "train" or "val"."""

    def texts(self, texts: list[str], encode: Callable[[list[str]], Tensor]) -> Tensor:
        """`encode(texts)`, features [n, D]. They are kept, so that a resumed run need not encode
        them again."""

    @property
    def validates_on_tested(self) -> bool:
        """Whether the validation images are also test images, as on ImageNet."""


class OnFeatures(Trainer):
    """A method that uses frozen CLIP's image features, and whose tensors belong to the training
    images or the trained classes.

    Attributes:
        trained: the names of the trained classes, in the order of their labels.
    """

    group = "training-free"
    on_features = True
    trained: tuple[str, ...] = ()

    @property
    def epochs(self) -> int:
        """The number of epochs, as in a checkpoint's file name; 0 for a method without epochs."""
        return 0

    @property
    def passes(self) -> int:
        """The largest number of calls of `Images.drawn` in a training."""
        return 1

    @abstractmethod
    def build(self, images: Images) -> None:
        """Compute the tensors that need no gradient, and the initial values of the others."""

    def finish(self, images: Images) -> None:
        """Do the work that follows the last step."""

    @abstractmethod
    def of_features(self) -> Callable[[Tensor], Tensor]:
        """A function from image features f [B, D] to logits [B, C]; it computes class features
        once."""

    def feature_classifier(self) -> Callable[[Tensor], Tensor]:
        """`of_features` in float32, whatever the backbone's precision."""
        classify, device = self.of_features(), self.clip.device.type

        def exactly(features: Tensor) -> Tensor:
            with torch.autocast(device, enabled=False):
                return classify(features)

        return exactly

    def recall(self, trained: Sequence[str], plain: Mapping[str, object]) -> None:
        if not trained:
            raise ValueError("it does not name the classes that it was trained on")
        self.trained = tuple(trained)
        self.check_tensors()
        self._prepare()

    def check_tensors(self) -> None:
        """Raise ValueError for tensors that do not fit each other or `trained`."""

    def _prepare(self) -> None:
        self.trained = self.trained or self.classes.names
        super()._prepare()

    def for_classes(self, classes: Classes) -> "OnFeatures":
        other = super().for_classes(classes)
        assert isinstance(other, OnFeatures)
        return other

    def asked(self, labels: Tensor) -> Tensor:
        """Labels [N] of trained classes, converted to labels of the tested classes; -1 for a class
        that is not tested."""
        return columns_by_name(labels, self.trained, self.classes.names)

    def shuffled(self, count: int, epoch: int, keep_last: bool) -> Iterator[Tensor]:
        """Indices 0..count-1 in batches, shuffled anew in each epoch. keep_last: whether an
        incomplete last batch is kept."""
        size = self.cfg.DATALOADER.TRAIN_X.BATCH_SIZE
        order = torch.from_numpy(np.random.default_rng((self.cfg.SEED, epoch)).permutation(count))
        whole = count if keep_last or count < size else count - count % size
        yield from order[:whole].to(self.clip.device).split(size)

    def tensor(self, name: str) -> Tensor:
        """A learned or built tensor by its name in a checkpoint."""
        found: Tensor = self.learned.state_dict(keep_vars=True)[name]
        return found


class DescendsOnFeatures(OnFeatures):
    """A method on frozen features that trains some of its tensors by gradient after `build`."""

    @property
    def epochs(self) -> int:
        return int(self.cfg.OPTIM.MAX_EPOCH)

    @property
    def passes(self) -> int:
        return self.epochs

    @property
    @abstractmethod
    def rate_steps(self) -> int:
        """T of the learning rate ½ LR (1 + cos(π t / T)) at step t. It is known after `build`."""

    @abstractmethod
    def batches(self, images: Images, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        """The arguments of `feature_loss`, one tuple per step."""

    @abstractmethod
    def feature_loss(self, *batch: Tensor) -> Tensor:
        """The loss of a step, a scalar."""
