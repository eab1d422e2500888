"""`nerp data prepare`: bring a benchmark's files into its folder."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from yacs.config import CfgNode

from nerp.data.archives import unpack
from nerp.data.benchmark import data_directory, dataset_folder
from nerp.data.download import download, verify
from nerp.data.sources import Source, read_sources
from nerp.errors import NerpError
from nerp.log import say


def plan(cfg: CfgNode) -> list[str]:
    """What `prepare` would do, a line a source; touches neither the network nor the disk."""
    directory = dataset_folder(cfg)
    return [_plan(source, directory) for source in read_sources(cfg)]


def prepare(cfg: CfgNode) -> bool:
    """Fetch and unpack what is missing; whether the dataset is complete then.

    Whatever is already there is left alone. An archive is unpacked aside and what is wanted of it
    moved into place when it is whole. Says what is left for the user to do.
    """
    directory, sources = dataset_folder(cfg), read_sources(cfg)
    if not sources:
        data_directory(cfg)  # draws a procedural benchmark
        return True
    directory.mkdir(parents=True, exist_ok=True)
    with _alone_in(directory):
        try:
            undone = [source for source in sources if not _is_obtained(source, directory)]
        finally:
            with contextlib.suppress(OSError):
                directory.rmdir()  # where nothing has arrived
    if undone:
        say("Not complete. What is left to do:")
        for source in undone:
            say(f"- {_by_hand(source, directory)}")
        say("Then run the same command again: it goes on from there.")
        return False
    for source in sources:
        archive = directory / source.file
        if source.unpack and archive.is_file():
            say(f"  {archive} ({_amount(archive.stat().st_size)}) is no longer needed")
    return True


def _plan(source: Source, directory: Path) -> str:
    if source.is_there(directory):
        return f"{_names(source)}: there"
    then = f", unpack {_names(source)}" if source.unpack else ""
    if source.file and (directory / source.file).exists():
        return f"{source.file}: there{then}"
    if not source.addresses:
        return f"by hand: {_by_hand(source, directory)}"
    size = f" ({_amount(source.size)})" if source.size else ""
    checked = f", check its {source.checksum.partition(':')[0]}" if source.checksum else ""
    return f"{source.file}: download{size} from {' or '.join(source.addresses)}{checked}{then}"


def _names(source: Source) -> str:
    return ", ".join(source.results)


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _by_hand(source: Source, directory: Path) -> str:
    if source.addresses:
        return f"download {' or '.join(source.addresses)} as {directory / source.file}"
    return f"{_names(source)}: {source.step}"


def _is_obtained(source: Source, directory: Path) -> bool:
    there = source.is_there(directory)
    try:
        if not there or source.file in source.results:  # a file is checked again: that is cheap
            _obtain(source, directory)
    except (NerpError, OSError) as error:
        say(f"{source.file or _names(source)}: {error}")
        return False
    say(f"{_names(source)}: {'there' if there else 'done'}")
    return True


def _obtain(source: Source, directory: Path) -> None:
    file = directory / source.file
    found = bool(source.file) and file.exists()
    if found:
        try:
            verify(file, source)
        except NerpError as error:
            raise NerpError(f"{error}; delete {file} or put the right file there") from None
    elif source.addresses:
        say(f"{source.file}: downloading")
        download(source, file)
    else:
        raise NerpError("has to be got by hand")
    if source.unpack:
        say(f"{source.file}: unpacking")
        try:
            _unpack(source, file, directory)
        except NerpError as error:
            if found or source.checksum:  # the user's own, or the very file the card describes
                raise
            file.unlink()
            raise NerpError(f"{error}; it has been deleted") from None


def _unpack(source: Source, archive: Path, directory: Path) -> None:
    aside = directory / ".unpacking"
    shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed
    try:
        tree = aside / "outer"
        unpack(archive, tree)
        if source.within:
            inner, tree = tree / source.within, aside / "inner"
            if not inner.is_file():
                raise NerpError(f"{archive} holds no {source.within}")
            unpack(inner, tree)
        for member in source.unpack:
            if not (tree / member).exists():
                raise NerpError(f"{archive} holds no {member}")
        for member, place in source.unpack.items():
            if not (directory / place).exists():
                (directory / place).parent.mkdir(parents=True, exist_ok=True)
                (tree / member).rename(directory / place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Hold a lock on a folder; it goes with the process, however that ends."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NerpError(f"another nerp data prepare is at work in {directory}") from None
        yield
    finally:
        os.close(handle)
