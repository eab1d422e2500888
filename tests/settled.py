"""A configuration made by hand, as the rest of a run takes it."""

from pathlib import Path

from nerp.settings.protocols import plain_name
from nerp.settings.resolve import Request, Resolved


def settled(cfg, directory=Path(".")):
    """What a request would have come to whose configuration is `cfg`."""
    name = cfg.TRAINER.NAME
    return Resolved(Request(name), cfg, Path("card.yaml"), None, directory, plain_name(name), {})
