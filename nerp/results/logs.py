"""Reads the log.txt of Dassl's code, as published runs have it: the settings and the result.

nerp's own logs have a record beside them, and another heading.
"""

import re
from pathlib import Path

from nerp.base.errors import NerpError
from nerp.base.printable import is_printable
from nerp.files.opening import read_text
from nerp.settings.backbones import BACKBONE_KEY, named

LOG_FILE = "log.txt"
_LONGEST = 100
_KEYS = {"DATASET.NAME", "DATASET.NUM_SHOTS", "DATASET.SUBSAMPLE_CLASSES", "SEED", "TRAINER.NAME"}
_CONFIG = "** Config **"


def read_log(path: Path) -> dict[str, str] | None:
    """The keys in `_KEYS` of a published log, its backbone if it names one, "model_dir" (of a
    test), and the numbers of its last result block, "accuracy" and so on, in percent. None for
    another kind of log, or one without a result.

    Raises NerpError for a log that does not state its settings.
    """
    text = read_text(path)
    if _CONFIG not in text:
        return None
    results = text.rpartition("=> result")[2] if "=> result" in text else ""
    numbers = dict(re.findall(r"^\* (\w+): (\d+(?:\.\d+)?)%\s*$", results, re.MULTILINE))
    if "accuracy" not in numbers:
        return None
    arguments, _, rest = text.partition(_CONFIG)
    model = re.search(r"^model_dir: (\S+)\s*$", arguments, re.MULTILINE)
    said = _config(rest)
    lacking = sorted(_KEYS - said.keys() - {"DATASET.SUBSAMPLE_CLASSES"})
    if lacking:
        raise NerpError(f"{path}: a log that does not say its {lacking[0]}; move it away")
    backbone = named(rest)
    return {"DATASET.SUBSAMPLE_CLASSES": "all", **said, **numbers,
            "model_dir": model[1] if model else "",
            **({BACKBONE_KEY: backbone} if backbone else {})}


def _config(text: str) -> dict[str, str]:
    """The wanted keys of the printed configuration, which is nested by indentation."""
    found: dict[str, str] = {}
    node = ""
    for line in text.splitlines():
        match = re.fullmatch(r"( {0,2})([A-Z_]+):(?: (.*))?", line.rstrip())
        if not match:
            continue
        node = node if match[1] else match[2]
        name = f"{node}.{match[2]}" if match[1] else match[2]
        value = (match[3] or "").strip("'\"")
        if name in _KEYS and value and len(value) <= _LONGEST and is_printable(value):
            found.setdefault(name, value)
    return found
