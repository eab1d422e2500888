"""Backbones by open_clip's names: the towers' features are open_clip's own, the rest is refused."""

import json
import socket
from copy import deepcopy

import open_clip
import pytest
import torch
from open_clip.factory import get_model_config, load_checkpoint
from open_clip.model import CLIP
from open_clip.pretrained import get_pretrained_cfg

from nerp.base.errors import NerpError
from nerp.clip import backbones, reach
from nerp.clip.backbones import find_backbone, licence, model_config, reason_against, supported
from nerp.clip.loading import load_model
from nerp.clip.model import Clip, build_clip, normalise
from nerp.settings.resolve import Request, resolve
from nerp.trainers.deep import entering

CPU = torch.device("cpu")
PLAIN = [name for name in open_clip.list_models()
         if name.startswith(("ViT-", "RN")) and not reason_against(get_model_config(name))]


def small(config, pixels=3):
    """A configuration with two heads a tower, two layers and few pixels; the rest as it is."""
    config = deepcopy(config)
    vision, text = config["vision_cfg"], config["text_cfg"]
    config["embed_dim"] = 32
    if isinstance(vision["layers"], int):
        vision |= {"layers": 2, "width": 2 * vision.get("head_width", 64),
                   "image_size": pixels * vision["patch_size"]}
    else:
        vision |= {"layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "image_size": 64}
    text |= {"layers": 2, "width": 64, "heads": 2}
    return config


def reference(config, quick_gelu, seed=0):
    """open_clip's own model of a configuration, with no weight left as it is initialised."""
    torch.manual_seed(seed)
    model = CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"],
                 quick_gelu=quick_gelu).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.logit_scale.fill_(4.0)
    return model


TEXTS = ["a photo of a crow.", "a long-eared owl"]


@torch.no_grad()
def features(model):
    images = torch.randn(2, 3, *open_clip.transform.to_2tuple(model.visual.image_size),
                         generator=torch.Generator().manual_seed(1))
    return images, model.encode_image(images), model.encode_text(open_clip.tokenize(TEXTS))


def assert_same(clip, images, image, text, **within):
    torch.testing.assert_close(clip.image_features(images), normalise(image), **within)
    torch.testing.assert_close(normalise(clip.text_features(TEXTS)), normalise(text), **within)


