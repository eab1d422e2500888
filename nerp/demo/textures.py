"""The classes of demo_textures: each pattern is a function of a Generator that returns a field."""

import math

import numpy as np
from numpy.random import Generator

from nerp.demo.canvas import (
    Bytes,
    Field,
    Picture,
    between,
    blend,
    colour,
    coordinates,
    flat,
    fractal,
    noise,
    photograph,
    ramp,
    with_another,
)

_MIXED_STRENGTH = 0.45  # with which a second class's pattern shows through at most


def draw(label: int, rng: Generator) -> Bytes:
    """A picture of the texture with this label (the order of `PATTERNS`): uint8 [64, 64, 3]."""

    def mix(own: Field, other: Field) -> Field:
        return own + (other - own) * between(rng, 0.1, _MIXED_STRENGTH)

    field = with_another(rng, list(PATTERNS.values()), label, mix)
    return photograph(rng, _paint(rng, field), haze=0.4, grain=0.07)


def _paint(rng: Generator, field: Field) -> Picture:
    """Colour a field with two random colours of different brightness and some unevenness."""
    hue, low, high = rng.random(), between(rng, 0.05, 0.45), between(rng, 0.6, 1)
    dark = colour(rng, hue, between(rng, 0.1, 0.8), low)
    light = colour(rng, hue + rng.normal(0, 0.12), between(rng, 0.05, 0.6), high)
    if rng.random() < 0.4:
        dark, light = light, dark
    picture = blend(flat(dark), light, field)
    return picture + between(rng, 0.05, 0.3) * (fractal(rng, 6) - 0.5)[..., None]


def _stretch(rng: Generator, warp: float = 0.5) -> tuple[Field, Field]:
    """Coordinates under a random rotation, zoom, shift and bending."""
    u, v = coordinates(rng, between(rng, 0, math.pi), between(rng, 0, warp))
    zoom = between(rng, 0.75, 1.35)
    return zoom * u + between(rng, -1, 1), zoom * v + between(rng, -1, 1)


def _wave(x: Field) -> Field:
    """A triangle wave of period 1 with values -1..1, highest at whole numbers."""
    wave: Field = 4 * np.abs(x - np.floor(x) - 0.5) - 1
    return wave


def _cell(x: Field) -> Field:
    """Distance of x from the middle of its unit cell, -0.5..0.5."""
    return x - np.floor(x) - 0.5


def _scatter(rng: Generator, period: float) -> tuple[Field, Field, Field]:
    """Randomly placed points, about one per `period` x `period` square.

    Returns three fields for each of the nine points that can matter at a pixel, [9, 64, 64] each:
    the offsets (dx, dy) of the pixel from the point in periods, and a random number of the point.
    """
    u, v = _stretch(rng, 0.2)
    u, v = u / period, v / period
    column = np.floor(u) + np.repeat(np.array([-1, 0, 1], np.float32), 3)[:, None, None]
    row = np.floor(v) + np.tile(np.array([-1, 0, 1], np.float32), 3)[:, None, None]
    # The points repeat every 32 periods, which is more than a picture ever shows.
    index = (row.astype(np.int32) & 31) << 5 | (column.astype(np.int32) & 31)
    x, y, number = rng.random((3, 32 * 32), dtype=np.float32).take(index, axis=1)
    return u - column - x, v - row - y, number


def _lattice(rng: Generator, period: float, stagger: float) -> tuple[Field, Field]:
    """Coordinates in the unit cells of a lattice, every other row shifted by `stagger` cells."""
    u, v = _stretch(rng, 0.35)
    u, v = u / period, v / period
    return _cell(u + stagger * (np.floor(v) % 2)), _cell(v)


def _lines(rng: Generator, period: float, thickness: float, warp: float) -> Field:
    """Mask of parallel lines, `thickness` being their share of the period."""
    u, _ = _stretch(rng, warp)
    return ramp(_wave(u / period) - 1 + 2 * thickness, between(rng, 0.3, 0.8))


