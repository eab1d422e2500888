"""Image files to RGB images."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from nerp.errors import NerpError


def open_image(path: str | Path, side: int = 0) -> Image.Image:
    """The image as RGB, converted as Pillow converts; EXIF orientation is not applied.

    Of 16-bit grey, which Pillow would turn all white, the upper 8 bits are taken.

    With `side` a large JPEG is decoded at a half, a quarter or an eighth of its size, no side of
    it below `side` pixels: faster, and other pixels.

    Raises NerpError, naming the file, for one that is missing, cannot be decoded, or has grey
    values without a stated range (32-bit integers and floats).
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
            return _as_rgb(image)
    except FileNotFoundError:
        what = "a link that leads nowhere" if os.path.islink(path) else "no such image"
        raise NerpError(f"{path}: {what}") from None
    except Exception as error:  # on damaged files Pillow's plugins raise all sorts
        raise NerpError(f"{path}: cannot be decoded: {_reason(path, error)}") from None


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        kind = {"I": "32-bit integers", "F": "floats"}[image.mode]
        raise ValueError(f"its grey values are {kind}, of a range that is not stated; save it with "
                         "8 or 16 bits")
    return image.convert("RGB")


def _reason(path: str | Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image file" if os.path.getsize(path) else "the file is empty"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
