"""Fetching one file of a benchmark: resumed after an interruption, checked when it is complete."""

import errno
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
from nerp.base.beside import make_folder, open_appended, own_folder, remove
from nerp.base.errors import NerpError
from nerp.data.sources import Source, amount
from nerp.data.watched import TooLargeError, size_of, watched
from nerp.files.opening import opened

_SECONDS = 30  # without an answer before a connection counts as lost
_BLOCK = 2**20
_SPARED = 0.9  # of the free disk, for a file of a size that nobody states
# Bytes that a library may write besides, such as its cookies.
NOTES = 2**20
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def downloads(source: Source, directory: Path) -> list[Callable[[], None]]:
    """One function per address of a source, in the order in which to try them. It fetches the
    source into the folder; its file appears whole or not at all.

    It raises NerpError if the file cannot be fetched, or is larger or different from what the card
    says. In the first case, what has arrived is kept as <file>.part and the next function continues
    from there. In the second case the file is deleted.
    """
    fetchers = [partial(_fetch_watched, url) for url in source.urls]
    if source.gdrive:
        fetchers.append(partial(_fetch_from_drive, source.gdrive))
    return [partial(_download, source, directory, fetch) for fetch in fetchers]


def _download(source: Source, directory: Path, fetch: Callable[[Path, int], None]) -> None:
    target = directory / source.file
    make_folder(target.parent, directory)
    part = target.with_name(f"{target.name}.part")
    if source.size and size_of(part) > source.size:
        remove(part)
    check_space(source.size - size_of(part), target.parent)
    try:
        fetch(part, most_of(source.size, part))
        verify(part, source.size, source.checksum)
    except TooLargeError as error:
        remove(part)
        stated = f", and the card says {source.size:,}" if source.size else ""
        raise NerpError(f"{error}{stated}; it has been deleted") from None
    except WrongFileError as error:
        remove(part)
        raise NerpError(f"{error}; it has been deleted") from None
    part.replace(target)


def most_of(size: int, arriving: Path) -> int:
    """The largest size in bytes that a file may have: its stated size or, if that is 0, what has
    arrived of it plus the free space on the disk."""
    free = shutil.disk_usage(arriving.parent).free
    return size or size_of(arriving) + int(free * _SPARED) + 1


def check_space(missing: int, directory: Path) -> None:
    """Raise NerpError if `missing` bytes do not fit on the disk of a folder."""
    free = shutil.disk_usage(directory).free
    if missing > free:
        raise NerpError(f"{amount(missing)} to download, {amount(free)} free")


class WrongFileError(NerpError):
    """A file that is not the expected one."""


def verify(file: Path, size: int, checksum: str) -> None:
    """Raise WrongFileError if a file is a web page, or does not have this size (0: not known) and
    checksum ("": not known). Raise NerpError if it is no file."""
    with opened(file) as content:
        if content.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise WrongFileError("a web page, not the file")
        if size and size_of(file) != size:
            raise WrongFileError(f"{size_of(file):,} bytes instead of {size:,}")
        if checksum:
            algorithm, _, expected = checksum.partition(":")
            digest = hashlib.new(algorithm)
            content.seek(0)
            while block := content.read(_BLOCK):
                digest.update(block)
            if digest.hexdigest() != expected:
                raise WrongFileError("not the file that the card describes, its "
                                     f"{algorithm} is {digest.hexdigest()}")


def _fetch_from_drive(identifier: str, part: Path, most: int) -> None:
    """Fetch a file into `part`; the library keeps unfinished files in a folder of their own."""
    aside = own_folder(part.with_name(f".{part.name}"))
    file = aside / "file"

    def fetch() -> None:
        import gdown
        from requests.exceptions import ConnectionError as Unreachable

        try:
            gdown.download(id=identifier, output=str(file), resume=True,
                           quiet=not sys.stderr.isatty())
        except Unreachable:
            raise NerpError("it cannot be reached from here") from None
        if not file.is_file():
            raise NerpError("nothing was downloaded")

    try:
        watched(fetch, partial(size_of, aside), max(most, NOTES))
    except TooLargeError:
        remove(aside)
        raise
    except NerpError as error:
        raise NerpError(f"Google Drive: {' '.join(str(error).split())}") from None
    file.replace(part)
    remove(aside)


def _fetch_watched(url: str, part: Path, most: int) -> None:
    try:
        watched(partial(_fetch, url, part), partial(size_of, part), most)
    except TooLargeError:
        raise
    except NerpError as error:
        host = str(urlsplit(url).hostname)
        raise NerpError(str(error) if str(error).startswith((host, str(part)))
                        else f"{host}: {error}") from None


def _fetch(url: str, part: Path) -> None:
    """Complete `part`. After a lost connection it continues, as long as anything arrives."""
    host = urlsplit(url).hostname
    while True:
        before = size_of(part)
        try:
            if _fetch_rest(url, part):
                return
            reason = "broke off"
        except NerpError:
            raise
        except HTTPError as error:
            raise NerpError(f"{host} answers {error.code} {error.reason}") from None
        except URLError as error:
            why = getattr(error.reason, "strerror", None) or error.reason
            reason = f"cannot be reached from here ({why})"
        except (OSError, HTTPException) as error:
            if getattr(error, "errno", None) in _OF_THE_DISK:
                raise
            reason = f"broke off ({error})"
        except ValueError as error:
            raise NerpError(f"{host} answers what is no answer ({error})") from None
        if size_of(part) <= before:
            raise NerpError(f"{host} {reason}")


def _fetch_rest(url: str, part: Path) -> bool:
    """Append the rest to `part`; returns whether it is complete, as far as the server says."""
    have = size_of(part)
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
            open_appended(part) as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, disable=None) as bar,
        ):
            if not have:
                file.truncate(0)
            while block := response.read1(_BLOCK):  # what has come, so that its growth is seen
                file.write(block)
                file.flush()
                bar.update(len(block))
    return total is None or size_of(part) == total