def banded(rng: Generator) -> Field:
    u, v = _stretch(rng, 0.4)
    position = u * between(rng, 1.2, 3) + between(rng, 0, 0.8) * noise(rng, 2)
    levels = rng.permutation(np.linspace(0, 1, 8, dtype=np.float32))
    index = np.floor(position).astype(int) % 8
    soft = ramp(_cell(position) - between(rng, -0.3, 0.3), between(rng, 0.1, 0.4))
    field: Field = levels[index] + (levels[(index + 1) % 8] - levels[index]) * soft
    return field


def blotchy(rng: Generator) -> Field:
    field = noise(rng, int(rng.integers(3, 7))) + 0.3 * noise(rng, 12)
    return ramp(field - np.quantile(field, between(rng, 0.4, 0.75)), between(rng, 0.05, 0.5))


def bubbly(rng: Generator) -> Field:
    dx, dy, number = _scatter(rng, between(rng, 0.25, 0.5))
    distance, radius = np.hypot(dx, dy), 0.25 + 0.6 * number
    rim = (1 - np.abs(distance - radius) / between(rng, 0.12, 0.25)).max(0)
    glint = (1 - np.hypot(dx + 0.4 * radius, dy + 0.4 * radius) / (0.3 * radius)).max(0)
    field: Field = np.clip(np.maximum(rim, glint), 0, 1)
    return field


def chequered(rng: Generator) -> Field:
    u, v = _stretch(rng, 0.4)
    period = between(rng, 0.4, 0.9)
    return ramp(_wave(u / period) * _wave(v / period), between(rng, 0.1, 0.8))


def cracked(rng: Generator) -> Field:
    period = between(rng, 0.4, 0.8)
    dx, dy, _ = _scatter(rng, period)
    nearest = np.partition(np.hypot(dx, dy), 1, axis=0)
    border = period * (nearest[1] - nearest[0]) + 0.15 * (fractal(rng, 8) - 0.5)
    return ramp(border - between(rng, 0.0, 0.06), between(rng, 0.06, 0.15))


def crosshatched(rng: Generator) -> Field:
    period, warp = between(rng, 0.2, 0.4), between(rng, 0.1, 0.5)
    return np.maximum(
        _lines(rng, period, between(rng, 0.2, 0.4), warp),
        _lines(rng, period, between(rng, 0.2, 0.4), warp),
    )


def dotted(rng: Generator) -> Field:
    period = between(rng, 0.25, 0.45)
    u, v = _lattice(rng, period, between(rng, 0, 0.5))
    wobble = 0.35 * (noise(rng, 10) - 0.5)
    return ramp(between(rng, 0.15, 0.28) + wobble - np.hypot(u + wobble, v - wobble), 0.2)


def flecked(rng: Generator) -> Field:
    dx, dy, number = _scatter(rng, between(rng, 0.18, 0.35))
    size = 0.3 * number - between(rng, 0, 0.05)
    return ramp((size - np.hypot(dx, dy * between(rng, 0.4, 0.9))).max(0), 0.2)


def freckled(rng: Generator) -> Field:
    dx, dy, number = _scatter(rng, between(rng, 0.2, 0.45))
    spots = ramp((0.5 * number * number - np.hypot(dx, dy)).max(0), between(rng, 0.2, 0.4))
    return np.clip(spots + 0.3 * (noise(rng, 5) - 0.5), 0, 1)


def grid(rng: Generator) -> Field:
    u, v = _stretch(rng, 0.25)
    period, thickness = between(rng, 0.3, 0.7), between(rng, 0.1, 0.3)
    across = np.maximum(_wave(u / period), _wave(v / period))
    return ramp(across - 1 + thickness, between(rng, 0.1, 0.3))


def honeycombed(rng: Generator) -> Field:
    u, v = _stretch(rng, 0.35)
    zoom, root = between(rng, 0.8, 1.7), math.sqrt(3)
    u, v = zoom * u, zoom * v
    # A hexagonal lattice is two rectangular ones; a pixel belongs to the nearer of two centres.
    centres = [(_cell(u + s) , _cell(v / root + s) * root) for s in (0, 0.5)]
    inside = [0.5 - np.maximum(np.abs(x), np.abs(x) / 2 + np.abs(y) * root / 2) for x, y in centres]
    return ramp(np.maximum(*inside) - between(rng, 0.04, 0.12), between(rng, 0.05, 0.15))


