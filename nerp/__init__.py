"""NeRP on prompt-learned CLIP: train, test on unseen classes, correct asymmetric confusion.

`train`, `test`, `correct` and `features` do what the commands of those names do (see `nerp.api`);
they are imported when they are first asked for, since torch comes with them.
"""

import sys
from typing import TYPE_CHECKING, Any

from nerp.base import errors, registry
from nerp.base.errors import NerpError

if TYPE_CHECKING:
    from nerp.api import (
        Corrected,
        Features,
        Settings,
        Tested,
        Trained,
        correct,
        features,
        test,
        train,
    )
    from nerp.engine.model import Model, load

# The names under which code of one's own imports these two (docs/extending.md).
sys.modules |= {f"{__name__}.errors": errors, f"{__name__}.registry": registry}

__version__ = "0.1.0"
__all__ = ["Corrected", "Features", "Model", "NerpError", "Settings", "Tested", "Trained",
           "correct", "features", "load", "test", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'nerp' has no attribute {name!r}")
    from nerp import api
    from nerp.engine import model

    return getattr(model if name in ("Model", "load") else api, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
