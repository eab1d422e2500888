"""The parts of a transformer block, with as few passes over the activations as possible."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nerp.clip.modules import Block, Hidden

Affine = tuple[Tensor, Tensor]  # a norm's weight and bias, [W] each
Norms = tuple[Affine, Affine]  # of a block's `ln_1` and `ln_2`


def layer_norm(ln: nn.LayerNorm, x: Tensor, own: Affine | None = None) -> Tensor:
    """LayerNorm of x, computed in float32 whatever x's type is, as in OpenAI's implementation. The
    result has x's type. own: weight and bias to use instead of `ln`'s."""
    weight, bias = own or (ln.weight, ln.bias)
    y = F.layer_norm(x.float(), ln.normalized_shape, weight, bias, ln.eps)
    return y.to(x.dtype)


def hidden_layer(mlp: Hidden, x: Tensor) -> tuple[Tensor, float]:
    """The hidden layer [T, 4 W] of a block's MLP for x [T, W], and the factor by which the second
    layer's product must be multiplied.

    QuickGELU, x * sigmoid(1.702 x), is silu(1.702 x) / 1.702. The matrix products apply these
    factors, so that one pass over the hidden layer and one tensor for the gradient are enough.
    """
    if type(mlp.gelu).__name__ != "QuickGELU":  # ours, or open_clip's
        activated: Tensor = mlp.gelu(mlp.c_fc(x))
        return activated, 1.0
    weight, bias = mlp.c_fc.weight.t(), mlp.c_fc.bias
    # beta=0: addmm fills its output with the bias far slower than add_ adds it.
    hidden = torch.addmm(bias, x, weight, beta=0, alpha=1.702).add_(bias, alpha=1.702)
    return F.silu(hidden, inplace=not hidden.requires_grad), 1 / 1.702


def weighed(q: Tensor, x: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(scale q xᵀ) x [N, R, W], from q [N, R, W], x [N, L, W] and a mask [N, 1, L]."""
    if not torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, x, x, mask, scale=scale)
    # ONNX needs an axis of heads in attention.
    q, x, mask = q[:, None], x[:, None], mask if mask is None else mask[:, None]
    return F.scaled_dot_product_attention(q, x, x, mask, scale=scale)[:, 0]


def add_linear(
    x: Tensor, inputs: Tensor, linear: nn.Linear, gamma: Tensor | None, factor: float = 1.0
) -> Tensor:
    """x + gamma (factor A inputs + b) [T, W], with A and b the weight and bias of `linear`, inputs
    [T, K] and gamma [W]. gamma None stands for 1."""
    weight, bias = linear.weight.t(), linear.bias
    if gamma is None and x.dtype == weight.dtype:
        return (x + bias).addmm_(inputs, weight, alpha=factor)  # the product itself adds
    y = torch.addmm(bias, inputs, weight, alpha=factor)
    return x + (y if gamma is None else y * gamma.to(y.dtype))


def layer_scale(block: Block, name: str) -> Tensor | None:
    """gamma [W] of a block's LayerScale, which some of open_clip's blocks have; None without."""
    return getattr(getattr(block, name, None), "gamma", None)
