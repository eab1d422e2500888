"""RandAugment as CoPrompt trains with it: two of sixteen operations, each with certainty.

The magnitude is 10 of 30, so every strength below is a third of the way through its operation's
range. (Cubuk et al., RandAugment, 2020; the operations and ranges are those of CoPrompt's toolbox.)
"""

from collections.abc import Callable

import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

_COUNT = 2  # operations an image
_FACTOR = 0.7  # of colour, contrast, brightness and sharpness: 0.1 to 1.9
_SOLARISE = 86  # 256 / 3: the first whole number that is inverted
_ADD = 110 / 3
_SQUARE = 40 / 3  # pixels a side
_GREY = (125, 123, 114)


class RandAugment:
    """Two operations, drawn uniformly with replacement from torch's generator, one after the other
    on an RGB image."""

    def __call__(self, image: Image.Image) -> Image.Image:
        for index in torch.randint(len(OPERATIONS), (_COUNT,)).tolist():
            image = list(OPERATIONS.values())[index](image)
        return image


def _either_sign(strength: float) -> float:
    return strength if torch.rand(()) < 0.5 else -strength


def _affine(image: Image.Image, *coefficients: float) -> Image.Image:
    """Nearest neighbour, black outside; (x, y) is taken from (a x + b y + c, d x + e y + f)."""
    return image.transform(image.size, Image.Transform.AFFINE, coefficients)


def _enhance(kind: type) -> Callable[[Image.Image], Image.Image]:
    return lambda image: kind(image).enhance(_FACTOR)


def _add_and_solarise(image: Image.Image) -> Image.Image:
    added = image.point([min(255, int(value + _ADD)) for value in range(256)] * 3)
    return ImageOps.solarize(added, 128)


def _cut_out(image: Image.Image) -> Image.Image:
    """A grey square, cut at the edges, around a uniform point."""
    left, top = (
        int(max(0, float(torch.rand(())) * side - _SQUARE / 2)) for side in image.size
    )
    right, bottom = (
        min(side, start + _SQUARE) for side, start in zip(image.size, (left, top), strict=True)
    )
    image = image.copy()
    ImageDraw.Draw(image).rectangle((left, top, right, bottom), _GREY)
    return image


OPERATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "autocontrast": ImageOps.autocontrast,
    "equalise": ImageOps.equalize,
    "invert": ImageOps.invert,
    "rotate": lambda image: image.rotate(_either_sign(10)),  # degrees
    "posterise": lambda image: ImageOps.posterize(image, 5),  # bits
    "solarise": lambda image: ImageOps.solarize(image, _SOLARISE),
    "add and solarise": _add_and_solarise,
    "colour": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear x": lambda image: _affine(image, 1, _either_sign(0.1), 0, 0, 1, 0),
    "shear y": lambda image: _affine(image, 1, 0, 0, _either_sign(0.1), 1, 0),
    "cut out": _cut_out,
    "translate x": lambda image: _affine(image, 1, 0, _either_sign(100 / 3), 0, 1, 0),  # pixels
    "translate y": lambda image: _affine(image, 1, 0, 0, 0, 1, _either_sign(100 / 3)),
}
