"""Methods whose checkpoints hold other tensors too, and their own under a prefix."""

from collections.abc import Mapping

from torch import Tensor
from yacs.config import CfgNode

from nerp.clip.model import Clip
from nerp.trainers.base import Trainer


class Prefixed(Trainer):
    """A class lists it before the method among its bases.

    Class attributes: own_prefix: the prefix of the method's own tensors in a checkpoint.
    """

    own_prefix = ""

    @classmethod
    def infer(
        cls, tensors: Mapping[str, Tensor], settings: CfgNode, clip: Clip
    ) -> dict[str, object]:
        return super().infer(cls.without_prefix(tensors), settings, clip)

    @classmethod
    def fits(cls, tensors: Mapping[str, Tensor]) -> bool:
        return super().fits(cls.without_prefix(tensors))

    @classmethod
    def without_prefix(cls, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors under the names that the method itself uses."""
        return {name.removeprefix(cls.own_prefix): tensor for name, tensor in tensors.items()}

    def initial(self) -> dict[str, Tensor]:
        return {self.own_prefix + name: tensor for name, tensor in super().initial().items()}

    def parameter(self, name: str) -> Tensor:
        return super().parameter(self.own_prefix + name)
