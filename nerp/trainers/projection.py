"""A learned projection of image features, with BatchNorm over the images of a training step."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nerp.base.distributed import sum_over_processes, world_size
from nerp.clip.model import normalise
from nerp.trainers.base import Trainer

_MOMENTUM, _EPSILON = 0.1, 1e-5  # PyTorch's
_NAME = "VPT_image_trans.conv1."
FIRST = f"{_NAME}0.weight"
RUNNING = r"VPT_image_trans\.conv1\.1\.(running_mean|running_var|num_batches_tracked)"


def batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, training: bool
) -> Tensor:
    """x [B, D] in float32 with each component normalised, times weight [D] plus bias [D].

    Args: mean, variance: running values [D]. In training the mean and variance of the batch over
        all processes are used instead. The running values then move towards them in place; for the
        variance, towards the one with divisor B - 1.
    """
    x = x.float()
    if not training or world_size() == 1:
        return F.batch_norm(x, mean, variance, weight, bias, training, _MOMENTUM, _EPSILON)
    count = sum_over_processes(x.new_full((), len(x)))
    own_mean = sum_over_processes(x.sum(0)) / count
    own_variance = sum_over_processes((x - own_mean).square().sum(0)) / count
    with torch.no_grad():
        mean.lerp_(own_mean, _MOMENTUM)
        variance.lerp_(own_variance * count / (count - 1), _MOMENTUM)
    return (x - own_mean) * (own_variance + _EPSILON).rsqrt() * weight + bias


class Projecting(Trainer):
    """A method whose image features are A₃ relu(BatchNorm(A₀ u + b₀)) + b₃, normalised; u is the
    image encoder's output."""

    def fresh_projection(self, out: int) -> dict[str, Tensor]:
        """Initial tensors of the projection from D to `out`, as PyTorch initialises 1 x 1
        convolutions and BatchNorm."""
        parts = {0: nn.Conv2d(self.clip.embed_dim, out, 1), 1: nn.BatchNorm1d(out),
                 3: nn.Conv2d(out, out, 1)}
        return {f"{_NAME}{place}.{name}": tensor for place, part in parts.items()
                for name, tensor in part.state_dict().items()}

    def projected(self, u: Tensor, training: bool) -> Tensor:
        """f [B, out] from u [B, D]. In training it uses the batch's statistics and updates the
        running ones."""
        weight, bias = (self.parameter(f"{_NAME}1.{name}") for name in ("weight", "bias"))
        mean, variance, steps = (self.learned.get_buffer(f"{_NAME}1.{name}") for name in (
            "running_mean", "running_var", "num_batches_tracked"))
        if training:
            steps += 1
        h = batch_norm(self._map(0, u), weight, bias, mean, variance, training)
        return normalise(self._map(3, h.relu()))

    def _map(self, place: int, x: Tensor) -> Tensor:
        weight, bias = (self.parameter(f"{_NAME}{place}.{name}") for name in ("weight", "bias"))
        return F.linear(x, weight.flatten(1), bias)
