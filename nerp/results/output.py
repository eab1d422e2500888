"""Files of results: they are written whole, and whether they replaced another file is known."""

from dataclasses import dataclass
from pathlib import Path

from nerp.base.paths import write_bytes


@dataclass(frozen=True)
class Written:
    """A file that was written. size: in bytes. replaces: whether it had another content before. Its
    text is the file's name, with a remark if it replaced another content."""

    path: Path
    size: int
    replaces: bool

    def __str__(self) -> str:
        return f"{self.path}{'  (replaces another one)' if self.replaces else ''}"


def write(path: str | Path, content: str | bytes) -> Written:
    """Write a file, a text in UTF-8. Raises DiskError as `write_bytes` does."""
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    there = path.is_file()
    same = there and path.stat().st_size == len(data) and path.read_bytes() == data
    write_bytes(path, data)
    return Written(path, len(data), there and not same)
