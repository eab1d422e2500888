"""A mirror on the Hugging Face hub: a repository that holds whole datasets, packed anew.

The names of its files are not guaranteed. So they are listed first, and the one that fits is chosen
by name: the file that a card describes, or an archive named like the dataset that holds what the
card wants somewhere inside.
"""

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePosixPath

from nerp.base.errors import NerpError
from nerp.base.paths import is_inside
from nerp.base.printable import is_printable
from nerp.data.download import NOTES, most_of
from nerp.data.sources import Source
from nerp.data.watched import TooLargeError, size_of, watched

PAGE = "https://huggingface.co/{}"
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_KINDS = ("dataset", "model")  # a repository is one or the other, which its name does not tell
_SECONDS = 30  # without an answer before the hub counts as out of reach
_SHOWN = 5  # names of files in an error


@dataclass(frozen=True)
class Hosted:
    """A file of a repository.

    Attributes:
        path: in the repository, of the kind `kind`.
        size: bytes; 0 where not known. checksum: "sha256:<hex>", "" where not known.
    """

    repository: str
    kind: str
    path: str
    size: int
    checksum: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    def is_file_of(self, source: Source) -> bool:
        """Whether this is the file that a card describes, as far as its entry in the repository
        shows."""
        other_size = source.size and self.size and source.size != self.size
        comparable = self.checksum and source.checksum.startswith("sha256:")
        other_content = comparable and source.checksum != self.checksum
        return self.name == source.file and not other_size and not other_content


class Mirror:
    """The repositories that the sources of one dataset name, each listed once.

    Args:
        names: the dataset's name and the name of its folder.
        sources: all sources of its card.
    """

    def __init__(self, names: Iterable[str], sources: Sequence[Source]):
        self.names = {_plain(name) for name in names}
        self.sources = sources
        self.listing = cache(_list)

    def candidates(self, source: Source) -> list[Hosted]:
        """The files that may hold a source, the best one first.

        Raises NerpError if the repository cannot be listed or has no such file.
        """
        hosted = self.listing(source.mirror)
        ranked = [(rank, len(file.path), file.path, file) for file in hosted
                  if (rank := self._rank(file, source)) is not None]
        if not ranked:
            some = ", ".join(file.path for file in hosted[:_SHOWN]) or "nothing"
            more = f" and {len(hosted) - _SHOWN} more" if len(hosted) > _SHOWN else ""
            raise NerpError(f"{PAGE.format(source.mirror)} has no file that fits; it has {some}"
                            f"{more}")
        return [file for *_, file in sorted(ranked, key=lambda entry: entry[:3])]

    def _rank(self, file: Hosted, source: Source) -> int | None:
        """How well a file's name fits, 0 being best; None if it does not fit."""
        *folders, name = PurePosixPath(file.path).parts
        if file.path.startswith("/") or ".." in folders:
            return None
        at_home = any(_plain(folder) in self.names for folder in folders)
        if file.is_file_of(source) and (at_home or not folders):
            return 0 if at_home else 1
        ending = next((end for end in _ARCHIVES if name.lower().endswith(end)), "")
        stem = _plain(name[: len(name) - len(ending)]) if ending else ""
        if stem in self.names:
            return 2
        if ending and any(stem.startswith(known) for known in self.names):
            return 3
        # Such as eurosat/2750.zip.
        if at_home and stem in {_plain(place) for place in source.results}:
            return 4
        return None


def download_hosted(file: Hosted, directory: Path) -> Path:
    """Fetch a file of a repository into `directory`, continuing where an earlier call was cut off.

    Raises NerpError if it cannot be fetched or is larger than the repository says, and OSError if
    the disk is full.
    """
    def fetch() -> str:
        import huggingface_hub
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented there
            disable_progress_bars,
        )

        if not sys.stderr.isatty():
            disable_progress_bars()
        return str(huggingface_hub.HfApi().hf_hub_download(
            file.repository, file.path, repo_type=file.kind, local_dir=directory
        ))

    most = max(most_of(file.size, directory), NOTES)
    with _of_the_hub():
        return Path(str(watched(fetch, partial(size_of, directory), most)))


def _list(repository: str) -> list[Hosted]:
    """The files of a repository; entries that name no file are left out. Raises NerpError if it
    cannot be listed."""
    def fetch() -> object:
        import huggingface_hub
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented there
            RepositoryNotFoundError,
        )

        for kind in _KINDS:
            try:
                info = huggingface_hub.HfApi().repo_info(
                    repository, repo_type=kind, files_metadata=True, timeout=_SECONDS
                )
            except RepositoryNotFoundError:
                continue
            return [(kind, file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else "")
                    for file in getattr(info, "siblings", None) or ()]
        return None

    with _of_the_hub():
        found = watched(fetch, lambda: 0)
    if not isinstance(found, list):
        raise NerpError(f"there is no repository {PAGE.format(repository)}")
    return [Hosted(repository, kind, path, size, checksum and f"sha256:{checksum}")
            for kind, path, size, checksum in found if _is_file(path, size, checksum)]


def _is_file(path: object, size: object, checksum: object) -> bool:
    """Whether a hub's answer describes a file."""
    return (isinstance(path, str) and bool(PurePosixPath(path).name) and is_inside(path)
            and is_printable(path) and type(size) is int and size >= 0
            and isinstance(checksum, str) and re.fullmatch("([0-9a-f]{64})?", checksum) is not None)


@contextlib.contextmanager
def _of_the_hub() -> Iterator[None]:
    """Errors raised in this context name the hub."""
    try:
        yield
    except TooLargeError:
        raise
    except NerpError as error:
        raise NerpError(f"Hugging Face: {' '.join(str(error).split())}") from None


def _plain(name: str) -> str:
    """Letters and digits only: OxfordPets, oxford_pets and oxford-pets are one name."""
    return re.sub("[^a-z0-9]", "", name.lower())
