"""The towers against open_clip's own full-length forward."""

import pytest
import torch
from conftest import EUROSAT, TEMPLATE
from plain_methods import padded
from tiny_clip import Sizes, open_clip_model, random_clip

from nerp.base.errors import NerpError
from nerp.clip.loading import load_model
from nerp.clip.model import _CACHE, Clip
from nerp.clip.tokenizer import CONTEXT_LENGTH, beside_name, build_prompts, tokenize
from nerp.clip.towers import FROZEN, Edit

PROMPTS = [
    [TEMPLATE.format(name) for name in EUROSAT],
    [f"{name} texture." for name in EUROSAT],
    ["a photo of a cat.", "a photo of a cat.", "a photo"],
    ["one prompt alone"],
]


@pytest.mark.parametrize("texts", PROMPTS)
def test_text_cut_at_the_longest_end_of_text_is_exact(texts, golden_clip, golden_model):
    wanted = golden_model.encode_text(padded(texts))
    torch.testing.assert_close(golden_clip.text_features(texts), wanted, atol=1e-5, rtol=1e-5)
    assert build_prompts(texts).ids.shape[1] < CONTEXT_LENGTH


def test_a_prompt_of_77_tokens_is_read_whole(golden_clip, golden_model):
    texts = ["word " * 75, "a photo"]
    wanted = golden_model.encode_text(padded(texts))
    torch.testing.assert_close(golden_clip.text_features(texts), wanted, atol=1e-5, rtol=1e-5)


def test_a_longer_prompt_is_refused():
    with pytest.raises(NerpError, match="78 tokens"):
        tokenize("word " * 76)


def test_images(golden_clip, golden_model, inputs):
    wanted = golden_model.encode_image(inputs[0], normalize=True)
    torch.testing.assert_close(golden_clip.image_features(inputs[0]), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("together", [1, 2, 3])
def test_images_encoded_a_few_at_a_time_have_the_same_features(
    together, golden_clip, inputs, monkeypatch
):
    images = inputs[0][:5]
    wanted = golden_clip.image_features(images)
    sizes = []
    embed = golden_clip.image.embed

    def count(images):
        sizes.append(len(images))
        return embed(images)

    monkeypatch.setattr(golden_clip.image, "embed", count)
    an_image = _CACHE // golden_clip._images_at_once(images)
    monkeypatch.setattr("nerp.clip.model._CACHE", together * an_image)
    torch.testing.assert_close(golden_clip.image_features(images), wanted, atol=1e-6, rtol=0)
    assert sizes[0] == together and sum(sizes) == 5


@pytest.mark.parametrize("layer", [1, 2, 4])
def test_frozen_layers_may_be_computed_ahead(layer, golden_clip, inputs):
    state = golden_clip.image.embed(inputs[0])
    ahead = golden_clip.image.advance(state, layer)
    assert ahead.layer == layer and not ahead.x.requires_grad
    torch.testing.assert_close(
        golden_clip.image.features(ahead), golden_clip.image.features(state), atol=0, rtol=0
    )


def test_an_edit_sees_every_layer_once(golden_clip, inputs):
    class Recorder(Edit):
        def __init__(self):
            self.entered, self.left = [], []

        def enter(self, layer, x):
            self.entered.append(layer)
            return x

        def branch(self, layer, h):
            self.left.append(layer)
            return torch.zeros_like(h)

    for tower, state in (
        (golden_clip.image, golden_clip.image.embed(inputs[0])),
        (golden_clip.text, golden_clip.text_state(build_prompts(PROMPTS[0]))),
    ):
        edit = Recorder()
        torch.testing.assert_close(
            tower.features(state, edit), tower.features(state, FROZEN), atol=0, rtol=0
        )
        assert edit.entered == edit.left == [1, 2, 3, 4]


def test_towers_of_different_depth_and_width(tmp_path):
    sizes = Sizes(embed=32, pixels=24, patch=12, vision_width=64, vision_layers=1,
                  text_width=192, text_layers=3, vocabulary=49408)
    path = tmp_path / "clip.pt"
    torch.save(random_clip(3, sizes), path)
    model = open_clip_model(random_clip(3, sizes))
    clip = Clip(load_model(path), "fp32", torch.device("cpu"), "odd")
    assert (clip.size, clip.embed_dim, clip.image.depth, clip.text.depth) == (24, 32, 1, 3)
    images = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(
        clip.image_features(images), model.encode_image(images, normalize=True), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        clip.text_features(PROMPTS[0]), model.encode_text(padded(PROMPTS[0])), atol=1e-5, rtol=1e-5
    )


def test_shared_start_ends_where_prompts_differ_or_the_shortest_stops():
    assert build_prompts(["a photo of a cat.", "a photo of a dog."]).shared == 5
    assert build_prompts(["a photo", "a photo of"]).shared == 3
    assert build_prompts(["cat", "dog"]).shared == 1
    assert build_prompts(["a cat"]).shared == 4


def test_context_slots():
    prompts = build_prompts(["X X cat.", "X X sea lake."], n_ctx=2, names=["cat", "sea lake"])
    assert prompts.slots.tolist() == [[-1, 0, 1, -1, -1, -1, -1], [-1, 0, 1, -1, -1, -1, -1]]
    assert prompts.shared == 3
    front = build_prompts(
        ["X X cat.", "X X sea lake."], n_ctx=2, names=["cat", "sea lake"], position="front"
    )
    assert front.slots.tolist() == [[-1, -1, 0, 1, -1, -1, -1], [-1, -1, -1, 0, 1, -1, -1]]
    specific = build_prompts(["X X cat.", "X X dog."], n_ctx=2, class_specific=True)
    assert specific.slots[:, 1:3].tolist() == [[0, 1], [2, 3]] and specific.shared == 1


def test_slots_on_both_sides_of_the_name_number_the_vectors_in_turn():
    names = ["cat", "sea lake"]
    places = [beside_name(2, name, after=2) for name in names]
    prompts = build_prompts([f"a big {name} texture." for name in names], slots_at=places)
    assert prompts.slots.tolist() == [
        [-1, 0, 1, -1, 2, 3, -1, -1], [-1, 0, 1, -1, -1, 2, 3, -1]]
    assert prompts.slots_in_ends and prompts.shared == 3


def test_slots_may_leave_tokens_between_them_and_reach_beyond_end_of_text():
    prompts = build_prompts(["a photo"], slots_at=[[1, 5]], min_length=3)
    assert prompts.slots.tolist() == [[-1, 0, -1, -1, -1, 1]]
    assert prompts.eot.tolist() == [3]
