"""The reference image: the mean of the training images, kept with the digest of their list."""

import zipfile

import numpy as np
import pytest
from made import jpeg, write
from PIL import Image

from nerp.base.errors import NerpError
from nerp.data.benchmark import Item
from nerp.data.reference import SIZE, cached_mean_image, load_reference, mean_image


@pytest.fixture
def items(tmp_path):
    """300 images, more than are in flight at once, of four sizes and random colours."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(300):
        pixels = rng.integers(0, 256, (4 + i % 2, 5 + i % 3 // 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        found.append(Item(f"{i}.png", 0, "ape"))
    return found


def expected(items, folder):
    total = np.zeros((SIZE, SIZE, 3))
    for item in items:
        image = Image.open(folder / item.path).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        total += np.asarray(image, np.float64)
    return np.round(total / len(items)).astype(np.uint8)


def test_the_mean_of_every_pixel(items, tmp_path):
    image = mean_image(items, tmp_path)
    assert image.size == (224, 224) and image.mode == "RGB"
    assert np.array_equal(image, expected(items, tmp_path))


def test_it_is_computed_once_for_a_list(items, tmp_path, monkeypatch):
    image, file = cached_mean_image(items, tmp_path, "Apes", [tmp_path / "kept"])
    assert file.parent == tmp_path / "kept" and file.name.startswith("Apes_train_image_mean-224-")
    with monkeypatch.context() as patch:
        patch.setattr("nerp.data.reference.mean_image", None)
        again, same = cached_mean_image(items, tmp_path, "Apes", [tmp_path / "kept"])
    assert same == file and np.array_equal(again, image)
    fewer, other = cached_mean_image(items[:9], tmp_path, "Apes", [tmp_path / "kept"])
    assert other != file and np.array_equal(fewer, expected(items[:9], tmp_path))


def test_read_only_data_keep_it_elsewhere(items, tmp_path):
    write(tmp_path / "a file, not a folder", "")
    folders = [tmp_path / "a file, not a folder", tmp_path / "output"]
    _, file = cached_mean_image(items[:2], tmp_path, "Apes", folders)
    assert file.parent == tmp_path / "output"
    with pytest.raises(NerpError, match="cannot be kept: .*a file, not a folder"):
        cached_mean_image(items[:2], tmp_path, "Apes", folders[:1])


def test_what_has_no_mean(tmp_path):
    with pytest.raises(NerpError, match="there are no training images to take the mean of"):
        mean_image([], tmp_path)
    write(tmp_path / "bad.jpg", jpeg()[:99])
    with pytest.raises(NerpError, match="bad.jpg: cannot be decoded"):
        mean_image([Item("bad.jpg", 0, "ape")], tmp_path)


def test_a_published_reference_is_a_picture_or_in_a_zip(tmp_path):
    picture = write(tmp_path / "mean.jpg", jpeg((30, 20)))
    archive = tmp_path / "means.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("means/EuroSAT_train_image_mean.png", picture.read_bytes())
    for file in (picture, archive):
        image = load_reference(file, "EuroSAT")
        assert image.mode == "RGB" and np.array_equal(image, Image.open(picture))
    with pytest.raises(NerpError, match="means.zip: holds no Food101_train_image_mean.png"):
        load_reference(archive, "Food101")
    with pytest.raises(NerpError, match="gone.png: no such file"):
        load_reference(tmp_path / "gone.png", "EuroSAT")