@pytest.mark.parametrize("name", PLAIN)
def test_the_features_of_every_architecture_are_open_clips(name, tmp_path):
    config = small(get_model_config(name))
    quick = bool(config.get("quick_gelu"))
    model = reference(config, quick)
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    loaded = load_model(tmp_path / "clip.pt", "quick_gelu" if quick else "gelu", config)
    clip = Clip(loaded, "fp32", CPU, name)
    assert clip.scale == pytest.approx(float(torch.tensor(4.0).exp()))
    assert_same(clip, *features(model), rtol=1e-4, atol=1e-5)
    if not name.startswith("RN"):  # and this is no matter of tolerance
        other = load_model(tmp_path / "clip.pt", "gelu" if quick else "quick_gelu", config)
        with pytest.raises(AssertionError):
            assert_same(Clip(other, "fp32", CPU, name), *features(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("extra", [
    {"ls_init_value": 0.1}, {"no_ln_pre": True}, {"norm_kwargs": {"eps": 1e-3}},
    {"patch_dropout": 0.5}, {"pos_embed_type": "sin_cos_2d"}, {"final_ln_after_pool": True},
    {"mlp_ratio": 4.3637, "head_width": 88},
])
def test_settings_that_a_repository_may_have_are_followed(extra, tmp_path):
    config = small(get_model_config("ViT-B-32"))
    config["vision_cfg"] |= extra
    config["vision_cfg"]["width"] = 2 * config["vision_cfg"].get("head_width", 64)
    assert reason_against(config) == ""
    model = reference(config, False)
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    clip = Clip(load_model(tmp_path / "clip.pt", "gelu", config), "fp32", CPU, "")
    assert_same(clip, *features(model), rtol=1e-4, atol=1e-5)


def test_prompts_enter_a_backbone_without_a_first_norm_as_they_are(tmp_path):
    config = small(get_model_config("ViT-B-32"))
    config["vision_cfg"] |= {"no_ln_pre": True}
    torch.save(reference(config, False).state_dict(), tmp_path / "clip.pt")
    clip = Clip(load_model(tmp_path / "clip.pt", "gelu", config), "fp32", CPU, "")
    tokens = {1: torch.ones(2, clip.image.width), 2: torch.zeros(2, clip.image.width)}
    assert all(entering(clip, tokens)[layer] is tokens[layer] for layer in tokens)


def test_a_file_with_layer_scale_needs_the_name_of_a_backbone_that_has_it(tmp_path):
    plain = small(get_model_config("ViT-B-32"))
    scaled = deepcopy(plain)
    scaled["vision_cfg"]["ls_init_value"] = scaled["text_cfg"]["ls_init_value"] = 0.1
    torch.save(reference(scaled, False).state_dict(), tmp_path / "clip.pt")
    for config, whose in ((None, "plain CLIP does not have"), (plain, "no backbone of that name")):
        with pytest.raises(NerpError, match=rf"it holds .*ls_1.gamma, .* 5 more, which {whose}"):
            load_model(tmp_path / "clip.pt", "gelu", config)
    assert load_model(tmp_path / "clip.pt", "gelu", scaled)


@pytest.mark.parametrize("name", ["ViT-H-14", "ViT-g-14"])
def test_a_file_alone_tells_the_heads_of_the_large_ones(name, tmp_path):
    config = small(get_model_config(name), pixels=1)
    config["vision_cfg"] |= {"layers": 1, "width": get_model_config(name)["vision_cfg"]["width"]}
    model = reference(config, False)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "epoch_1.pt")
    config["text_cfg"]["heads"] = 1
    reading = load_model(tmp_path / "epoch_1.pt")
    heads = reading.visual.transformer.resblocks[0].attn.num_heads
    assert heads == model.visual.transformer.resblocks[0].attn.num_heads == 16
    images, image, _ = features(model)
    torch.testing.assert_close(Clip(reading, "fp32", CPU, "").image_features(images),
                               normalise(image), rtol=1e-4, atol=1e-5)


def test_position_embeddings_are_interpolated_as_open_clip_does(tmp_path):
    config = small(get_model_config("ViT-B-16"))
    torch.save(reference(config, True).state_dict(), tmp_path / "clip.pt")
    larger = small(get_model_config("ViT-B-16"), pixels=5)
    model = reference(larger, True, seed=2)
    load_checkpoint(model, str(tmp_path / "clip.pt"))
    clip = Clip(load_model(tmp_path / "clip.pt", "quick_gelu", config, size=80), "fp32", CPU, "")
    assert clip.size == 80
    assert_same(clip, *features(model), rtol=1e-4, atol=1e-5)
    with pytest.raises(NerpError, match="INPUT.SIZE is 81; this backbone takes multiples .* 16"):
        load_model(tmp_path / "clip.pt", "quick_gelu", config, size=81)


@pytest.mark.parametrize("name, reason", [
    ("ViT-B-16-SigLIP", "its image encoder is timm's vit_base_patch16_siglip_224"),
    ("convnext_base", "its image encoder is timm's convnext_base"),
    ("xlm-roberta-base-ViT-B-32", "its text encoder is xlm-roberta-base, not CLIP's"),
    ("coca_ViT-B-32", "it writes captions"),
    ("ViT-L-14-CLIPA", "its prompts are tokenised as bert-base-uncased does"),
])
def test_what_cannot_work_is_refused_by_name_with_the_reason(name, reason):
    with pytest.raises(NerpError, match=f"backbone {name} cannot be used: {reason}"):
        model_config(name)


@pytest.mark.parametrize("part, key, value", [
    ("vision_cfg", "pool_type", "avg"), ("vision_cfg", "qk_norm", True),
    ("text_cfg", "no_causal_mask", True), ("vision_cfg", "a_setting_of_tomorrow", 1),
    ("text_cfg", "context_length", 32),
])
def test_a_setting_that_the_towers_do_not_know_is_refused(part, key, value):
    config = get_model_config("ViT-B-16")
    config[part][key] = value
    assert str(value) in reason_against(config)


def test_every_listed_model_is_either_run_or_refused_with_a_reason():
    runs = supported()
    assert set(runs) <= set(PLAIN)  # whose features are compared with open_clip's above
    assert {"ViT-B-16", "ViT-L-14", "ViT-H-14", "ViT-bigG-14", "RN50"} <= set(runs)
    for name in set(open_clip.list_models()) - set(runs):
        assert reason_against(get_model_config(name)) or \
            not open_clip.list_pretrained_tags_by_model(name), name


@pytest.mark.parametrize("name", supported())
def test_every_tag_has_its_own_activation_and_preprocessing(name):
    for tag in open_clip.list_pretrained_tags_by_model(name):
        told = get_pretrained_cfg(name, tag)
        found = find_backbone(f"{name}:{tag}")
        assert (found.activation == "quick_gelu") == bool(told.get("quick_gelu"))
        assert found.inputs["INPUT.PIXEL_MEAN"] == list(told["mean"])
        assert found.inputs["INPUT.RESIZE_MODE"] == told["resize_mode"]


@pytest.mark.parametrize("name, key, value", [
    ("ViT-L-14:laion2b_s32b_b82k", "PIXEL_MEAN", [0.5, 0.5, 0.5]),
    ("ViT-H-14:dfn5b", "RESIZE_MODE", "squash"),
])
def test_the_configuration_follows_what_a_backbone_was_trained_with(name, key, value, caplog):
    with caplog.at_level("INFO", "nerp"):
        cfg = resolve(Request("CoOp", "eurosat", opts=["MODEL.BACKBONE.NAME", name])).cfg
    assert cfg.INPUT[key] == value
    assert f"INPUT.{key} " in caplog.text and f"which {name} was trained with" in caplog.text


@pytest.mark.parametrize("name, message", [
    ("ViT-B-16:laion2b", "unknown weights of ViT-B-16 'laion2b'. .*laion2b_s34b_b88k"),
    ("ViT-S-16:openai", "open_clip lists no weights of ViT-S-16"),
    ("ViT-B-17:openai", "unknown backbone 'ViT-B-17'. Did you mean ViT-B-16"),
])
def test_names_that_do_not_exist(name, message):
    with pytest.raises(NerpError, match=message):
        find_backbone(name)


def test_a_tag_and_a_repository_come_through_open_clips_loader(monkeypatch, tmp_path):
    config = small(get_model_config("ViT-B-16"))
    model = reference(config, False)
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    content = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))

    def from_hub(repository, filename="open_clip_pytorch_model.bin"):
        return str(tmp_path / filename)

    monkeypatch.setattr("open_clip.pretrained.download_pretrained_from_hf", from_hub)
    monkeypatch.setattr("open_clip.pretrained.download_pretrained",
                        lambda cfg: from_hub(cfg["hf_hub"]))
    monkeypatch.setattr(backbones, "model_config", lambda name: config)
    for name in ("ViT-B-16:laion2b_s34b_b88k", "hf-hub:owner/name"):
        clip, _ = build_clip(name, "", "auto", "fp32", CPU)
        assert clip.name == name
        assert_same(clip, *features(model), rtol=1e-4, atol=1e-5)
    assert find_backbone("hf-hub:owner/name").inputs == {"INPUT.PIXEL_MEAN": [0.5, 0.4, 0.3]}
    content["model_cfg"]["vision_cfg"]["pool_type"] = "avg"
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    with pytest.raises(NerpError, match="hf-hub:owner/name cannot be used: its vision_cfg.pool"):
        find_backbone("hf-hub:owner/name")
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(NerpError, match="is no open_clip configuration"):
        find_backbone("hf-hub:owner/name")


