"""Whether the Hugging Face hub can be reached; without it only files that are there are taken."""

import contextlib
import logging
import os
import socket
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

_HUB = "https://huggingface.co"
_SECONDS = 5.0  # until an address that does not answer counts as out of reach


@contextlib.contextmanager
def without_waiting() -> Iterator[None]:
    """Downloads from the hub in which its package does not try again and again, with a line each
    time, where there is no network: it takes what its cache holds, or fails at once."""
    from huggingface_hub import constants
    from huggingface_hub.utils import logging as hub_logging

    before, level = constants.HF_HUB_OFFLINE, hub_logging.get_verbosity()
    constants.HF_HUB_OFFLINE = before or not _reachable()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        hub_logging.set_verbosity(level)


def _reachable() -> bool:
    """Whether the hub answers; with a proxy, whose business that is, True."""
    address = urlsplit(os.environ.get("HF_ENDPOINT") or _HUB)
    if urllib.request.getproxies().get(address.scheme):
        return True
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), _SECONDS).close()
    except OSError:
        return False
    return True
