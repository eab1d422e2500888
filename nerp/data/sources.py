"""Where a benchmark's files come from: the entries of DATASET.SOURCES in its card."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.paths import is_inside
from nerp.base.printable import brief, is_printable
from nerp.base.registry import unknown

_PATHS = ("FILE", "UNPACK", "WITHIN", "GIVES")  # what names paths, in an archive or in the folder


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
        """What exists when the source is done: paths in the dataset's folder."""
        return list(self.unpack.values()) or self.gives or [self.file]

    @property
    def addresses(self) -> list[str]:
        """The addresses where a browser finds it."""
        drive = [f"https://drive.google.com/file/d/{self.gdrive}/view"] if self.gdrive else []
        return self.urls + drive

    def is_there(self, directory: Path) -> bool:
        """Whether the dataset's folder has everything that it gives."""
        return all((directory / result).exists() for result in self.results)


def read_sources(cfg: CfgNode) -> list[Source]:
    """The sources in a card. Raises NerpError for an entry that is not one."""
    return [_source(entry, cfg.DATASET.NAME) for entry in cfg.DATASET.SOURCES]


def _source(entry: dict[str, Any], name: str) -> Source:
    keys = {f.name.upper(): f for f in fields(Source)}
    empty = Source()
    where = f"{name}: DATASET.SOURCES"
    for key, value in entry.items():
        if key not in keys:
            raise unknown(f"key of DATASET.SOURCES ({name})", key, keys)
        texts = value if isinstance(value, list) else [*value, *value.values()] \
            if isinstance(value, dict) else [value] if isinstance(value, str) else []
        if type(value) is not type(getattr(empty, key.lower())) or not all(map(_is_line, texts)):
            raise NerpError(f"{where}, {key}: {brief(value)} is not of its type")
        for path in texts if key in _PATHS else ():
            if not _is_place(path):
                raise NerpError(f"{where}, {key}: {brief(path)}: not a path inside the dataset's "
                                "folder")
    source = Source(**{key.lower(): value for key, value in entry.items()})
    found = source.addresses or source.mirror or source.step
    if not (source.file and found or source.gives and source.step):
        raise NerpError(f"{where}: an entry needs a FILE with URLS, GDRIVE, MIRROR or STEP, or "
                        f"GIVES with STEP: {brief(entry)}")
    for url in source.urls:
        if not re.fullmatch(r"https?://[!-~]+", url):
            raise NerpError(f"{where}, {brief(url)}: not an http address")
    if source.gdrive and not re.fullmatch(r"[\w-]+", source.gdrive):
        raise NerpError(f"{where}, GDRIVE {brief(source.gdrive)}: not the id of a file there")
    if source.mirror and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source.mirror):
        raise NerpError(f"{where}, MIRROR {brief(source.mirror)}: not owner/name, a repository on "
                        "Hugging Face")
    if source.checksum and not re.fullmatch("(md5|sha1|sha256):[0-9a-f]+", source.checksum):
        raise NerpError(f"{where}, {brief(source.checksum)}: not md5:<hex>, sha1:<hex> or "
                        "sha256:<hex>")
    if source.size < 0:
        raise NerpError(f"{where}, SIZE {source.size}: not a number of bytes")
    return source


def _is_line(value: object) -> bool:
    return isinstance(value, str) and is_printable(value)


def _is_place(path: str) -> bool:
    """Whether a path names something inside the folder it is joined to. Hidden names are excluded,
    because unfinished files have such names."""
    parts = path.replace("\\", "/").rstrip("/").split("/")
    return is_inside(path) and not any(part == "" or part.startswith(".") for part in parts)


def amount(size: int) -> str:
    """A number of bytes, in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
