"""Backbone files of every kind, and files that are none."""

import json
import urllib.error

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tiny_clip import Sizes, random_clip

from nerp.base.errors import NerpError
from nerp.clip import loading
from nerp.clip.loading import load_model, weights_file

SMALL = Sizes(embed=32, pixels=16, vision_width=64, vision_layers=2, text_width=64, text_layers=2)


@pytest.fixture(scope="module")
def state():
    return random_clip(1, SMALL)


def same(model, state):
    found = model.state_dict()
    return set(found) == set(state) and all(torch.equal(found[n], state[n]) for n in state)


def test_plain_state_dict(tmp_path, state):
    torch.save(state, tmp_path / "clip.pt")
    model = load_model(tmp_path / "clip.pt")
    assert same(model, state)
    assert not any(p.requires_grad for p in model.parameters()) and not model.training
    block = model.visual.transformer.resblocks[0]
    assert type(block.mlp.gelu).__name__ == "QuickGELU" and block.attn.num_heads == 1


def test_half_precision_and_openai_extras(tmp_path, state):
    stored = {name: tensor.half() for name, tensor in state.items()}
    stored |= {"input_resolution": torch.tensor(16), "context_length": torch.tensor(77),
               "vocab_size": torch.tensor(49408)}
    torch.save(stored, tmp_path / "clip.pt")
    model = load_model(tmp_path / "clip.pt")
    assert model.visual.proj.dtype == torch.float32
    torch.testing.assert_close(model.visual.proj, state["visual.proj"])


def test_torchscript_archive(tmp_path, state):
    class Archive(torch.nn.Module):
        def forward(self, x):
            return x

    archive = Archive()
    for name, tensor in state.items():
        *parents, leaf = name.split(".")
        module = archive
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, Archive())
            module = getattr(module, parent)
        module.register_parameter(leaf, torch.nn.Parameter(tensor))
    torch.jit.trace(archive, torch.zeros(1)).save(tmp_path / "ViT.pt")
    assert same(load_model(tmp_path / "ViT.pt"), state)


@pytest.mark.parametrize("activation, said", [("auto", True), ("gelu", False)])
def test_where_a_file_does_not_say_its_activation_one_line_names_the_choice(
    activation, said, tmp_path, state, caplog
):
    torch.save({"state_dict": state}, tmp_path / "tuned.pt")
    load_model(tmp_path / "tuned.pt", activation)
    torch.save(state, tmp_path / "plain.pt")
    load_model(tmp_path / "plain.pt")
    line = (f"{tmp_path}/tuned.pt does not say its activation: GELU, as in open_clip's own "
            "training; weights fine-tuned from OpenAI's need MODEL.BACKBONE.ACTIVATION quick_gelu")
    assert caplog.messages == [line] * said


@pytest.mark.parametrize("name", loading.PUBLISHED)
def test_the_published_backbones_are_read_from_their_tensors(name, tmp_path):
    config = open_clip.get_model_config(loading.PUBLISHED[name])
    vision = open_clip.CLIPVisionCfg(**config["vision_cfg"])
    with torch.device("meta"):
        model = open_clip.CLIP(config["embed_dim"], vision, open_clip.CLIPTextCfg(
            **config["text_cfg"]))
    found, text, embed = loading._architecture(model.state_dict(), tmp_path / "clip.pt")
    stated = {key: getattr(vision, key) for key in found}
    if not isinstance(vision.layers, int):
        stated["layers"] = tuple(stated["layers"])
    assert (found, embed) == (stated, config["embed_dim"])
    assert text["layers"] == config["text_cfg"]["layers"]
    assert open_clip.get_pretrained_url(loading.PUBLISHED[name], "openai").startswith("https://")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_open_clip_training_checkpoint(tmp_path, state, prefix):
    content = {"epoch": 3, "name": "run", "state_dict": {prefix + n: t for n, t in state.items()},
               "optimizer": {"param_groups": []}}
    torch.save(content, tmp_path / "epoch_3.pt")
    model = load_model(tmp_path / "epoch_3.pt")
    assert same(model, state)
    assert type(model.transformer.resblocks[0].mlp.gelu).__name__ == "GELU"
    forced = load_model(tmp_path / "epoch_3.pt", activation="quick_gelu")
    assert type(forced.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"


def test_safetensors(tmp_path, state):
    save_file(state, tmp_path / "clip.safetensors", metadata={"activation": "gelu"})
    model = load_model(tmp_path / "clip.safetensors")
    assert same(model, state)
    assert type(model.transformer.resblocks[0].mlp.gelu).__name__ == "GELU"


def test_token_rows_that_never_occur_need_no_bytes(tmp_path, state):
    rows = torch.tensor([320, 1125, 49406, 49407])
    table = state["token_embedding.weight"]
    stored = state | {"token_embedding.weight": table[rows], "token_embedding.rows": rows}
    save_file(stored, tmp_path / "clip.safetensors")
    model = load_model(tmp_path / "clip.safetensors")
    found = model.token_embedding.weight
    assert found.shape == table.shape and torch.equal(found[rows], table[rows])
    assert int((found != 0).any(1).sum()) == len(rows)


def test_resnet(tmp_path):
    model = open_clip.create_model("RN50", load_weights=False)
    torch.save(model.state_dict(), tmp_path / "RN50.pt")
    loaded = load_model(tmp_path / "RN50.pt")
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode_image(image), model.eval().encode_image(image))


