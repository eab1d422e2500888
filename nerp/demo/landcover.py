"""The classes of demo_landcover: each is a function of a Generator that returns a picture."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nerp.demo.canvas import (
    Bytes,
    Colour,
    Field,
    Picture,
    between,
    blend,
    box,
    colour,
    coordinates,
    flat,
    fractal,
    ink,
    noise,
    open_canvas,
    photograph,
    ramp,
    scaled,
    to_picture,
    turn,
    with_another,
)

Index = NDArray[np.integer]  # [64, 64], the number of each pixel's field
_MIXED_SHARE = 0.45  # the largest share of a picture that a second class covers


def draw(label: int, rng: Generator) -> Bytes:
    """A picture of the land cover with this label (the order of `SCENES`): uint8 [64, 64, 3]."""

    def mix(own: Picture, other: Picture) -> Picture:
        border = fractal(rng, 1)
        border = border - np.quantile(border, 1 - between(rng, 0.1, _MIXED_SHARE))
        return blend(own, other, ramp(border, 0.05))

    picture = with_another(rng, list(SCENES.values()), label, mix)
    return photograph(rng, picture, haze=0.6, grain=0.07, blur=2)


def _vegetation(rng: Generator, dry: float) -> Colour:
    """A plant colour [3] from lush (`dry` 0) over olive to straw (`dry` 1)."""
    dry = min(max(dry + rng.normal(0, 0.1), 0), 1)
    return colour(rng, 0.33 - 0.22 * dry, 0.5 - 0.1 * dry, 0.38 + 0.3 * dry)


def _water(rng: Generator) -> Colour:
    """A water colour [3]: dark blue to turquoise, sometimes brown with silt."""
    if rng.random() < 0.2:
        return colour(rng, 0.12, 0.35, 0.4)
    return colour(rng, between(rng, 0.5, 0.64), between(rng, 0.35, 0.75), between(rng, 0.2, 0.5))


def _mottled(rng: Generator, rgb: Colour, cells: int, strength: float) -> Picture:
    """A ground of one colour [3] with brightness that varies over blobs of SIZE / `cells`."""
    return flat(rgb) * (1 + strength * (fractal(rng, cells) - 0.5))[..., None]


def _parcels(
    rng: Generator, size: float, colours: Sequence[Colour], gap: float
) -> tuple[Picture, Field, Field, Index]:
    """A picture of fields about `size` wide in random `colours`, with borders `gap` wide. Also, to
    draw furrows with: the rotated coordinates (u, v), and the number of each pixel's field."""
    u, v = coordinates(rng, between(rng, 0, math.pi), between(rng, 0, 0.35))
    u, v = u / size + between(rng, 0, 9), v / size * between(rng, 0.6, 1.4) + between(rng, 0, 9)
    row = np.floor(v).astype(int) % 16
    u = u + rng.random(16, dtype=np.float32)[row]
    number = rng.integers(0, len(colours), (16, 16))[row, np.floor(u).astype(int) % 16]
    picture = np.stack(colours)[number]
    edge = np.minimum(0.5 - np.abs(u % 1 - 0.5), 0.5 - np.abs(v % 1 - 0.5)) * size
    picture = blend(picture, _vegetation(rng, 0.3) * 0.8, ramp(gap - edge, 0.03))
    return picture, u * size, v * size, number


def _rows(u: Field, v: Field, number: Index, period: float, sharpness: float) -> Field:
    """Furrows or tree rows: a wave field 0..1 along u or v, depending on the field's number."""
    across = np.where(number % 2 == 0, u, v)
    return ramp(np.cos(2 * math.pi / period * across), sharpness)


def _ribbon(rng: Generator, width: float, bend: float) -> Field:
    """How far each pixel lies inside a band that crosses the picture: a field, > 0 within it."""
    u, v = coordinates(rng, between(rng, 0, math.pi), 0)
    phase, rate = between(rng, 0, 2 * math.pi), between(rng, 1, 3)
    course = bend * np.sin(rate * v + phase) + between(rng, -0.4, 0.4)
    inside: Field = width - np.abs(u - course + bend * 0.5 * (noise(rng, 3) - 0.5))
    return inside


def _buildings(
    rng: Generator, picture: Picture, count: int, sides: tuple[float, float],
    roofs: Sequence[Colour], angle: float,
) -> Picture:
    """Rectangles with a shadow, `sides` being the range of their half-lengths."""
    image, pen = open_canvas(picture)
    shadow, tops = ink(picture.mean((0, 1)) * 0.35), [ink(roof) for roof in roofs]
    for _ in range(count):
        x, y = rng.uniform(-1, 1, 2)
        half = rng.uniform(*sides, 2)
        walls = turn(box(-half[0], -half[1], half[0], half[1]), angle, 1, (x, y))
        pen.polygon(scaled(walls + 0.3 * half.min()), fill=shadow)
        pen.polygon(scaled(walls), fill=tops[rng.integers(len(tops))])
    return to_picture(image)


