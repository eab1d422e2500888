"""Bringing one file of a benchmark, or its content, to its place in the dataset's folder."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from nerp.base.beside import fresh_folder, make_folder, own_folder, remove
from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.data.archives import unpack
from nerp.data.download import check_space, downloads, verify
from nerp.data.mirror import PAGE, Hosted, Mirror, download_hosted
from nerp.data.sources import Source, amount
from nerp.data.watched import TooLargeError


def obtain(source: Source, directory: Path, mirror: Mirror) -> None:
    """Fetch a source and unpack it, or use what is already there. The file is checked. It comes
    from the first of its addresses that answers, otherwise from a mirror. Progress is printed.

    Raises NerpError if that cannot be done, and OSError if the disk is full.
    """
    file = directory / source.file
    if source.file and os.path.lexists(file):
        try:
            verify(file, source.size, source.checksum)
        except NerpError as error:
            raise NerpError(f"{error}; delete {file} or put the right file there") from None
        if source.unpack:
            _unpack(source, file, directory)
        return
    ways = [partial(_obtain_by, fetch, source, directory) for fetch in downloads(source, directory)]
    if source.mirror:
        ways.append(partial(_obtain_from_mirror, source, directory, mirror))
    if not ways:
        raise NerpError("has to be got by hand")
    _first_that_works(ways, source.file)


def _first_that_works(ways: Iterable[Callable[[], None]], what: str) -> None:
    """Try ways until one raises no NerpError. Each failure is printed as one line; the last one is
    raised."""
    *others, last = ways
    for way in others:
        try:
            return way()
        except NerpError as error:
            say(f"{what}: {error}")
    last()


def _obtain_by(fetch: Callable[[], None], source: Source, directory: Path) -> None:
    file = directory / source.file
    say(f"{source.file}: downloading")
    fetch()
    if not source.unpack:
        return
    try:
        _unpack(source, file, directory)
    except NerpError as error:
        if source.checksum:  # the file is the one that the card describes, so it is kept
            raise
        file.unlink()
        raise NerpError(f"{error}; it has been deleted") from None


def _unpack(source: Source, archive: Path, directory: Path) -> None:
    """Put into place what is kept of an archive whose content the card describes."""
    say(f"{source.file}: unpacking")
    with _unpacked(archive, directory) as tree:
        if source.within:
            inner, tree = tree / source.within, tree.with_name("inner")
            if not inner.is_file():
                raise NerpError(f"{archive} holds no {source.within}")
            unpack(inner, tree)
        for member in source.unpack:
            if not (tree / member).exists():
                raise NerpError(f"{archive} holds no {member}")
        _move({tree / member: place for member, place in source.unpack.items()}, directory)


@contextlib.contextmanager
def _unpacked(archive: Path, directory: Path) -> Iterator[Path]:
    """The content of an archive, in a temporary folder for as long as the context lasts."""
    aside = fresh_folder(directory / ".unpacking")  # removes that of a run that was killed
    try:
        unpack(archive, aside / "outer")
        yield aside / "outer"
    finally:
        remove(aside)


def _move(places: Mapping[Path, str], directory: Path) -> None:
    """Move each path to its place in the dataset's folder, unless something is there."""
    for path, place in places.items():
        if not (directory / place).exists():
            make_folder((directory / place).parent, directory)
            path.rename(directory / place)


def _obtain_from_mirror(source: Source, directory: Path, mirror: Mirror) -> None:
    say(f"{source.file}: looking into {PAGE.format(source.mirror)}")
    ways = [partial(_obtain_hosted, file, source, directory, mirror)
            for file in mirror.candidates(source)]
    _first_that_works(ways, source.file)


def _obtain_hosted(hosted: Hosted, source: Source, directory: Path, mirror: Mirror) -> None:
    """Fetch a file of the mirror; keep what this source and other sources want of it."""
    aside = own_folder(directory / ".mirror")
    size = f" ({amount(hosted.size)})" if hosted.size else ""
    say(f"{source.file}: downloading {hosted.path}{size}")
    check_space(hosted.size, directory)
    try:
        file = download_hosted(hosted, aside)
        verify(file, hosted.size, hosted.checksum)
        if hosted.name == source.file and not source.unpack:
            _move({file: source.file}, directory)
        else:
            say(f"{hosted.name}: unpacking")
            with _unpacked(file, directory) as tree:
                for wanted in mirror.sources:
                    if wanted.mirror == source.mirror and not wanted.is_there(directory):
                        _move(_found(wanted, tree), directory)
        if not source.is_there(directory):
            raise NerpError(f"{hosted.path} holds no {', '.join(source.results)}")
    except NerpError as error:
            # The next call continues from an incomplete file.
        if isinstance(error, TooLargeError) or not any(aside.rglob("*.incomplete")):
            remove(aside)
        raise
    remove(aside)


def _found(source: Source, tree: Path) -> dict[Path, str]:
    """{path: its place} of everything that a source gives, wherever it lies in the tree of an
    archive of unknown form, or in the inner archive that the card describes; {} if not all is
    found."""
    wanted = source.unpack or {result: result for result in source.results}
    pairs = [(_find(tree, place) or _find(tree, member), place)
             for member, place in wanted.items()]
    found = {path: place for path, place in pairs if path}
    if all(path for path, _ in pairs):
        return found
    inner = source.unpack and _find(tree, PurePosixPath(source.within or source.file).name)
    if not inner:
        return {}
    aside = tree.with_name(f"in {source.file}")
    unpack(inner, aside)
    return _found(replace(source, file="", within=""), aside)


def _find(tree: Path, path: str) -> Path | None:
    """The entry of a tree whose path ends in `path`; of several the one nearest to the root."""
    parts = PurePosixPath(path).parts
    everything = (Path(folder, name) for folder, folders, files in os.walk(tree)
                  if "__MACOSX" not in folder for name in (*folders, *files))
    fitting = (p for p in everything if p.parts[-len(parts):] == parts)
    return min(fitting, key=lambda p: (len(p.parts), p), default=None)
