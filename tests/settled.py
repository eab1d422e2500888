"""A configuration made by hand, as the rest of a run takes it."""

from pathlib import Path

from nerp.settings.resolve import Request, Resolved


def settled(cfg, directory=Path(".")):
    """What a request would have come to whose configuration is `cfg`."""
    return Resolved(Request(cfg.TRAINER.NAME), cfg, Path("card.yaml"), None, directory, {})
