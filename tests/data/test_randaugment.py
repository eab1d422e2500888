"""The sixteen operations at a third of their range, and the views made with them."""

import numpy as np
import pytest
import torch
from PIL import Image

from nerp.data import randaugment
from nerp.data.benchmark import Item
from nerp.data.images import train_set
from nerp.data.randaugment import OPERATIONS, RandAugment
from nerp.settings.defaults import default_config


@pytest.fixture
def noise():
    """An RGB image of 96 x 60 pixels without black."""
    pixels = np.random.default_rng(0).integers(1, 256, (60, 96, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def apply(name, image):
    return np.asarray(OPERATIONS[name](image)).astype(int)


def test_there_are_sixteen_and_each_keeps_size_and_mode(noise):
    before = np.asarray(noise).copy()
    assert len(OPERATIONS) == 16
    for name, operation in OPERATIONS.items():
        after = operation(noise)
        assert (after.size, after.mode) == (noise.size, "RGB"), name
        assert name in ("autocontrast", "equalise") or (np.asarray(after) != before).any(), name
    assert (np.asarray(noise) == before).all()


def test_what_changes_single_values(noise):
    x = np.asarray(noise).astype(int)
    assert (apply("invert", noise) == 255 - x).all()
    assert (apply("posterise", noise) == x // 8 * 8).all()
    assert (apply("solarise", noise) == np.where(x <= 85, x, 255 - x)).all()
    added = np.minimum(255, x + 36)
    assert (apply("add and solarise", noise) == np.where(added < 128, added, 255 - added)).all()
    assert (abs(apply("brightness", noise) - 0.7 * x) <= 1).all()
    grey = np.asarray(noise.convert("L")).astype(int)[..., None]
    assert (abs(apply("colour", noise) - (0.7 * x + 0.3 * grey)) <= 1).all()
    assert (abs(apply("contrast", noise) - (0.7 * x + 0.3 * round(grey.mean()))) <= 1).all()


@pytest.mark.parametrize(("name", "axis"), [("translate x", 1), ("translate y", 0)])
def test_a_translation_is_33_pixels_either_way_and_leaves_black(name, axis, noise):
    x, seen = np.asarray(noise).astype(int), set()
    for seed in range(8):
        torch.manual_seed(seed)
        moved = apply(name, noise)
        empty = (moved == 0).all(axis=(1 - axis, 2))
        left = bool(empty[0])
        seen.add(left)
        assert empty.sum() == 33
        kept = np.delete(moved, np.flatnonzero(empty), axis)
        size = kept.shape[axis]
        there = x.take(range(size) if left else range(33, 33 + size), axis)
        assert (kept == there).all()
    assert seen == {True, False}


def test_rotation_and_shear_go_either_way(noise):
    for name, ways in {
        "rotate": [noise.rotate(angle) for angle in (10, -10)],
        "shear x": [noise.transform(noise.size, Image.Transform.AFFINE, (1, s, 0, 0, 1, 0))
                    for s in (0.1, -0.1)],
        "shear y": [noise.transform(noise.size, Image.Transform.AFFINE, (1, 0, 0, s, 1, 0))
                    for s in (0.1, -0.1)],
    }.items():
        found = []
        for seed in range(8):
            torch.manual_seed(seed)
            after = apply(name, noise)
            found.append([(after == np.asarray(way)).all() for way in ways].index(True))
        assert set(found) == {0, 1}, name


def test_a_grey_square_is_cut_out_around_a_point_inside(noise):
    sides, x = set(), np.asarray(noise).astype(int)
    for seed in range(40):
        torch.manual_seed(seed)
        after = apply("cut out", noise)
        grey = (after == (125, 123, 114)).all(2)
        rows, columns = (np.flatnonzero(grey.any(axis)) for axis in (1, 0))
        assert grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert (after[~grey] == x[~grey]).all()
        sides |= {len(rows), len(columns)}
    assert max(sides) == 14 and min(sides) >= 6


def test_two_are_drawn_with_replacement_and_uniformly(monkeypatch):
    done = []
    recorded = {name: lambda image, name=name: done.append(name) for name in OPERATIONS}
    monkeypatch.setattr(randaugment, "OPERATIONS", recorded)
    torch.manual_seed(0)
    augment = RandAugment()
    for _ in range(1600):
        augment(None)
    pairs = list(zip(done[::2], done[1::2], strict=True))
    assert len(pairs) == 1600 and any(a == b for a, b in pairs)
    assert all(140 < done.count(name) < 260 for name in OPERATIONS)


def views(tmp_path, noise, count):
    noise.save(tmp_path / "a.png")
    cfg = default_config()
    cfg.INPUT.TRANSFORMS = ["randaugment", "normalize"]
    cfg.DATALOADER.K_TRANSFORMS = count
    return train_set([Item("a.png", 0, "a")], tmp_path, cfg, 32)


def test_views_of_an_image_are_drawn_apart_and_repeat_with_seed_and_epoch(tmp_path, noise):
    one, two, again = (views(tmp_path, noise, count) for count in (1, 2, 2))
    different = 0
    for epoch in range(4):
        pixels = two[epoch, 0][0]
        assert pixels.shape == (2, 3, 32, 32) and pixels.dtype == torch.uint8
        assert torch.equal(pixels, again[epoch, 0][0])
        assert torch.equal(pixels[:1], one[epoch, 0][0])
        different += not torch.equal(*pixels)
    assert different


def test_the_whole_image_is_squeezed_into_the_square(tmp_path, monkeypatch):
    monkeypatch.setattr(randaugment, "OPERATIONS", {"nothing": lambda image: image})
    half = np.zeros((40, 120, 3), np.uint8)
    half[:, 60:] = 255
    (pixels,) = views(tmp_path, Image.fromarray(half), 1)[0, 0][0]
    assert pixels[..., :12].max() < 10 and pixels[..., 20:].min() > 245
