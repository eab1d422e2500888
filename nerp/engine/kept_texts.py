"""Features of texts, kept so that an interrupted search finds them again."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from nerp.base.distributed import is_main
from nerp.base.log import environment
from nerp.clip.model import Clip
from nerp.engine.cache import Kept, cached

FOLDER = "text_features"
_FEW = 200  # fewer texts than this are encoded faster than a file is worth


class KeptTexts:
    """Encodes lists of texts, and keeps each list's features in the run's folder until the run is
    done."""

    def __init__(self, clip: Clip, directory: Path):
        self._clip = clip
        self._directory = directory

    def encode(self, texts: list[str], compute: Callable[[list[str]], Tensor]) -> Tensor:
        """`compute(texts)`, features [n, D] of n texts, on the backbone's device. Lists of fewer
        than 200 texts are computed each time and not kept."""
        if len(texts) < _FEW:
            return compute(texts)
        clip = self._clip
        parts = [clip.digest, clip.description, environment(clip.device), texts]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        place = Kept(self._directory / FOLDER / f"{key[:16]}.npz", self._directory)
        return cached([place], key, "features", (len(texts), clip.embed_dim),
                      lambda: compute(texts).cpu(), quietly=True).to(clip.device)

    def forget(self) -> None:
        """Remove the kept features."""
        if is_main():
            shutil.rmtree(self._directory / FOLDER, ignore_errors=True)
