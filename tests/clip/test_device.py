"""What a GPU would do otherwise: TF32, and half precision where logits are made."""

import pytest
import torch
from open_clip.model import CLIP

from nerp.clip.device import float32_convolutions, in_float32
from nerp.clip.model import Clip


def tf32():
    """Whether cuDNN may compute a convolution in TF32."""
    cudnn = torch.backends.cudnn
    return cudnn.conv.fp32_precision != "ieee" if hasattr(cudnn, "conv") else cudnn.allow_tf32


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resnets_convolutions_are_not_in_tf32_and_the_setting_is_left_as_it_was(precision):
    vision = {"layers": [1, 1, 1, 1], "width": 64, "image_size": 32}
    text = {"width": 64, "heads": 1, "layers": 1, "vocab_size": 10, "context_length": 8}
    model = CLIP(32, vision, text).eval().requires_grad_(False)
    seen = []
    model.visual.layer4.register_forward_hook(lambda *_: seen.append(tf32()))
    assert tf32()
    Clip(model, precision, torch.device("cpu"), "RN").image_features(torch.zeros(2, 3, 32, 32))
    assert seen == [False] and tf32()


def test_the_setting_comes_back_after_an_error():
    with pytest.raises(ZeroDivisionError), float32_convolutions():
        assert not tf32()
        raise ZeroDivisionError
    assert tf32()


def test_products_outside_of_autocast():
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x.t()).dtype == torch.bfloat16
        with in_float32(x.device):
            inside = x @ x.t()
    assert torch.equal(inside, x @ x.t())
