"""Loading for training and testing: what is held in memory, and that it changes nothing."""

import numpy as np
import pytest
import torch
from made import jpeg, write
from PIL import Image

from nerp.base.errors import NerpError
from nerp.data import images as loading
from nerp.data.benchmark import Item
from nerp.data.decode import open_image
from nerp.data.images import (
    ImageSet,
    eval_loader,
    eval_set,
    eval_transform,
    train_loader,
    train_transform,
)
from nerp.settings.defaults import default_config

GPU = torch.device("cuda")  # for whose sake there are workers


@pytest.fixture
def items(tmp_path):
    """Four images of 512 x 512 pixels, 768 KiB each when decoded."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(4):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((512, 512)).save(tmp_path / f"{i}.png")
        found.append(Item(f"{i}.png", i, str(i)))
    return found


def train_set(items, tmp_path, limit_mb):
    images = ImageSet(items, tmp_path, train_transform(default_config(), 32), seed=3)
    images.decode(limit_mb)
    return images


def test_decoded_images_are_held_up_to_the_limit(items, tmp_path):
    for limit_mb, held in ((0, 0), (1, 1), (2, 2), (3, 4), (4096, 4)):
        images = train_set(items, tmp_path, limit_mb)
        for item in items:
            (tmp_path / item.path).rename(tmp_path / f"away_{item.path}")
        for index in range(4):
            if index < held:
                assert images[0, index][1] == index
            else:
                with pytest.raises(NerpError, match=f"{index}.png: no such file"):
                    images[0, index]
        for item in items:
            (tmp_path / f"away_{item.path}").rename(tmp_path / item.path)


def test_holding_images_changes_no_pixel(items, tmp_path):
    held, read = train_set(items, tmp_path, 4096), train_set(items, tmp_path, 0)
    for epoch in (0, 1):
        for index in range(4):
            assert torch.equal(held[epoch, index][0], read[epoch, index][0])
    assert not torch.equal(held[0, 0][0], held[1, 0][0])  # another epoch, another crop


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("size", [(32, 32), (47, 33), (33, 50), (31, 64), (20, 21), (100, 33)])
def test_test_pixels_are_those_of_torchvision(size, interpolation):
    from torchvision import transforms as T

    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    cfg = default_config()
    cfg.INPUT.INTERPOLATION = interpolation
    mode = T.InterpolationMode(interpolation)
    theirs = T.Compose([T.Resize(32, mode), T.CenterCrop(32), T.PILToTensor()])
    image = Image.fromarray(noise)
    assert torch.equal(eval_transform(cfg, 32)(image), theirs(image))


def test_test_images_are_exact_unless_that_is_turned_off(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    cfg = default_config()
    exact = eval_transform(cfg, 32)(open_image(tmp_path / "a.jpg"))
    items = [Item("a.jpg", 0, "ape")]
    assert torch.equal(eval_set(items, tmp_path, cfg, 32)[0, 0][0], exact)
    cfg.INPUT.EXACT_JPEG = False
    drafted = eval_set(items, tmp_path, cfg, 32)[0, 0][0]
    assert drafted.shape == exact.shape and not torch.equal(drafted, exact)


def test_a_damaged_image_is_named(tmp_path):
    write(tmp_path / "bad.jpg", jpeg((64, 64))[:300])
    images = ImageSet([Item("bad.jpg", 0, "ape")], tmp_path, eval_transform(default_config(), 32))
    with pytest.raises(NerpError, match="bad.jpg: cannot be decoded"):
        images[0, 0]
    with pytest.raises(NerpError, match="bad.jpg: cannot be decoded"):
        images.decode(10)


def batches(items, folder, workers):
    """What the two loaders give: training batches of two epochs, then the images to test on."""
    cfg = default_config()
    cfg.INPUT.TRANSFORMS = ["random_resized_crop", "random_flip", "randaugment", "normalize"]
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.K_TRANSFORMS = workers, 2
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = cfg.DATALOADER.TEST.BATCH_SIZE = 2
    training = loading.train_set(items, folder, cfg, 32)
    training.decode(2)
    loader = train_loader(training, cfg, GPU)
    found = []
    for epoch in range(2):
        loader.batch_sampler.choose(epoch, 0, 2)
        found += loader
    return found + list(eval_loader(eval_set(items, folder, cfg, 32), cfg, GPU))


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_workers_give_the_same_pixels_however_they_are_started(
    method, items, tmp_path, monkeypatch
):
    monkeypatch.setattr(loading, "START_METHOD", method)
    monkeypatch.setattr(loading.os, "cpu_count", lambda: 2)
    alone, shared = (batches(items, tmp_path, workers) for workers in (0, 2))
    assert len(alone) == len(shared) == 2 * 2 + 2
    for (pixels, labels), (theirs, their_labels) in zip(alone, shared, strict=True):
        assert torch.equal(pixels, theirs) and torch.equal(labels, their_labels)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_a_damaged_image_is_one_line_whichever_process_reads_it(
    training, workers, items, tmp_path
):
    (tmp_path / items[2].path).write_bytes(b"no image")
    cfg = default_config()
    cfg.DATALOADER.NUM_WORKERS = workers
    if training:
        loader = train_loader(loading.train_set(items, tmp_path, cfg, 32), cfg, GPU)
    else:
        loader = eval_loader(eval_set(items, tmp_path, cfg, 32), cfg, GPU)
    with pytest.raises(NerpError) as raised:
        list(loader)
    said = str(raised.value)
    assert said == f"{tmp_path / items[2].path}: cannot be decoded: not an image file"
