"""The classes of demo_objects: each shape is a function of a Generator that returns its parts.

A part is a polygon [n, 2] and its RGB colour [3]. Coordinates are -1..1, y downwards, and an object
about fills this frame. Later parts cover earlier ones.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike
from PIL import ImageDraw

from nerp.demo.canvas import (
    Bytes,
    Colour,
    Picture,
    bar,
    between,
    blend,
    box,
    colour,
    coordinates,
    ellipse,
    flat,
    fractal,
    ink,
    open_canvas,
    photograph,
    ramp,
    ring,
    scaled,
    to_picture,
    turn,
)
from nerp.demo.palette import leafy, metallic, muted, vivid, white

Part = tuple[ArrayLike, Colour]


def draw(label: int, rng: Generator) -> Bytes:
    """A picture of the object with this label (the order of `SHAPES`): uint8 [64, 64, 3]."""
    image, pen = open_canvas(_scene(rng))
    for _ in range(rng.integers(0, 4)):
        _draw_clutter(rng, pen, between(rng, 0.1, 0.45))
    _draw_object(rng, pen, list(SHAPES.values())[label](rng))
    if rng.random() < 0.25:
        _draw_clutter(rng, pen, between(rng, 0.1, 0.3))
    return photograph(rng, to_picture(image), haze=0.35, grain=0.06)


def _scene(rng: Generator) -> Picture:
    """A background: a wall and, most times, the edge of a table or floor, both uneven."""
    picture = flat(muted(rng))
    if rng.random() < 0.7:
        _, v = coordinates(rng, rng.normal(0, 0.15), 0.1)
        picture = blend(picture, muted(rng), ramp(v - between(rng, -0.3, 0.8), 0.05))
    uneven = fractal(rng, int(rng.integers(2, 12))) - 0.5
    return picture * (1 + between(rng, 0, 0.7) * uneven)[..., None]


def _draw_object(rng: Generator, pen: ImageDraw.ImageDraw, parts: Iterable[Part]) -> None:
    """Draw parts under a random size, stretch, tilt, mirroring and position."""
    size = between(rng, 0.48, 0.88)
    stretch = np.array([rng.choice([-1, 1]) * between(rng, 0.8, 1.2), between(rng, 0.85, 1.15)])
    angle = rng.normal(0, 0.35)
    shift = rng.uniform(-1, 1, 2) * (1.05 - size)
    for points, rgb in parts:
        placed = turn(np.asarray(points) * stretch, angle, size, shift)
        pen.polygon(scaled(placed), fill=ink(rgb), outline=ink(0.6 * rgb))


def _draw_clutter(rng: Generator, pen: ImageDraw.ImageDraw, size: float) -> None:
    """Draw one plain shape that belongs to no class."""
    kind = rng.integers(4)
    if kind == 0:
        points = ellipse(0, 0, 1, between(rng, 0.3, 1))
    elif kind == 1:
        points = box(-1, -between(rng, 0.1, 1), 1, between(rng, 0.1, 1))
    elif kind == 2:
        points = bar((-2, 0), (2, 0), 0.1)
    else:
        points = rng.uniform(-1, 1, (int(rng.integers(3, 6)), 2))
    points = turn(points, between(rng, 0, 2 * math.pi), size, rng.uniform(-1, 1, 2))
    pen.polygon(scaled(points), fill=ink(muted(rng)))


def _tilted(parts: Iterable[Part], angle: float) -> list[Part]:
    return [(turn(points, angle), rgb) for points, rgb in parts]


def _trapezium(
    top_half: float, top: float, bottom_half: float, bottom: float
) -> list[tuple[float, float]]:
    return [(-top_half, top), (top_half, top), (bottom_half, bottom), (-bottom_half, bottom)]


def _wheels(rng: Generator, positions: Iterable[float], y: float, radius: float) -> list[Part]:
    tyre, hub = colour(rng, 0, 0, 0.15), metallic(rng)
    rings = ((radius, tyre), (radius * 0.5, hub))
    return [(ellipse(x, y, r), rgb) for x in positions for r, rgb in rings]


def apple(rng: Generator) -> list[Part]:
    skin = colour(rng, rng.choice([0.0, 0.02, 0.13, 0.25]), 0.75, between(rng, 0.6, 0.9))
    # A cardioid-like outline: dented where the stalk grows, a little flat at the bottom.
    t = np.linspace(0, 2 * math.pi, 28)[:-1]
    radius = 0.75 - 0.3 * np.exp(-8 * (1 + np.cos(t))) + 0.06 * np.cos(2 * t)
    body = np.stack([between(rng, 1, 1.2) * radius * np.sin(t), radius * np.cos(t) + 0.2], 1)
    parts: list[Part] = [
        (body, skin),
        (bar((0, -0.15), (between(rng, -0.2, 0.2), -0.85), 0.12), colour(rng, 0.08, 0.6, 0.3)),
    ]
    if rng.random() < 0.7:
        parts.append((turn(ellipse(0, 0, 0.32, 0.13), 0.4, 1, (0.32, -0.65)), leafy(rng)))
    return parts


def ball(rng: Generator) -> list[Part]:
    skin, pattern = vivid(rng), rng.integers(3)
    parts: list[Part] = [(ellipse(0, 0, 0.85), skin)]
    other = white(rng) if rng.random() < 0.5 else vivid(rng)
    if pattern == 0:
        for k in range(3):
            wedge = np.vstack([[[0, 0]], ellipse(0, 0, 0.83, start=k / 3, stop=k / 3 + 1 / 6)])
            parts.append((wedge, other))
    elif pattern == 1:
        parts.append((ellipse(0, 0, 0.83, 0.3), other))
    else:
        parts += [(ring(x, 0, 0.85, 0.08, s, s + 0.3), 0.4 * skin)
                  for x, s in ((-1, -0.15), (1, 0.35))]
        parts.append((bar((0, -0.83), (0, 0.83), 0.08), 0.4 * skin))
    return _tilted(parts, between(rng, 0, math.pi))


def book(rng: Generator) -> list[Part]:
    cover, page = vivid(rng), white(rng)
    wide, tall, thick = between(rng, 0.5, 0.7), between(rng, 0.75, 0.95), between(rng, 0.1, 0.2)
    parts: list[Part] = [
        (box(-wide + thick, -tall + thick, wide + thick, tall + thick), 0.6 * cover),
        (box(-wide + thick, -tall + thick, wide + 0.7 * thick, tall + 0.6 * thick), page),
        (box(-wide, -tall, wide, tall), cover),
        (box(-wide, -tall, -wide + 0.15, tall), 0.7 * cover),
    ]
    label = page if rng.random() < 0.5 else vivid(rng)
    parts.append((box(-0.5 * wide, -0.6 * tall, 0.75 * wide, -0.35 * tall), label))
    if rng.random() < 0.5:
        parts.append((box(-0.3 * wide, -0.2 * tall, 0.55 * wide, -0.1 * tall), label))
    return parts


def bottle(rng: Generator) -> list[Part]:
    glass = leafy(rng) if rng.random() < 0.5 else vivid(rng)
    body, neck, shoulder = between(rng, 0.26, 0.38), between(rng, 0.09, 0.15), between(rng, -0.4, 0)
    half = [(neck, -0.85), (neck, shoulder - 0.15), (body, shoulder + 0.15), (body, 0.95)]
    outline = half + [(-x, y) for x, y in reversed(half)]
    cap = colour(rng, rng.random(), 0.3, 0.3)
    parts: list[Part] = [(outline, glass), (box(-neck - 0.02, -1, neck + 0.02, -0.83), cap)]
    parts.append((box(-body * 0.75, shoulder, -body * 0.5, 0.8), glass + 0.2))
    if rng.random() < 0.7:
        label = white(rng) if rng.random() < 0.6 else vivid(rng)
        parts.append((box(-body, 0.25, body, 0.65), label))
    return parts


def bus(rng: Generator) -> list[Part]:
    paint, glass = vivid(rng), colour(rng, 0.55, 0.25, between(rng, 0.5, 0.9))
    top = between(rng, -0.65, -0.45)
    parts: list[Part] = [(box(-1, top, 1, 0.45), paint)]
    count = int(rng.integers(4, 7))
    for k in range(count):
        left = -0.92 + 1.84 * k / count
        parts.append((box(left, top + 0.13, left + 1.5 / count, top + 0.5), glass))
    parts.append((box(-1, 0.12, 1, 0.2), white(rng) if rng.random() < 0.5 else 0.7 * paint))
    return parts + _wheels(rng, (-0.58, 0.58), 0.45, between(rng, 0.17, 0.23))


def candle(rng: Generator) -> list[Part]:
    wax = white(rng) if rng.random() < 0.4 else vivid(rng)
    width, top = between(rng, 0.18, 0.3), between(rng, -0.45, -0.1)
    flame = np.array([(0, top - 0.55), (0.14, top - 0.2), (0, top - 0.06), (-0.14, top - 0.2)])
    parts: list[Part] = [
        (box(-width, top, width, 0.85), wax),
        (ellipse(0, top, width, 0.07), 0.85 * wax),
        (bar((0, top), (0, top - 0.15), 0.05), colour(rng, 0, 0, 0.15)),
        (flame, colour(rng, 0.1, 0.8, 0.98)),
        (0.5 * flame + (0, 0.5 * (top - 0.12)), colour(rng, 0.15, 0.4, 1)),
    ]
    if rng.random() < 0.6:
        parts.insert(0, (ellipse(0, 0.85, between(rng, 0.4, 0.65), 0.13), metallic(rng)))
    return parts


def car(rng: Generator) -> list[Part]:
    paint, glass = vivid(rng), colour(rng, 0.55, 0.25, between(rng, 0.5, 0.9))
    back, front = between(rng, -0.75, -0.5), between(rng, 0.35, 0.55)
    cabin = np.array([(back, -0.1), (back + 0.2, -0.5), (front - 0.35, -0.5), (front, -0.1)])
    window = cabin * (0.82, 0.7) + (0, -0.06)
    middle = (back + front) / 2
    parts: list[Part] = [
        (cabin, paint),
        (window, glass),
        (bar((middle, -0.5), (middle, -0.1), 0.08), paint),
        ([(-1, -0.1), (0.75, -0.12), (1, 0.08), (1, 0.38), (-1, 0.38)], paint),
        (box(0.85, 0.08, 1, 0.2), colour(rng, 0.15, 0.4, 1)),
    ]
    return parts + _wheels(rng, (-0.58, 0.58), 0.38, between(rng, 0.2, 0.27))


def clock(rng: Generator) -> list[Part]:
    rim = vivid(rng) if rng.random() < 0.6 else metallic(rng)
    face = white(rng) if rng.random() < 0.8 else muted(rng)
    dark = colour(rng, 0, 0, 0.12)
    parts: list[Part] = [(ellipse(0, 0, 0.9), rim), (ellipse(0, 0, between(rng, 0.7, 0.8)), face)]
    for k in range(12):
        a = k * math.pi / 6
        direction = np.array([math.sin(a), math.cos(a)])
        parts.append((bar(0.58 * direction, 0.68 * direction, 0.07), dark))
    for length in (0.36, 0.56):
        a = between(rng, 0, 2 * math.pi)
        parts.append((bar((0, 0), (length * math.sin(a), length * math.cos(a)), 0.11, 0.05), dark))
    return parts


def cup(rng: Generator) -> list[Part]:
    clay = white(rng) if rng.random() < 0.35 else vivid(rng)
    top, foot = between(rng, 0.5, 0.68), between(rng, 0.28, 0.5)
    parts: list[Part] = [(ring(top - 0.05, 0.0, 0.36, 0.14), 0.9 * clay)]
    if rng.random() < 0.4:
        parts.append((ellipse(0, 0.72, 0.95, 0.16), 0.9 * clay))
    drink = colour(rng, between(rng, 0.05, 0.15), 0.6, between(rng, 0.2, 0.6))
    return [
        *parts,
        (_trapezium(top, -0.5, foot, 0.72), clay),
        (ellipse(0, -0.5, top, 0.14), 0.8 * clay),
        (ellipse(0, -0.49, top * 0.85, 0.1), drink),
    ]


def envelope(rng: Generator) -> list[Part]:
    paper = white(rng) if rng.random() < 0.6 else muted(rng)
    tall, tip = between(rng, 0.5, 0.68), between(rng, -0.05, 0.2)
    line = 0.6 * paper
    parts: list[Part] = [(box(-0.95, -tall, 0.95, tall), paper)]
    parts += [(bar((s * 0.95, tall), (s * 0.2, tip - 0.1), 0.05), line) for s in (-1, 1)]
    parts.append(([(-0.95, -tall), (0.95, -tall), (0, tip)], 0.88 * paper))
    if rng.random() < 0.5:
        parts.append((ellipse(0, tip - 0.05, 0.13), colour(rng, 0.02, 0.8, 0.7)))
    return parts


def house(rng: Generator) -> list[Part]:
    wall, roof = muted(rng), colour(rng, between(rng, -0.05, 0.1), 0.6, between(rng, 0.3, 0.7))
    wide, eaves = between(rng, 0.55, 0.8), between(rng, -0.25, 0.05)
    pane, door = colour(rng, 0.55, 0.3, between(rng, 0.5, 0.95)), between(rng, -0.4, 0.2)
    chimney = [(box(0.3, -0.85, 0.48, -0.3), 0.8 * roof)] if rng.random() < 0.6 else []
    return [
        *chimney,
        (box(-wide, eaves, wide, 0.9), wall),
        (_trapezium(between(rng, 0, 0.4), -0.9, wide + 0.15, eaves), roof),
        (box(door, 0.35, door + 0.25, 0.9), 0.7 * roof),
        *((box(x, eaves + 0.15, x + 0.24, eaves + 0.4), pane) for x in (-0.45, 0.22)),
    ]


def key(rng: Generator) -> list[Part]:
    metal, radius = metallic(rng), between(rng, 0.28, 0.4)
    parts: list[Part] = [
        (ring(-0.65, 0, radius, between(rng, 0.1, 0.18)), metal),
        (bar((-0.66 + radius, 0), (1, 0), 0.15), metal),
    ]
    for x in np.linspace(0.92, between(rng, 0.45, 0.65), int(rng.integers(2, 4))):
        parts.append((bar((x, 0), (x, between(rng, 0.2, 0.38)), 0.13), metal))
    return _tilted(parts, rng.normal(0, 0.6))


def lamp(rng: Generator) -> list[Part]:
    shade = colour(rng, between(rng, 0.05, 0.2), between(rng, 0.1, 0.7), 0.9)
    shade = shade if rng.random() < 0.5 else vivid(rng)
    stand = metallic(rng) if rng.random() < 0.5 else muted(rng)
    top, rim, low = between(rng, 0.2, 0.4), between(rng, 0.55, 0.8), between(rng, -0.2, 0.1)
    return [
        (bar((0, low), (0, 0.85), between(rng, 0.08, 0.25)), stand),
        (ellipse(0, 0.87, between(rng, 0.3, 0.5), 0.12), stand),
        (_trapezium(top, -0.9, rim, low), shade),
        (bar((-rim, low), (rim, low), 0.06), 0.8 * shade),
    ]


def leaf(rng: Generator) -> list[Part]:
    green = leafy(rng) if rng.random() < 0.75 else colour(rng, between(rng, 0.02, 0.13), 0.7, 0.7)
    width = between(rng, 0.35, 0.6)
    t = np.linspace(0, math.pi, 14)
    side = np.stack([width * np.sin(t) ** between(rng, 0.8, 1.3), -0.95 * np.cos(t) - 0.1], 1)
    vein = green * 0.65 if rng.random() < 0.6 else green + 0.2
    parts: list[Part] = [(np.vstack([side, side[::-1] * (-1, 1)]), green)]
    parts.append((bar((0, -0.95), (0, 1), 0.05, 0.09), vein))
    for y in np.linspace(-0.4, 0.5, int(rng.integers(3, 5))):
        parts += [(bar((0, y), (s * width * 0.7, y - 0.3), 0.04), vein) for s in (-1, 1)]
    return _tilted(parts, rng.normal(0, 0.6))


def mushroom(rng: Generator) -> list[Part]:
    cap = colour(rng, between(rng, -0.03, 0.12), between(rng, 0.3, 0.85), between(rng, 0.4, 0.85))
    stalk, low = colour(rng, 0.12, 0.15, between(rng, 0.7, 0.95)), between(rng, -0.1, 0.15)
    wide, thick = between(rng, 0.65, 0.95), between(rng, 0.14, 0.28)
    parts: list[Part] = [
        (_trapezium(thick, low, 1.3 * thick, 0.9), stalk),
        (ellipse(0, low, wide, between(rng, 0.6, 0.9), 0.5, 1), cap),
        (ellipse(0, low, wide, 0.12), 0.85 * cap),
    ]
    if rng.random() < 0.5:
        for x, y in ((-0.4, 0.22), (0.05, 0.42), (0.42, 0.2)):
            parts.append((ellipse(wide * x, low - y, 0.1, 0.08), white(rng)))
    return parts


def spoon(rng: Generator) -> list[Part]:
    metal = metallic(rng) if rng.random() < 0.8 else colour(rng, 0.08, 0.5, 0.5)
    wide, long = between(rng, 0.22, 0.34), between(rng, 0.34, 0.46)
    parts: list[Part] = [
        (bar((0, -0.3), (0, 1), 0.1, between(rng, 0.12, 0.2)), metal),
        (ellipse(0, -0.55, wide, long), metal),
        (ellipse(0, -0.55, 0.7 * wide, 0.75 * long), 0.8 * metal),
    ]
    return _tilted(parts, rng.normal(0, 0.6))


def star(rng: Generator) -> list[Part]:
    points, inner = int(rng.choice([5, 5, 5, 6])), between(rng, 0.35, 0.5)
    angle = np.arange(2 * points) * math.pi / points
    radius = np.where(np.arange(2 * points) % 2 == 0, 0.95, 0.95 * inner)
    corners = np.stack([radius * np.sin(angle), -radius * np.cos(angle)], 1)
    fill = colour(rng, 0.14, 0.75, 0.9) if rng.random() < 0.5 else vivid(rng)
    parts: list[Part] = [(corners, fill)]
    if rng.random() < 0.4:
        parts.append((corners * 0.55, white(rng) if rng.random() < 0.5 else 0.7 * fill))
    return parts


def tent(rng: Generator) -> list[Part]:
    cloth, wide = vivid(rng), between(rng, 0.8, 1)
    top, side, gap = between(rng, -0.75, -0.5), between(rng, 0, 0.4), between(rng, 0.12, 0.28)
    return [
        ([(-wide + side, 0.75), (-side, top), (side, top), (wide, 0.75)], 0.75 * cloth),
        ([(-wide, 0.75), (-side, top), (wide - 2 * side, 0.75)], cloth),
        ([(-side - gap, 0.75), (-side, top + 0.35), (-side + gap, 0.75)], 0.3 * cloth),
    ]


def tree(rng: Generator) -> list[Part]:
    crown, bark = leafy(rng), colour(rng, 0.07, 0.5, between(rng, 0.25, 0.5))
    if rng.random() < 0.15:
        crown = colour(rng, between(rng, 0.03, 0.12), 0.8, 0.7)
    width = between(rng, 0.1, 0.2)
    parts: list[Part] = [(box(-width, 0.1, width, 0.95), bark)]
    if rng.random() < 0.4:
        for y, wide in ((0.45, 0.7), (0.05, 0.55), (-0.35, 0.4)):
            parts.append(([(-wide, y), (0, y - 0.65), (wide, y)], crown))
        return parts
    for x, y in ((-0.32, 0), (0.32, 0), (0, -0.4), (0, -0.1)):
        radius = between(rng, 0.38, 0.52)
        parts.append((ellipse(x, y, radius), crown * between(rng, 0.85, 1.1)))
    return parts


def umbrella(rng: Generator) -> list[Part]:
    cloth = vivid(rng)
    middle = vivid(rng) if rng.random() < 0.6 else cloth
    stick = colour(rng, 0.08, 0.4, between(rng, 0.2, 0.5))
    edge, height = between(rng, -0.15, 0.1), between(rng, 0.6, 0.8)
    parts: list[Part] = [
        (bar((0, -0.9), (0, 0.8), 0.08), stick),
        (ring(0.16, 0.78, 0.2, 0.09, 0, 0.5), stick),
        (ellipse(0, edge, 0.95, height, 0.5, 1), cloth),
        (ellipse(0, edge, 0.32, height, 0.5, 1), middle),
    ]
    # Scallops along the hem: the cloth hangs down between the ribs.
    for x, rgb in ((-0.63, cloth), (0, middle), (0.63, cloth)):
        parts.append((ellipse(x, edge, 0.315, 0.12, 0, 0.5), rgb))
    return parts


SHAPES = {
    shape.__name__: shape
    for shape in (
        apple, ball, book, bottle, bus, candle, car, clock, cup, envelope,
        house, key, lamp, leaf, mushroom, spoon, star, tent, tree, umbrella,
    )
}
