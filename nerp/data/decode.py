"""Image files to RGB images."""

import os
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from nerp.errors import NerpError


def open_image(path: str | Path, side: int = 0) -> Image.Image:
    """The image as RGB, converted as Pillow converts; EXIF orientation is not applied.

    With `side` a large JPEG is decoded at a half, a quarter or an eighth of its size, no side of
    it below `side` pixels: faster, and other pixels.

    Raises NerpError, naming the file, for one that is missing or cannot be decoded.
    """
    return _decode(path, lambda image: image.draft("RGB", (side, side)) if side else None)


def verify_image(path: str | Path) -> None:
    """Raise NerpError where `open_image` would, at a third of its cost for a JPEG.

    All of a JPEG is read and entropy-decoded; only the pixels are made at an eighth of the size.
    """
    _decode(path, lambda image: image.draft("RGB", (1, 1)))


def _decode(path: str | Path, before) -> Image.Image:
    try:
        with Image.open(path) as image:
            before(image)
            return image.convert("RGB")
    except FileNotFoundError:
        what = "a link that leads nowhere" if os.path.islink(path) else "no such image"
        raise NerpError(f"{path}: {what}") from None
    except Exception as error:  # on damaged files Pillow's plugins raise all sorts
        raise NerpError(f"{path}: cannot be decoded: {_reason(path, error)}") from None


def _reason(path: str | Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image file" if os.path.getsize(path) else "the file is empty"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