def _streets(
    rng: Generator, picture: Picture, spacing: float, width: float, angle: float
) -> Picture:
    """Grey streets along a rectangular plan."""
    u, v = coordinates(rng, angle, between(rng, 0, 0.3))
    u, v = u / spacing + between(rng, 0, 1), v / spacing / 1.6 + between(rng, 0, 1)
    near = np.minimum(np.abs(u % 1 - 0.5), 1.6 * np.abs(v % 1 - 0.5)) * spacing
    return blend(picture, colour(rng, 0.1, 0.05, between(rng, 0.45, 0.7)), ramp(width - near, 0.04))


def _countryside(rng: Generator) -> Picture:
    """A background that any land class could be on."""
    scenes = (annual_crop, herbaceous, pasture, forest, permanent_crop)
    return scenes[rng.choice(5, p=(0.3, 0.2, 0.25, 0.1, 0.15))](rng)


def annual_crop(rng: Generator) -> Picture:
    colours = [_vegetation(rng, dry) for dry in rng.uniform(0, 1, 3)]
    colours += [colour(rng, 0.08, 0.35, between(rng, 0.35, 0.7)) for _ in range(3)]
    size = between(rng, 0.45, 1.5)
    picture, u, v, number = _parcels(rng, size, colours, between(rng, -0.02, 0.03))
    furrows = _rows(u, v, number, between(rng, 0.09, 0.16), 2)
    picture = picture * (1 - between(rng, 0, 0.25) * furrows[..., None])
    return picture * (1 + 0.2 * (fractal(rng, 5) - 0.5))[..., None]


def forest(rng: Generator) -> Picture:
    dark = colour(rng, between(rng, 0.22, 0.42), between(rng, 0.35, 0.6), between(rng, 0.2, 0.4))
    picture = _mottled(rng, dark, int(rng.integers(6, 16)), between(rng, 0.5, 1.2))
    if rng.random() < 0.5:
        clearing = fractal(rng, 2)
        share = np.quantile(clearing, between(rng, 0.6, 0.98))
        grass = _mottled(rng, _vegetation(rng, between(rng, 0, 0.7)), 6, 0.3)
        picture = blend(picture, grass, ramp(clearing - share, 0.08))
    return picture


def herbaceous(rng: Generator) -> Picture:
    grass = _vegetation(rng, between(rng, 0.1, 0.8))
    picture = _mottled(rng, grass, int(rng.integers(3, 8)), between(rng, 0.3, 0.7))
    bare = fractal(rng, int(rng.integers(2, 6)))
    soil = colour(rng, 0.09, 0.3, between(rng, 0.45, 0.7))
    picture = blend(picture, soil, 0.8 * ramp(bare - np.quantile(bare, between(rng, 0.7, 1)), 0.2))
    shrub = fractal(rng, int(rng.integers(8, 16)))
    cover = ramp(shrub - np.quantile(shrub, between(rng, 0.6, 0.97)), 0.12)
    return blend(picture, _vegetation(rng, 0.1) * 0.6, cover)


def highway(rng: Generator) -> Picture:
    picture = _countryside(rng)
    if rng.random() < 0.5:
        sides = (0.04, between(rng, 0.1, 0.3))
        picture = _buildings(rng, picture, int(rng.integers(2, 12)), sides, _roofs(rng), 0)
    for _ in range(1 + (rng.random() < 0.35)):
        width = between(rng, 0.03, 0.13)
        inside = _ribbon(rng, width, between(rng, 0, 0.3))
        asphalt = colour(rng, 0.1, 0.05, between(rng, 0.35, 0.75))
        verge = _vegetation(rng, between(rng, 0.2, 0.9))
        picture = blend(picture, verge, ramp(inside + 0.06, 0.05))
        picture = blend(picture, asphalt, ramp(inside, 0.04))
        if width > 0.08:
            picture = blend(picture, verge, 0.7 * ramp(inside - width + 0.015, 0.03))
    return picture


def _roofs(rng: Generator) -> list[Colour]:
    """Colours of small houses: tiles, slate, pale concrete."""
    return [
        colour(rng, 0.03, between(rng, 0.3, 0.6), between(rng, 0.5, 0.75)),
        colour(rng, 0.6, 0.1, between(rng, 0.35, 0.6)),
        colour(rng, 0.1, 0.1, between(rng, 0.7, 0.95)),
    ]


def industrial(rng: Generator) -> Picture:
    angle = between(rng, 0, math.pi)
    paved = colour(rng, 0.1, 0.08, between(rng, 0.35, 0.65))
    ground = blend(_countryside(rng), paved, ramp(fractal(rng, 2) - between(rng, 0.15, 0.5), 0.1))
    ground = _streets(rng, ground, between(rng, 0.6, 1.1), between(rng, 0.03, 0.08), angle)
    halls = [colour(rng, 0.6, 0.08, between(rng, 0.6, 1)) for _ in range(3)]
    halls.append(colour(rng, rng.random(), 0.35, between(rng, 0.4, 0.8)))
    return _buildings(rng, ground, int(rng.integers(2, 14)), (0.08, 0.32), halls, angle)


