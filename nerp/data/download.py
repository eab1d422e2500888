"""Fetching one file of a benchmark: resumed where it was interrupted, checked when it is whole."""

import hashlib
import shutil
import sys
from collections.abc import Callable
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from nerp import __version__
from nerp.base.errors import NerpError
from nerp.data.sources import Source, amount

_SECONDS = 30  # without an answer before a connection counts as lost
_BLOCK = 2**20


def downloads(source: Source, target: Path) -> list[Callable[[], None]]:
    """A function for each address of a source, in the order in which they are to be tried; it
    fetches the source into `target`, which appears whole or not at all.

    It raises NerpError where the file cannot be fetched (what has arrived is kept as <target>.part,
    and the next one goes on from there) or is not what the card says (and is deleted).
    """
    fetchers = [partial(_fetch, url) for url in source.urls]
    if source.gdrive:
        fetchers.append(partial(_fetch_from_drive, source.gdrive))
    return [partial(_download, source, target, fetch) for fetch in fetchers]


def _download(source: Source, target: Path, fetch: Callable[[Path], None]) -> None:
    part = target.with_name(f"{target.name}.part")
    check_space(source.size - _size(part), target.parent)
    fetch(part)
    try:
        verify(part, source.size, source.checksum)
    except NerpError as error:
        part.unlink()
        raise NerpError(f"{error}; it has been deleted") from None
    part.replace(target)


def check_space(missing: int, directory: Path) -> None:
    """Raise NerpError where `missing` bytes do not fit on the disk of a folder."""
    free = shutil.disk_usage(directory).free
    if missing > free:
        raise NerpError(f"{amount(missing)} to download, {amount(free)} free")


def verify(file: Path, size: int, checksum: str) -> None:
    """Raise NerpError where a file is a web page, or is not of this size (0: not known) and
    checksum ("": not known)."""
    with open(file, "rb") as content:
        if content.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise NerpError("a web page, not the file")
    if size and _size(file) != size:
        raise NerpError(f"{_size(file):,} bytes instead of {size:,}")
    if checksum:
        algorithm, _, expected = checksum.partition(":")
        digest = hashlib.new(algorithm)
        with open(file, "rb") as content:
            while block := content.read(_BLOCK):
                digest.update(block)
        if digest.hexdigest() != expected:
            raise NerpError("not the file that the card describes, its "
                            f"{algorithm} is {digest.hexdigest()}")


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _fetch_from_drive(identifier: str, part: Path) -> None:
    import gdown
    from requests.exceptions import ConnectionError as Unreachable

    try:
        gdown.download(id=identifier, output=str(part), resume=True,
                       quiet=not sys.stderr.isatty())
    except Unreachable:
        raise NerpError("Google Drive cannot be reached from here") from None
    except Exception as error:  # gdown's own classes differ between its versions
        raise NerpError(f"Google Drive: {' '.join(str(error).split())}") from None
    if not part.is_file():
        raise NerpError("Google Drive: nothing was downloaded")


def _fetch(url: str, part: Path) -> None:
    """Complete `part`, going on after a lost connection for as long as anything arrives."""
    host = urlsplit(url).hostname
    while True:
        before = _size(part)
        try:
            if _fetch_rest(url, part):
                return
            reason = "broke off"
        except HTTPError as error:
            raise NerpError(f"{host} answers {error.code} {error.reason}") from None
        except URLError as error:
            reason = getattr(error.reason, "strerror", None) or error.reason
            reason = f"cannot be reached from here ({reason})"
        except (OSError, HTTPException) as error:
            reason = f"broke off ({error})"
        if _size(part) <= before:
            raise NerpError(f"{host} {reason}")


def _fetch_rest(url: str, part: Path) -> bool:
    """Append what follows to `part`; whether it is whole then, as far as the server says."""
    have = _size(part)
    headers = {"User-Agent": f"nerp/{__version__}"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=_SECONDS)
    except HTTPError as error:
        if not have or error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return True  # it had arrived whole
        part.unlink()
        return _fetch_rest(url, part)
    with response:
        if response.status == 206:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                part.unlink()
                raise OSError("the server sent another part than the one asked for")
        else:
            have = 0  # it does not resume, so it sends everything
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with (
            open(part, "ab" if have else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, disable=None) as bar,
        ):
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
    return total is None or _size(part) == total
