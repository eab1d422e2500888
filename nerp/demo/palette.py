"""Random colours [3] of several kinds, for drawn objects."""

from numpy.random import Generator

from nerp.demo.canvas import Colour, between, colour


def muted(rng: Generator) -> Colour:
    """A background colour: any hue, low saturation."""
    return colour(rng, rng.random(), between(rng, 0.05, 0.5), between(rng, 0.25, 0.9))


def vivid(rng: Generator) -> Colour:
    """A colour of painted things: any hue, high saturation."""
    return colour(rng, rng.random(), between(rng, 0.4, 0.9), between(rng, 0.4, 0.95))


def metallic(rng: Generator) -> Colour:
    """Gold, brass or steel."""
    return colour(rng, rng.choice([0.1, 0.13, 0.6]), between(rng, 0, 0.6), between(rng, 0.55, 0.9))


def leafy(rng: Generator) -> Colour:
    """A colour of plants."""
    return colour(rng, between(rng, 0.2, 0.4), between(rng, 0.4, 0.8), between(rng, 0.3, 0.7))


def white(rng: Generator) -> Colour:
    """A colour of paper or white paint."""
    return colour(rng, 0.12, 0.06, 0.93)
