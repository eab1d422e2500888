"""Weights under transformers' names, against the model that the transformers package builds."""

import json
import shutil

import pytest
import torch

from nerp.base.errors import NerpError
from nerp.clip.loading import load_model
from nerp.clip.model import Clip, build_clip
from nerp.clip.tokenizer import encode

TEXTS = ["a photo of a cat.", "a dog", "a centered satellite photo of a river."]
WIDTHS = {"text": (128, 2), "vision": (192, 3)}  # and heads


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a small CLIPModel as save_pretrained writes it, and the model."""

    def save(activation):
        transformers = pytest.importorskip("transformers")
        parts = {
            f"{kind}_config": {
                "hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width,
                "num_hidden_layers": 2, "hidden_act": activation,
            } for kind, (width, heads) in WIDTHS.items()
        }
        parts["text_config"] |= {"eos_token_id": 49407}
        parts["vision_config"] |= {"image_size": 32, "patch_size": 8}
        torch.manual_seed(0)
        model = transformers.CLIPModel(transformers.CLIPConfig(**parts, projection_dim=64)).eval()
        folder = tmp_path_factory.mktemp(activation)
        model.save_pretrained(folder)
        return folder, model

    return save


def tensor(output):
    """What get_image_features gives, by itself or in an output with other things."""
    return getattr(output, "pooler_output", output)


def clip_of(folder):
    return Clip(load_model(folder / "model.safetensors"), "fp32", torch.device("cpu"), "renamed")


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@torch.no_grad()
def test_features_are_those_of_transformers(saved, activation):
    folder, model = saved(activation)
    clip = clip_of(folder)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    wanted = tensor(model.get_image_features(pixel_values=images))
    torch.testing.assert_close(clip.image_output(images), wanted, atol=1e-5, rtol=0)
    for text in TEXTS:
        ids = torch.tensor([[49406, *encode(text), 49407]])
        wanted = tensor(model.get_text_features(input_ids=ids))
        torch.testing.assert_close(clip.text_features([text]), wanted, atol=1e-5, rtol=0)
    assert clip.scale == pytest.approx(model.logit_scale.exp().item())


def test_the_configuration_beside_the_weights_is_part_of_what_they_are(saved, tmp_path):
    folder, _ = saved("gelu")
    file = folder / "model.safetensors"
    of_gelu = build_clip("ViT-B/16", str(file), "auto", "fp32", torch.device("cpu"))[0]
    alone = shutil.copy(file, tmp_path)
    without = build_clip("ViT-B/16", str(alone), "auto", "fp32", torch.device("cpu"))[0]
    assert "GELU" in of_gelu.description and "QuickGELU" in without.description
    assert of_gelu.digest != without.digest


@pytest.mark.parametrize(("part", "change", "says"), [
    ("text_config", {"hidden_act": "relu"}, "hidden_act is 'gelu, relu'"),
    ("vision_config", {"num_attention_heads": 4}, "vision_config has 4 heads in a width of 192"),
])
def test_what_is_no_clip_is_refused_by_name(saved, part, change, says):
    folder, _ = saved("gelu")
    config = folder / "config.json"
    content = json.loads(config.read_text())
    content[part] |= change
    config.write_text(json.dumps(content))
    with pytest.raises(NerpError, match=f"config.json: {says}"):
        clip_of(folder)


def test_a_damaged_file_is_refused_by_name(saved):
    from safetensors.torch import load_file, save_file

    folder, _ = saved("gelu")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = "text_model.encoder.layers.1.self_attn.k_proj.weight"
    save_file({key: value for key, value in tensors.items() if key != name}, file)
    with pytest.raises(NerpError, match=r"model.safetensors: .*in_proj_weight.* q_proj, v_proj"):
        clip_of(folder)
    save_file({**tensors, "text_model.extra.weight": torch.ones(2)}, file)
    with pytest.raises(NerpError, match="it holds text_model.extra.weight"):
        clip_of(folder)
