"""Drawing tools of the procedural benchmarks: noise, coordinates, colours, polygons, a camera.

A *field* is a float32 array [SIZE, SIZE]; a *picture* is a float32 array [SIZE, SIZE, 3] with
values in 0..1. Every random choice comes from the `numpy.random.Generator` that is passed in.
"""

import colorsys
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw
from PIL.ImageFilter import GaussianBlur

SIZE = 64
_OVERSAMPLING = 2
_MIXED = 0.4  # the share of pictures in which a second class shows
_AXIS = np.linspace(-1, 1, SIZE, dtype=np.float32)


Field = NDArray[np.floating]  # [SIZE, SIZE], or of nine points at each pixel
Picture = NDArray[np.floating]  # [SIZE, SIZE, 3]
Colour = NDArray[np.floating]  # [3], red, green and blue
Polygon = NDArray[np.floating]  # [n, 2]
Bytes = NDArray[np.uint8]  # [SIZE, SIZE, 3]
Maker = Callable[[Generator], NDArray[np.floating]]


def with_another(
    rng: Generator, makers: Sequence[Maker], label: int,
    mix: Callable[[NDArray[np.floating], NDArray[np.floating]], NDArray[np.floating]],
) -> NDArray[np.floating]:
    """The picture that `makers[label]` draws. In some pictures another maker's picture is mixed in.

    Args: mix: (own, other) -> the mixture; it chooses the share of the other picture at random.
    """
    own = makers[label](rng)
    if rng.random() < _MIXED:
        own = mix(own, makers[int(rng.integers(len(makers)))](rng))
    return own


def noise(rng: Generator, cells: int) -> Field:
    """A smooth random field, roughly 0..1, whose blobs are about SIZE / `cells` pixels wide."""
    coarse = rng.random((cells + 2, cells + 2), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def fractal(rng: Generator, cells: int, octaves: int = 3) -> Field:
    """A field in about 0..1 with detail on several scales, each twice as fine, half as strong."""
    total = noise(rng, cells)
    for k in range(1, octaves):
        total = total + noise(rng, cells << k) / (1 << k)
    return total / (2 - 0.5 ** (octaves - 1))


def coordinates(rng: Generator, angle: float, warp: float = 0.0) -> tuple[Field, Field]:
    """Two fields (u, v): pixel positions in -1..1, rotated by `angle` radians, bent by `warp`."""
    x, y = np.meshgrid(_AXIS, _AXIS)
    if warp:
        x = x + warp * (noise(rng, 3) - 0.5)
        y = y + warp * (noise(rng, 3) - 0.5)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return cos * x + sin * y, cos * y - sin * x


def ramp(field: Field, width: float) -> Field:
    """0 where `field` is well below 0, 1 where it is well above, linear over `width` around 0."""
    rising: Field = np.clip(field / width + 0.5, 0, 1)
    return rising


def between(rng: Generator, low: float, high: float) -> float:
    """One uniform number as a plain float, so that float32 fields stay float32."""
    return float(rng.uniform(low, high))


def colour(
    rng: Generator, hue: float, saturation: float, value: float, spread: float = 0.03
) -> Colour:
    """An RGB array [3] around a hue, saturation and value in 0..1, each jittered by `spread`."""
    jitter = rng.normal(0, spread, 3)
    rgb = colorsys.hsv_to_rgb(
        (hue + jitter[0]) % 1,
        min(max(saturation + 2 * jitter[1], 0), 1),
        min(max(value + 2 * jitter[2], 0), 1),
    )
    return np.array(rgb, np.float32)


def flat(rgb: Colour) -> Picture:
    """A picture of one colour [3]."""
    return np.broadcast_to(rgb, (SIZE, SIZE, 3)).copy()


def blend(under: Picture, over: Picture, alpha: ArrayLike) -> Picture:
    """`over` (colour [3] or picture) laid on the picture `under` where the field `alpha` is 1."""
    return under + (over - under) * np.asarray(alpha, np.float32)[..., None]


def to_picture(image: Image.Image) -> Picture:
    """A picture from a PIL image of any size, reduced by averaging."""
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX), np.float32) / 255