def refused(path, match):
    with pytest.raises(NerpError, match=match) as error:
        load_model(path)
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(NerpError, match="no file .*none.pt; expected CLIP weights"):
        weights_file("ViT-B/16", str(tmp_path / "none.pt"))


@pytest.mark.parametrize("name", ["clip.pt", "clip.safetensors"])
def test_not_weights_at_all(tmp_path, name):
    path = tmp_path / name
    path.write_text(json.dumps({"hello": "world"}) * 100)
    refused(path, name)


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_truncated_file(tmp_path, state, keep):
    path = tmp_path / "clip.pt"
    torch.save(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    refused(path, "clip.pt")


def test_missing_and_wrong_tensors(tmp_path, state):
    path = tmp_path / "clip.pt"
    torch.save({n: t for n, t in state.items() if n != "visual.ln_post.bias"}, path)
    refused(path, "lacks visual.ln_post.bias")
    torch.save({n: t for n, t in state.items() if n != "text_projection"}, path)
    refused(path, "no tensor 'text_projection'")
    torch.save(state | {"visual.proj": torch.zeros(64, 31)}, path)
    refused(path, r"visual.proj is \(64, 31\), the other tensors imply \(64, 32\)")
    torch.save([1, 2], path)
    refused(path, "holds a list")


@pytest.mark.parametrize("name", [
    "visual.transformer.resblocks.0.ls_1.gamma", "transformer.resblocks.1.ls_2.gamma",
    "visual.attn_pool.query", "transformer.resblocks.0.attn.ln_q.weight", "text_projection.bias",
])
def test_parts_that_plain_clip_does_not_have_are_not_left_out_in_silence(name, tmp_path, state):
    torch.save(state | {name: torch.ones(64)}, tmp_path / "clip.pt")
    refused(tmp_path / "clip.pt", f"it holds {name}, which plain CLIP does not have; MODEL")


def test_what_no_feature_depends_on_may_be_in_the_file(tmp_path, state):
    idle = {"attn_mask": torch.zeros(77, 77), "logit_bias": torch.tensor(-10.0)}
    torch.save(state | idle, tmp_path / "clip.pt")
    assert same(load_model(tmp_path / "clip.pt"), state)


def test_width_that_is_no_multiple_of_a_head(tmp_path):
    odd = Sizes(embed=32, pixels=16, vision_width=80, vision_layers=1, text_width=64, text_layers=1)
    torch.save(random_clip(0, odd), tmp_path / "clip.pt")
    refused(tmp_path / "clip.pt", "width 80 is no multiple of 64")


def test_unknown_name():
    with pytest.raises(NerpError, match="unknown backbone 'ViT-B/17'. Did you mean ViT-B/16"):
        weights_file("ViT-B/17")


def test_no_network(monkeypatch):
    def fail(url, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("open_clip.pretrained.download_pretrained_from_url", fail)
    with pytest.raises(NerpError, match=r"no route to host.*Fetch https://.*ViT-B-16.pt where"):
        weights_file("ViT-B/16")


def test_published_names_are_open_clips():
    from open_clip.pretrained import get_pretrained_url

    assert all(get_pretrained_url(name, "openai") for name in loading.PUBLISHED.values())