def marbled(rng: Generator) -> Field:
    u, v = _stretch(rng, 0.3)
    turbulence = between(rng, 1.2, 3) * (fractal(rng, 3, 4) - 0.5)
    return (0.5 + 0.5 * _wave(u * between(rng, 0.5, 1.2) + turbulence)) ** between(rng, 0.7, 2)


def meshed(rng: Generator) -> Field:
    u, v = _stretch(rng, 0.7)
    skew = between(rng, -0.7, 0.7)
    period, thickness = between(rng, 0.16, 0.32), between(rng, 0.3, 0.7)
    across = np.maximum(_wave(u / period + skew * v / period), _wave(v / period))
    return ramp(across - 1 + thickness, between(rng, 0.3, 0.8))


def perforated(rng: Generator) -> Field:
    u, v = _lattice(rng, between(rng, 0.3, 0.6), int(rng.integers(2)) / 2)
    radius = between(rng, 0.2, 0.36)
    hole = ramp(radius - np.hypot(u, v), 0.12)
    lip = ramp(radius - np.hypot(u - 0.1, v - 0.1), 0.2)
    return 0.6 - 0.6 * hole + 0.4 * np.clip(lip - hole, 0, 1)


def polka_dotted(rng: Generator) -> Field:
    u, v = _lattice(rng, between(rng, 0.4, 0.8), int(rng.integers(2)) / 2)
    return ramp(between(rng, 0.2, 0.34) - np.hypot(u, v), between(rng, 0.05, 0.2))


def scaly(rng: Generator) -> Field:
    u, v = _lattice(rng, between(rng, 0.35, 0.65), 0.5)
    drop = between(rng, 0.2, 0.5)
    arc = np.hypot(u, (v + 0.5) * between(rng, 0.6, 0.9)) - 0.5
    rim: Field = np.clip(1 - np.abs(arc) / between(rng, 0.1, 0.25), 0, 1)
    return rim * (1 - drop) + drop * (v + 0.5)


def striped(rng: Generator) -> Field:
    return _lines(rng, between(rng, 0.25, 0.6), between(rng, 0.35, 0.65), 0.5)


def veined(rng: Generator) -> Field:
    ridges = [np.abs(fractal(rng, int(rng.integers(2, 5))) - 0.5) for _ in range(2)]
    return ramp(between(rng, 0.015, 0.035) - np.minimum(*ridges), between(rng, 0.02, 0.06))


def woven(rng: Generator) -> Field:
    u, v = _stretch(rng, 0.35)
    period = between(rng, 0.22, 0.45)
    u, v = u / period, v / period
    over = (np.floor(u) + np.floor(v)) % 2 > 0
    across, along = np.where(over, _cell(u), _cell(v)), np.where(over, _cell(v), _cell(u))
    strand = ramp(between(rng, 0.32, 0.45) - np.abs(across), 0.2)
    tone = np.where(over, np.float32(1), np.float32(between(rng, 0.3, 0.9)))
    return strand * tone * (1 - between(rng, 0.5, 1.2) * np.abs(along))


def zigzagged(rng: Generator) -> Field:
    u, v = _stretch(rng, 0.3)
    position = u / between(rng, 0.25, 0.55) + between(rng, 0.25, 0.6) * _wave(
        v / between(rng, 0.4, 0.9)
    )
    return ramp(_wave(position) + between(rng, -0.3, 0.3), between(rng, 0.3, 0.9))


PATTERNS = {
    "banded": banded,
    "blotchy": blotchy,
    "bubbly": bubbly,
    "chequered": chequered,
    "cracked": cracked,
    "crosshatched": crosshatched,
    "dotted": dotted,
    "flecked": flecked,
    "freckled": freckled,
    "grid": grid,
    "honeycombed": honeycombed,
    "marbled": marbled,
    "meshed": meshed,
    "perforated": perforated,
    "polka-dotted": polka_dotted,
    "scaly": scaly,
    "striped": striped,
    "veined": veined,
    "woven": woven,
    "zigzagged": zigzagged,
}