def test_without_a_network_it_says_what_to_fetch(monkeypatch):
    def fail(*args, **kwargs):
        raise FileNotFoundError("no route to host")

    monkeypatch.setattr("open_clip.pretrained.download_pretrained", fail)
    backbone = find_backbone("ViT-B-16:datacomp_xl_s13b_b90k")
    with pytest.raises(NerpError, match="no route to host.*Fetch https://.*DataComp.*BACKBONE.PATH"):
        backbone.fetch()


def test_the_command_lists_sizes_methods_tags_and_licences(nerp):
    status, out, error = nerp("backbones", "ViT-B-16", "tiny")
    assert status == 0, error
    assert "laion2b_s34b_b88k" in out
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("tiny ")] == ["all"]
    assert "licence of metaclip: CC-BY-NC-4.0" in out
    assert "licence of openai: not stated" in out  # rather than guessed
    assert licence("unheard_of").startswith("unknown")
    status, _, error = nerp("backbones", "ViT-B-16-SigLIP")
    assert status == 1 and "timm's vit_base" in error


@pytest.mark.parametrize(("reached", "proxy"), [(False, False), (True, False), (False, True)])
def test_without_a_network_only_what_is_there_is_taken_and_nothing_is_tried_again(
    reached, proxy, monkeypatch
):
    from huggingface_hub import constants

    def connect(address, timeout):
        assert address == ("huggingface.co", 443) and timeout <= 5
        if not reached:
            raise OSError("no network")
        return socket.socket()

    monkeypatch.setattr("socket.create_connection", connect)
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "there"} if proxy else {})
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with reach.without_waiting():
        assert (not reached and not proxy) == constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE


def test_weights_out_of_reach_are_one_line_at_once(monkeypatch, tmp_path, capfd):
    from huggingface_hub import constants

    monkeypatch.setattr(reach, "_reachable", lambda: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(NerpError, match="could not be fetched .*MODEL.BACKBONE.PATH"):
        find_backbone("ViT-B-16:datacomp_xl_s13b_b90k").fetch()
    assert capfd.readouterr() == ("", "")
