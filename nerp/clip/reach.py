"""A check whether the Hugging Face hub can be reached. If not, only cached files are used."""

import contextlib
import logging
import os
import socket
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

_HUB = "https://huggingface.co"
_SECONDS = 5.0  # an address that does not answer for this long is out of reach


@contextlib.contextmanager
def without_waiting() -> Iterator[None]:
    """A context for downloads from the hub. Without a network its package uses the cache or fails
    at once; otherwise it would retry many times, with a message each time."""
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
    """Whether the hub answers. With a proxy, which makes the connection itself, always True."""
    address = urlsplit(os.environ.get("HF_ENDPOINT") or _HUB)
    if urllib.request.getproxies().get(address.scheme):
        return True
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), _SECONDS).close()
    except OSError:
        return False
    return True
