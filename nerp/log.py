"""Where a run says what it does: the terminal and log.txt alike."""

import contextlib
import logging
import os
import platform
import sys
from collections.abc import Iterator
from logging.handlers import MemoryHandler
from pathlib import Path

logger = logging.getLogger("nerp")
# torchrun's variable, not torch.distributed's answer: commands without torch talk too.
logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)


class _Terminal(logging.StreamHandler):
    """Prints without breaking a progress bar."""

    def emit(self, record):
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def say_on_terminal() -> None:
    """Send the log to standard output; what belongs in log.txt alone is left out.

    Of several processes on one job the main one talks.
    """
    if not any(isinstance(handler, _Terminal) for handler in logger.handlers):
        handler = _Terminal()
        handler.addFilter(lambda record: not getattr(record, "file_only", False))
        logger.addHandler(handler)
    logger.propagate = False


@contextlib.contextmanager
def on_terminal() -> Iterator[None]:
    """`say_on_terminal` for as long as the context lasts."""
    before, propagates = list(logger.handlers), logger.propagate
    say_on_terminal()
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = before, propagates


class RunLog(MemoryHandler):
    """Keeps the log of a run in memory until its folder is known, then in log.txt.

    A run that fails before it has begun to work so leaves no folder behind.
    """

    def __init__(self):
        super().__init__(capacity=0, flushLevel=logging.CRITICAL)

    def shouldFlush(self, record) -> bool:
        return self.target is not None

    def write_to(self, directory: Path, header: str) -> None:
        """Append `header`, what was said so far and what will be, to `directory`/log.txt."""
        directory.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(directory / "log.txt", encoding="utf-8")
        file.emit(logging.makeLogRecord({"msg": header}))
        self.setTarget(file)
        self.flush()

    def __enter__(self) -> "RunLog":
        logger.addHandler(self)
        return self

    def __exit__(self, *error) -> None:
        logger.removeHandler(self)
        file = self.target
        self.close()
        if file is not None:
            file.close()


def say(text: str, *, file_only: bool = False) -> None:
    """One entry of the log; `file_only` keeps it off the terminal."""
    logger.info(text, extra={"file_only": file_only})


def environment(device) -> dict[str, str]:
    """What the numbers of a run may depend on besides its configuration."""
    import open_clip
    import PIL
    import torch
    import torchvision

    from nerp import __version__

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "nerp": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "open_clip": open_clip.__version__,
        "pillow": PIL.__version__,
        "device": name,
        "cpus": str(os.cpu_count()),
        "platform": platform.platform(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "CPU"