def pasture(rng: Generator) -> Picture:
    green = _vegetation(rng, between(rng, 0, 0.65))
    colours = [green * between(rng, 0.85, 1.15) for _ in range(3)]
    picture, u, v, number = _parcels(rng, between(rng, 0.7, 2), colours, between(rng, 0, 0.05))
    if rng.random() < 0.4:
        mown = _rows(u, v, number, between(rng, 0.12, 0.3), 2)
        picture = picture * (1 - between(rng, 0, 0.3) * mown[..., None])
    picture = picture * (1 + between(rng, 0.1, 0.3) * (fractal(rng, 4) - 0.5))[..., None]
    trees = fractal(rng, int(rng.integers(8, 14)))
    cover = ramp(trees - np.quantile(trees, between(rng, 0.88, 1)), 0.06)
    return blend(picture, green * 0.5, cover)


def permanent_crop(rng: Generator) -> Picture:
    soil = [colour(rng, 0.1, 0.3, between(rng, 0.4, 0.7)), _vegetation(rng, between(rng, 0.2, 0.7))]
    colours = [soil[k] * between(rng, 0.85, 1.15) for k in (0, 0, 1, 1)]
    size, gap = between(rng, 0.5, 1.4), between(rng, -0.02, 0.03)
    picture, u, v, number = _parcels(rng, size, colours, gap)
    period = between(rng, 0.13, 0.26)
    plants = _rows(u, v, number, period, between(rng, 0.6, 1.6))
    if rng.random() < 0.5:
        plants = plants * _rows(u, v, number + 1, period, 1.2)
    planted = rng.random(4) < 0.8
    plants = plants * (0.5 + 0.5 * planted)[number] * between(rng, 0.15, 0.9)
    return blend(picture, _vegetation(rng, 0.1) * between(rng, 0.5, 0.9), plants)


def residential(rng: Generator) -> Picture:
    angle, spacing = between(rng, 0, math.pi), between(rng, 0.35, 0.7)
    gardens = _vegetation(rng, between(rng, 0.1, 0.6))
    ground = _mottled(rng, gardens, 8, between(rng, 0.4, 0.9))
    if rng.random() < 0.4:
        town = fractal(rng, 2)
        edge = ramp(town - np.quantile(town, between(rng, 0, 0.4)), 0.1)
        ground = blend(_countryside(rng), ground, edge)
    ground = _streets(rng, ground, spacing, between(rng, 0.02, 0.05), angle)
    count = int(between(rng, 15, 90))
    return _buildings(rng, ground, count, (0.03, 0.1), _roofs(rng), angle)


def river(rng: Generator) -> Picture:
    picture = _countryside(rng)
    inside = _ribbon(rng, between(rng, 0.07, 0.55), between(rng, 0.1, 0.5))
    bank = colour(rng, 0.1, 0.25, between(rng, 0.5, 0.8))
    picture = blend(picture, bank, ramp(inside + between(rng, 0, 0.06), 0.05))
    return blend(picture, _ripples(rng, _water(rng)), ramp(inside, 0.05))


def sea_or_lake(rng: Generator) -> Picture:
    water = _ripples(rng, _water(rng))
    if rng.random() < 0.4:
        return water
    u, v = coordinates(rng, between(rng, 0, math.pi), 0.8)
    if rng.random() < 0.5:
        inside = u + between(rng, 0, 0.8)
    else:
        inside = between(rng, 0.5, 1.1) - np.hypot(u, v * between(rng, 0.7, 1.6))
    inside = inside + 0.4 * (fractal(rng, 3) - 0.5)
    beach = colour(rng, 0.11, 0.25, between(rng, 0.6, 0.85))
    picture = blend(_countryside(rng), beach, ramp(inside + between(rng, 0, 0.08), 0.06))
    return blend(picture, water, ramp(inside, 0.05))


def _ripples(rng: Generator, rgb: Colour) -> Picture:
    """Water of a colour [3] with waves, depth and, in places, sun glint."""
    picture = _mottled(rng, rgb, int(rng.integers(1, 4)), between(rng, 0.1, 0.5))
    u, _ = coordinates(rng, between(rng, 0, math.pi), 0.4)
    waves = np.cos(u * between(rng, 15, 45)) * noise(rng, 4)
    rippled: Picture = picture * (1 + between(rng, 0, 0.15) * waves)[..., None]
    return rippled


SCENES = {
    "Annual Crop Land": annual_crop,
    "Forest": forest,
    "Herbaceous Vegetation Land": herbaceous,
    "Highway or Road": highway,
    "Industrial Buildings": industrial,
    "Pasture Land": pasture,
    "Permanent Crop Land": permanent_crop,
    "Residential Buildings": residential,
    "River": river,
    "Sea or Lake": sea_or_lake,
}
