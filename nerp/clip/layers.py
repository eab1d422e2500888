"""The parts of a block, in as few passes over the activations as they take."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Affine = tuple[Tensor, Tensor]  # a norm's weight and bias, [W] each
Norms = tuple[Affine, Affine]  # of a block's `ln_1` and `ln_2`


def layer_norm(ln: nn.LayerNorm, x: Tensor, own: Affine | None = None) -> Tensor:
    """LayerNorm in float32 whatever the type of x, as in OpenAI's implementation; with weight and
    bias of one's `own`."""
    weight, bias = own or (ln.weight, ln.bias)
    y = F.layer_norm(x.float(), ln.normalized_shape, weight, bias, ln.eps)
    return y.to(x.dtype)


def hidden_layer(mlp: nn.Sequential, x: Tensor) -> tuple[Tensor, float]:
    """A block's first linear layer and activation of x [T, W], [T, 4 W], and what its second
    layer's product is to be multiplied by.

    QuickGELU, x * sigmoid(1.702 x), is silu(1.702 x) / 1.702; the factors ride on the matrix
    products, which leaves one pass over the hidden layer and one tensor to keep for the gradient.
    """
    if type(mlp.gelu).__name__ != "QuickGELU":  # ours, or open_clip's
        return mlp[:-1](x), 1.0
    weight, bias = mlp.c_fc.weight.t(), mlp.c_fc.bias
    # beta=0: addmm fills its output with the bias far slower than add_ adds it.
    hidden = torch.addmm(bias, x, weight, beta=0, alpha=1.702).add_(bias, alpha=1.702)
    return F.silu(hidden, inplace=not hidden.requires_grad), 1 / 1.702


def weighed(q: Tensor, x: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(scale q xᵀ) x [N, R, W] of q [N, R, W], x [N, L, W] and a mask [N, 1, L]."""
    if not torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, x, x, mask, scale=scale)
    # A graph for ONNX, whose attention has an axis of heads.
    q, x, mask = q[:, None], x[:, None], mask if mask is None else mask[:, None]
    return F.scaled_dot_product_attention(q, x, x, mask, scale=scale)[:, 0]


def add_linear(
    x: Tensor, inputs: Tensor, linear: nn.Linear, gamma: Tensor | None, factor: float = 1.0
) -> Tensor:
    """x [T, W] + gamma (factor A inputs + b), A and b the weight and bias of a linear layer of
    inputs [T, K]; without gamma [W], 1."""
    weight, bias = linear.weight.t(), linear.bias
    if gamma is None and x.dtype == weight.dtype:
        return (x + bias).addmm_(inputs, weight, alpha=factor)  # the product itself adds
    y = torch.addmm(bias, inputs, weight, alpha=factor)
    return x + (y if gamma is None else y * gamma.to(y.dtype))


def layer_scale(block: nn.Module, name: str) -> Tensor | None:
    """gamma [W] of a block's LayerScale, which some of open_clip's have."""
    return getattr(getattr(block, name, None), "gamma", None)


def fill(x: Tensor, slots: Tensor, ctx: Tensor) -> Tensor:
    """x [..., W] with ctx[slots] where slots >= 0."""
    vectors = ctx.to(x.dtype)[..., slots.clamp(min=0), :]
    return torch.where((slots >= 0)[..., None], vectors, x)


def ends_mask(start: int, length: int, device: torch.device) -> Tensor:
    """[S, P + S]: the end's i-th token sees the whole start and the end up to itself."""
    return torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)
