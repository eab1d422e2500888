"""Files to RGB: what Pillow's convert gives, and an error that names the file."""

import io
import random

import numpy as np
import pytest
from made import jpeg, write
from PIL import Image

from nerp.base.errors import NerpError
from nerp.data.decode import open_image, verify_image

NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)


def exif_rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees to view
    return encoded(Image.fromarray(NOISE[..., :3]), "JPEG", exif=exif)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


SIXTEEN_BIT = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257)
SIXTEEN_BIT_FILES = {
    "sixteen.png": encoded(SIXTEEN_BIT, "PNG"),
    "sixteen.tif": encoded(SIXTEEN_BIT, "TIFF"),
}
KINDS = {
    "exif.jpg": exif_rotated(),
    "palette.png": encoded(Image.fromarray(NOISE[..., :3]).quantize(16), "PNG"),
    "transparent.gif": encoded(Image.fromarray(NOISE[..., 0], "L").convert("P"), "GIF",
                               transparency=3),
    "cmyk.jpg": encoded(Image.fromarray(NOISE, "CMYK"), "JPEG"),
    "grey.jpg": encoded(Image.fromarray(NOISE[..., 0]), "JPEG"),
    "grey_alpha.png": encoded(Image.fromarray(NOISE).convert("LA"), "PNG"),
    "alpha.png": encoded(Image.fromarray(NOISE), "PNG"),
    "bilevel.png": encoded(Image.fromarray(NOISE[..., 0]).convert("1"), "PNG"),
    "progressive.jpg": encoded(Image.fromarray(NOISE[..., :3]), "JPEG", progressive=True),
    "colour.bmp": encoded(Image.fromarray(NOISE[..., :3]), "BMP"),
    "colour.webp": encoded(Image.fromarray(NOISE[..., :3]), "WEBP"),
    "colour.ppm": encoded(Image.fromarray(NOISE[..., :3]), "PPM"),
    "colour.tif": encoded(Image.fromarray(NOISE[..., :3]), "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_comes_out_as_pillow_converts_it(name, tmp_path):
    file = write(tmp_path / name, KINDS[name])
    image = open_image(file)
    with Image.open(file) as expected:
        assert image.mode == "RGB" and image.size == expected.size
        assert np.array_equal(image, expected.convert("RGB"))
    verify_image(file)


@pytest.mark.parametrize("name", SIXTEEN_BIT_FILES)
def test_of_sixteen_bits_the_upper_eight_are_taken(name, tmp_path):
    image = open_image(write(tmp_path / name, SIXTEEN_BIT_FILES[name]))
    assert image.mode == "RGB" and np.array_equal(np.asarray(image)[..., 2], NOISE[..., 0])


@pytest.mark.parametrize("type, kind", [(np.int32, "32-bit integers"), (np.float32, "floats")])
def test_grey_values_of_no_stated_range_are_refused_by_name(type, kind, tmp_path):
    content = encoded(Image.fromarray(NOISE[..., 0].astype(type)), "TIFF")
    file = write(tmp_path / "depth.tif", content)
    for read in (open_image, verify_image):
        with pytest.raises(NerpError, match=f"depth.tif: cannot be decoded: .*{kind}"):
            read(file)


def test_an_orientation_is_not_applied(tmp_path):
    assert open_image(write(tmp_path / "a.jpg", exif_rotated())).size == (30, 20)


@pytest.mark.parametrize("side, size", [
    (0, (512, 384)), (96, (128, 96)), (97, (256, 192)), (192, (256, 192)), (193, (512, 384)),
])
def test_a_large_jpeg_can_be_decoded_small_but_not_too_small(side, size, tmp_path):
    image = open_image(write(tmp_path / "large.jpg", jpeg((512, 384))), side)
    assert image.size == size


@pytest.mark.parametrize("name", KINDS)
def test_small_decoding_is_for_large_jpegs_alone(name, tmp_path):
    file = write(tmp_path / name, KINDS[name])
    assert np.array_equal(open_image(file, 20), open_image(file))


@pytest.mark.parametrize("content, reason", [
    (jpeg((64, 64))[:-9], "image file is truncated"),
    (b"", "the file is empty"),
    (b"<!DOCTYPE html><html><body>404</body></html>", "not an image file"),
    (SIXTEEN_BIT_FILES["sixteen.png"][:60], "."),
])
@pytest.mark.parametrize("read", [open_image, verify_image])
def test_damaged_files_are_named(read, content, reason, tmp_path):
    file = write(tmp_path / "n01440764_18.JPEG", content)
    with pytest.raises(NerpError, match=f"n01440764_18.JPEG: cannot be decoded: {reason}") as error:
        read(file)
    assert "\n" not in str(error.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(NerpError, match="a.jpg: no such file"):
        open_image(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").symlink_to(tmp_path / "unmounted")
    with pytest.raises(NerpError, match="a.jpg: a link that leads nowhere"):
        open_image(tmp_path / "a.jpg")
    with pytest.raises(NerpError, match="a folder, not a file"):
        open_image(tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_no_damage_gets_past_as_anything_but_an_error(name, tmp_path):
    """Bytes changed and cut at random: an image or a NerpError, and the check finds the same."""
    rng = random.Random(name)
    verdicts = set()
    for _ in range(60):
        content = bytearray(KINDS[name])
        for _ in range(rng.choice((1, 4))):
            content[rng.randrange(min(len(content), 300))] = rng.randrange(256)
        if rng.random() < 0.5:
            del content[rng.randrange(len(content)):]
        file = write(tmp_path / name, bytes(content))
        verdicts.add(found := verdict(open_image, file))
        assert verdict(verify_image, file) == found
    assert "cannot be decoded" in verdicts


def verdict(read, file) -> str:
    try:
        read(file)
    except NerpError as error:
        assert str(file) in str(error)
        return "cannot be decoded"
    return "an image"
