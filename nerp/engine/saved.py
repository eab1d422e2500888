"""Reading a finished run's folder."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nerp.correction.correction import CorrectionRule
from nerp.correction.sweep import Saved
from nerp.engine.record import PREDICTIONS_FILE
from nerp.errors import NerpError
from nerp.protocols import RESULT_FILE
from nerp.registry import REFERENCES, RULES

_ARRAYS = ("logits", "labels", "text_prior", "image_prior", "pairs")


@dataclass(frozen=True)
class SavedRun:
    """A NeRP test's record and arrays.

    Attributes:
        result: the content of result.json. rule: the one it was corrected with.
        arrays: predictions.npz by name.
    """

    directory: Path
    result: dict
    rule: CorrectionRule
    arrays: dict[str, np.ndarray]

    @property
    def saved(self) -> Saved:
        """What a sweep needs of it."""
        priors = {name: self.arrays[f"{name}_prior"] for name in REFERENCES.names()
                  if f"{name}_prior" in self.arrays}
        return Saved(self.arrays["logits"], self.arrays["labels"], priors, self.arrays["pairs"])


def load_run(directory: str | Path) -> SavedRun:
    """Read result.json and predictions.npz.

    Raises NerpError where one is missing or damaged, or the run was not corrected.
    """
    directory = Path(directory)
    result, predictions = directory / RESULT_FILE, directory / PREDICTIONS_FILE
    for file in (result, predictions):
        if not file.is_file():
            raise NerpError(f"no {file}: run nerp test --trainer <method>_NeRP --save-logits "
                            f"--output-dir {directory} first")
    try:
        record = json.loads(result.read_text())
        with np.load(predictions, allow_pickle=False) as content:
            arrays = dict(content)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise NerpError(f"{directory}: a damaged result.json or predictions.npz ({error}); "
                        "nerp test --overwrite makes them anew") from None
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing or "nerp" not in record:
        raise NerpError(f"{directory}: not a corrected run (no {', '.join(missing) or 'record'}): "
                        "test <method>_NeRP on novel classes with --save-logits")
    settings = {"name": "flip", **record["nerp"]["rule"]}  # flips were all there was once
    return SavedRun(directory, record, RULES[settings.pop("name")](**settings), arrays)
