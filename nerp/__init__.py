"""NeRP on prompt-learned CLIP: train, test on unseen classes, correct asymmetric confusion."""

__version__ = "0.1.0"
