"""Where a benchmark's files come from: the entries of DATASET.SOURCES in its card."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path

from yacs.config import CfgNode

from nerp.errors import NerpError
from nerp.registry import unknown


@dataclass(frozen=True)
class Source:
    """A file to fetch, or a step that is left to the user. Keys of an entry, in upper case there.

    file: its name in the dataset's folder.
    urls: its http(s) addresses, mirrors of the same file; gdrive: its Google Drive id; mirror: a
        Hugging Face repository that has it under some name (see `nerp.data.mirror`). They are tried
        in this order.
    size: bytes; checksum: "sha256:<hex>", "sha1:..." or "md5:..."; where known.
    unpack: what is kept of an archive, {path in it: path in the dataset's folder}.
    within: the archive in the archive that `unpack` is about.
    step: what the user has to do where there is no address.
    gives: what a step without a file leads to, paths in the dataset's folder.
    """

    file: str = ""
    urls: list[str] = field(default_factory=list)
    gdrive: str = ""
    mirror: str = ""
    size: int = 0
    checksum: str = ""
    unpack: dict[str, str] = field(default_factory=dict)
    within: str = ""
    step: str = ""
    gives: list[str] = field(default_factory=list)

    @property
    def results(self) -> list[str]:
        """What there is when it is done, paths in the dataset's folder."""
        return list(self.unpack.values()) or self.gives or [self.file]

    @property
    def addresses(self) -> list[str]:
        """Where a browser finds it."""
        drive = [f"https://drive.google.com/file/d/{self.gdrive}/view"] if self.gdrive else []
        return self.urls + drive

    def is_there(self, directory: Path) -> bool:
        """Whether the dataset's folder has everything that it gives."""
        return all((directory / result).exists() for result in self.results)


def read_sources(cfg: CfgNode) -> list[Source]:
    """The sources in a card. Raises NerpError for an entry that is not one."""
    return [_source(entry, cfg.DATASET.NAME) for entry in cfg.DATASET.SOURCES]


def _source(entry: dict, name: str) -> Source:
    keys = {f.name.upper(): f for f in fields(Source)}
    empty = Source()
    for key, value in entry.items():
        if key not in keys:
            raise unknown(f"key of DATASET.SOURCES ({name})", key, keys)
        if type(value) is not type(getattr(empty, key.lower())):
            raise NerpError(f"{name}: DATASET.SOURCES, {key}: {value!r} is not of its type")
    source = Source(**{key.lower(): value for key, value in entry.items()})
    found = source.addresses or source.mirror or source.step
    if not (source.file and found or source.gives and source.step):
        raise NerpError(f"{name}: an entry of DATASET.SOURCES needs a FILE with URLS, GDRIVE, "
                        f"MIRROR or STEP, or GIVES with STEP: {entry}")
    for url in source.urls:
        if not re.match("https?://", url):
            raise NerpError(f"{name}: DATASET.SOURCES, {url}: not an http address")
    if source.mirror and not re.fullmatch(r"[\w.-]+/[\w.-]+", source.mirror):
        raise NerpError(f"{name}: DATASET.SOURCES, MIRROR {source.mirror}: not owner/name, a "
                        "repository on Hugging Face")
    if source.checksum and not re.fullmatch("(md5|sha1|sha256):[0-9a-f]+", source.checksum):
        raise NerpError(f"{name}: DATASET.SOURCES, {source.checksum}: not md5:<hex>, sha1:<hex> or "
                        "sha256:<hex>")
    return source


def amount(size: int) -> str:
    """Bytes, in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