def open_canvas(picture: Picture) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A larger PIL copy of a picture and its pen; points for the pen go through `scaled`."""
    image = Image.fromarray(_to_bytes(picture))
    side = SIZE * _OVERSAMPLING
    image = image.resize((side, side), Image.Resampling.NEAREST)
    return image, ImageDraw.Draw(image)


def scaled(points: ArrayLike) -> list[float]:
    """Points [n, 2] in -1..1 (y downwards) as the list of canvas positions that PIL draws from."""
    return ((np.asarray(points) + 1) * (SIZE * _OVERSAMPLING / 2)).ravel().tolist()


def ink(rgb: ArrayLike) -> tuple[int, ...]:
    """A colour [3] as the 8-bit tuple that PIL draws with."""
    return tuple(int(c) for c in np.clip(np.asarray(rgb) * 255, 0, 255))


def turn(
    points: ArrayLike, angle: float, scale: float = 1.0, shift: ArrayLike = (0.0, 0.0)
) -> Polygon:
    """Points [n, 2] scaled, rotated by `angle` radians and moved by `shift`."""
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = scale * np.array([[cos, sin], [-sin, cos]])
    turned: Polygon = np.asarray(points) @ matrix + np.asarray(shift)
    return turned


def ellipse(
    x: float, y: float, rx: float, ry: float | None = None, start: float = 0.0,
    stop: float = 1.0, corners: int = 24,
) -> Polygon:
    """Points [corners, 2] along an ellipse, or along its arc between two fractions of a turn."""
    angle = 2 * math.pi * np.linspace(start, stop, corners, endpoint=stop - start < 1)
    return np.stack([x + rx * np.cos(angle), y + (ry or rx) * np.sin(angle)], 1)


def box(left: float, top: float, right: float, bottom: float) -> Polygon:
    """The four corners [4, 2] of an upright rectangle."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def bar(start: ArrayLike, stop: ArrayLike, width: float, end_width: float | None = None) -> Polygon:
    """A straight stroke as a polygon [4, 2], `width` across, tapering to `end_width`."""
    start, stop = np.asarray(start, float), np.asarray(stop, float)
    normal = (stop - start)[::-1] * (-0.5, 0.5) / np.hypot(*(stop - start))
    end = width if end_width is None else end_width
    return np.stack(
        [start - width * normal, stop - end * normal, stop + end * normal, start + width * normal]
    )


def ring(
    x: float, y: float, radius: float, width: float, start: float = 0.0, stop: float = 1.0
) -> Polygon:
    """A ring, or an arc of one between two fractions of a turn, as a polygon."""
    outer = ellipse(x, y, radius, start=start, stop=stop)
    inner = ellipse(x, y, radius - width, start=start, stop=stop)
    if stop - start == 1:
        outer, inner = np.vstack([outer, outer[:1]]), np.vstack([inner, inner[:1]])
    return np.vstack([outer, inner[::-1]])


def photograph(
    rng: Generator, picture: Picture, haze: float = 0.35, grain: float = 0.06, blur: float = 1.2
) -> Bytes:
    """A picture as a camera shows it: uint8 [SIZE, SIZE, 3].

    It adds uneven light, exposure, colour cast, haze, blur and sensor noise. `haze` (share of
    grey), `blur` (radius in pixels) and `grain` (standard deviation) are the largest strengths.
    """
    slope, exposure = rng.uniform(-0.3, 0.3, 2), rng.uniform(0.75, 1.2)
    light = (exposure + slope[0] * _AXIS[None, :] + slope[1] * _AXIS[:, None]).astype(np.float32)
    picture = picture * light[..., None] * rng.normal(1, 0.05, 3).astype(np.float32)
    fog = between(rng, 0, haze) * rng.random()
    picture = picture * (1 - fog) + fog * between(rng, 0.45, 0.75)
    image = Image.fromarray(_to_bytes(picture)).filter(GaussianBlur(between(rng, 0, blur)))
    sigma = between(rng, 0.2, 1) * grain * 255
    grainy = np.asarray(image) + sigma * rng.standard_normal(picture.shape, dtype=np.float32)
    return _to_bytes(grainy, 1)


def other_camera(image: Bytes) -> Bytes:
    """A picture, uint8, as a camera with a warmer white balance and less contrast shows it. No
    pre-training picture is from this camera, so the benchmarks have something left to learn."""
    warmer = image * np.array([1.12, 1, 0.88], np.float32)
    return _to_bytes((warmer - 127.5) * 0.8 + 127.5, 1)


def _to_bytes(picture: Picture, white: float = 255) -> Bytes:
    values: Bytes = np.clip(picture * white, 0, 255).astype(np.uint8)
    return values
