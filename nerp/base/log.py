"""The log of a run, on the terminal and in log.txt."""

import contextlib
import io
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from functools import cache
from importlib.metadata import version
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TYPE_CHECKING

from nerp.base.beside import disk_error, open_appended
from nerp.base.printable import fitted, printable

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("nerp")
# The command line of the running command; the records of its runs contain it.
command_line: ContextVar[str] = ContextVar("command_line", default="")
# torchrun's variable, not torch.distributed's answer: commands without torch talk too.
logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)


class _Terminal(logging.Handler):
    """Prints an entry below a progress bar, with lines broken between words."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        text = printable(self.format(record), keep="\n\t")
        tqdm.write(fitted(text, sys.stdout), file=sys.stdout)
        sys.stdout.flush()


def say_on_terminal() -> None:
    """Send the log to standard output, except entries for log.txt only. Of several processes on one
    job, the main one prints."""
    if not any(isinstance(handler, _Terminal) for handler in logger.handlers):
        handler = _Terminal()
        handler.addFilter(lambda record: not getattr(record, "file_only", False))
        logger.addHandler(handler)
    logger.propagate = False


@contextlib.contextmanager
def on_terminal(wanted: bool) -> Iterator[None]:
    """Send the log to standard output, or keep it off, for as long as the context lasts."""
    before, propagates = list(logger.handlers), logger.propagate
    if wanted:
        say_on_terminal()
    else:
        logger.handlers[:] = [handler for handler in before if not isinstance(handler, _Terminal)]
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = before, propagates


class _LogFile(logging.FileHandler):
    """Appends to a regular file, and stops the run if that fails."""

    def __init__(self, path: Path):
        super().__init__(path, encoding="utf-8", errors="backslashreplace")

    def _open(self) -> io.TextIOWrapper:
        return io.TextIOWrapper(open_appended(self.baseFilename), self.encoding, self.errors)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        assert error is not None  # logging calls this method while it handles an error
        if not isinstance(error, OSError):
            raise error
        raise disk_error(self.baseFilename, error, len(self.format(record))) from None

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the error of a full disk has been reported before
            super().close()


class RunLog(MemoryHandler):
    """Keeps the log of a run in memory until its folder is known, then in log.txt.

    So a run that fails before it has begun to work leaves no folder behind. `start` is when the run
    began, in seconds since 1970.
    """


    def __init__(self) -> None:
        super().__init__(capacity=0, flushLevel=logging.CRITICAL)
        self.start = time.time()
        self._began = time.monotonic()

    def seconds(self) -> float:
        """Seconds since the run began, even if the clock is changed."""
        return time.monotonic() - self._began

    def shouldFlush(self, record: logging.LogRecord) -> bool:
        return self.target is not None

    def write_to(self, directory: Path, header: str) -> None:
        """Append `header`, the entries so far and all later entries to `directory`/log.txt."""
        directory.mkdir(parents=True, exist_ok=True)
        file = _LogFile(directory / "log.txt")
        self.setTarget(file)
        file.emit(logging.makeLogRecord({"msg": header}))
        self.flush()

    def __enter__(self) -> "RunLog":
        logger.addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logger.removeHandler(self)
        file = self.target
        try:
            self.close()  # writes what is left
        finally:
            if file is not None:
                file.close()


def say(text: str, *, file_only: bool = False) -> None:
    """Write one entry to the log. `file_only`: to log.txt only, not to the terminal."""
    logger.info(text, extra={"file_only": file_only})


def environment(device: "torch.device") -> dict[str, str]:
    """What the numbers of a run may depend on, besides its configuration."""
    import torch

    from nerp import __version__

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    if device.type == "mps":
        name = f"Apple GPU, {name}"
    return {
        "nerp": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        # Versions from the packages' metadata: importing these packages would take seconds.
        "torchvision": version("torchvision"),
        "open_clip": version("open_clip_torch"),
        "pillow": version("pillow"),
        "device": name,
        "cpus": str(os.cpu_count()),
        "platform": platform.platform(),
    }


@cache
def revision() -> str:
    """The checkout's git revision, with -dirty if tracked files differ from it; "" if the package
    is installed without git."""
    package = Path(__file__).resolve().parents[1]
    if not (package.parent / ".git").exists():
        return ""
    command = ["git", "-C", str(package), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip()


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "CPU"
