"""Image files to RGB images."""

import importlib.util
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from nerp.base.errors import NerpError
from nerp.files.opening import opened, reason

# The formats that are read. Pillow knows more, and has other programs draw some (PostScript).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "DIB", "TIFF", "WEBP", "JPEG2000",
           *(["AVIF"] if importlib.util.find_spec("PIL._avif") else []))
# Suffixes of names that show an image.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"
)
# Suffixes of names that show another kind of file.
_OTHER_SUFFIXES = (".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml",
                   ".html", ".py", ".mat", ".npy", ".npz", ".zip", ".tar", ".gz", ".db", ".ini")

# Pillow warns of images from this size on, in several lines; here they are refused in one.
_MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 2**30 // 12
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Before = Callable[[Image.Image], object]


def open_image(path: str | Path, side: int = 0) -> Image.Image:
    """The image as RGB, converted as Pillow converts it. The EXIF orientation is not applied. For
    16-bit grey, which Pillow would turn white, the upper 8 bits are used.

    With `side`, a large JPEG is decoded at a half, a quarter or an eighth of its size, with no side
    below `side` pixels. That is faster and gives other pixels.

    Raises NerpError, naming the file, if it is missing, cannot be decoded, or has grey values
    without a stated range (32-bit integers and floats).
    """
    return _decode(path, lambda image: image.draft("RGB", (side, side)) if side else None)


def is_image(path: str | Path) -> bool:
    """Whether a file is an image: by its name or, if that does not say, by its first bytes."""
    name = os.fspath(path).lower()
    if name.endswith(IMAGE_SUFFIXES):
        return True
    if name.endswith(_OTHER_SUFFIXES):
        return False
    try:
        with opened(path) as content, Image.open(content, formats=FORMATS):
            return True
    except Exception:  # on other files Pillow's plugins raise all sorts
        return False


def verify_image(path: str | Path) -> None:
    """Raise NerpError if `open_image` would; for a JPEG at a third of its cost.

    All of a JPEG is read and entropy-decoded. Only the pixels are computed at an eighth of the
    size.
    """
    _decode(path, lambda image: image.draft("RGB", (1, 1)))


def decode(content: BinaryIO, name: str, before: Before = lambda image: None) -> Image.Image:
    """The image in an open file as RGB. `before` is called with it when its size is known.

    Raises NerpError, beginning with `name`, for an image that cannot be decoded, or whose size
    suggests that it was made to fill the memory.
    """
    try:
        with Image.open(content, formats=FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise NerpError(f"{name}: cannot be decoded: {image.width} x {image.height} "
                                f"pixels, more than {_MOST_PIXELS:,}")
            before(image)
            return as_rgb(image)
    except NerpError:
        raise
    except UnidentifiedImageError:
        what = "not an image file" if content.seek(0, os.SEEK_END) else "the file is empty"
        raise NerpError(f"{name}: cannot be decoded: {what}") from None
    except Exception as error:  # on damaged files Pillow's plugins raise all sorts
        raise NerpError(f"{name}: cannot be decoded: {reason(error)}") from None


def as_rgb(image: Image.Image) -> Image.Image:
    """An image as RGB, as Pillow converts. Raises ValueError for grey values without a stated
    range."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        kind = {"I": "32-bit integers", "F": "floats"}[image.mode]
        raise ValueError(f"its grey values are {kind}, of a range that is not stated; save it with "
                         "8 or 16 bits")
    return image.convert("RGB")


def _decode(path: str | Path, before: Before) -> Image.Image:
    with opened(path) as file:
        return decode(file, str(path), before)
