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
    """Frozen features of a run's images, [N, D], of any length, as the image encoder gives them.

    Each set is encoded once and kept for later runs. Nothing here says a tested image's label.
    """

    def plain(self, split: str) -> Tensor:
        """Of the images of "train", "val" or "test" after the test transform."""

    def drawn(
        self, number: int, which: Sequence[int] | None = None, split: str = "train"
    ) -> Tensor:
        """Of the images after the random transform, drawn anew for each `number`.

        Args: which: their places in the list, one perhaps twice, each then drawn for itself.
        """

    def labels(self, split: str) -> Tensor:
        """[N] of "train" or "val"."""

    def texts(self, texts: list[str], encode: Callable[[list[str]], Tensor]) -> Tensor:
        """`encode(texts)`, features [n, D], which an interrupted run finds again."""

    @property
    def validates_on_tested(self) -> bool:
        """Whether validation images are tested too, as ImageNet's are."""


class OnFeatures(Trainer):
    """A method whose images have frozen CLIP's features, and whose tensors belong to the images or
    classes that it was trained on.

    Attributes:
        trained: the names of those classes, in the order of their labels.
    """

    group = "training-free"
    on_features = True
    trained: tuple[str, ...] = ()

    @property
    def epochs(self) -> int:
        """As a checkpoint's name counts them; 0: there are none."""
        return 0

    @property
    def passes(self) -> int:
        """How many times at most a training asks for `Images.drawn`."""
        return 1

    @abstractmethod
    def build(self, images: Images) -> None:
        """Have the tensors that need no gradient, or from which the steps begin."""

    def finish(self, images: Images) -> None:
        """What follows the last step."""

    @abstractmethod
    def of_features(self) -> Callable[[Tensor], Tensor]:
        """Logits [B, C] of image features f [B, D], the class features computed once."""

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
        """Labels [N] among the classes trained on as labels among those asked about, or -1."""
        return columns_by_name(labels, self.trained, self.classes.names)

    def shuffled(self, count: int, epoch: int, keep_last: bool) -> Iterator[Tensor]:
        """The places 0..count-1 in batches, in another order each epoch."""
        size = self.cfg.DATALOADER.TRAIN_X.BATCH_SIZE
        order = torch.from_numpy(np.random.default_rng((self.cfg.SEED, epoch)).permutation(count))
        whole = count if keep_last or count < size else count - count % size
        yield from order[:whole].to(self.clip.device).split(size)

    def tensor(self, name: str) -> Tensor:
        """A learned or built tensor by its name in a checkpoint."""
        found: Tensor = self.learned.state_dict(keep_vars=True)[name]
        return found


class DescendsOnFeatures(OnFeatures):
    """A method on frozen features some of whose tensors take gradient steps after it is built."""

    @property
    def epochs(self) -> int:
        return int(self.cfg.OPTIM.MAX_EPOCH)

    @property
    def passes(self) -> int:
        return self.epochs

    @property
    @abstractmethod
    def rate_steps(self) -> int:
        """T of the rate, ½ LR (1 + cos(π t / T)), which changes with every step t. Known when it is
        built."""

    @abstractmethod
    def batches(self, images: Images, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        """What `feature_loss` is called with, step by step."""

    @abstractmethod
    def feature_loss(self, *batch: Tensor) -> Tensor:
        """The loss of a step, a scalar."""
