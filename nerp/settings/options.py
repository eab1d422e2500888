"""Parses KEY VALUE and KEY=VALUE pairs of a command line, and gives keys this project's names."""

from collections.abc import Sequence

from nerp.base.errors import NerpError
from nerp.settings.defaults import KEYS

# Settings of the flip: their names in NeRP's release -> their names here.
FLIP_NAMES = {
    **{f"TEST.{name}": f"NERP.{name}" for name in (
        "TAU", "THRES", "RESIDUAL_TEXT_PRIOR", "RESIDUAL_IMAGE_PRIOR", "FLIP_RULE",
        "FLIP_BY_PROB", "FLIP_BY_ENTROPY", "ENTROPY_THRES",
    )},
    "TEST.TEXT_PRIOR_COE": "NERP.C_TEXT",
    "TEST.IMAGE_PRIOR_COE": "NERP.C_IMAGE",
}
# The same for every release.
RELEASE_NAMES = {
    **FLIP_NAMES,
    "TRAINER.LINEAR_PROBE.WEIGHT": "TRAINER.DEPT.WEIGHT",
    "TRAINER.LINEAR_PROBE.TEST_TIME_FUSION": "TRAINER.DEPT.FUSION",
    "OPTIM.LR_EXP": "TRAINER.DEPT.LR_FACTOR",
}
# Nodes whose keys belong to one method. LOSS is the published name of a node of ProGrad's.
METHOD_NODES = ("TRAINER", "LOSS")
# The first part of each key's name.
_NODES = {*(name.partition(".")[0] for name in KEYS), *METHOD_NODES}


def own_name(name: str) -> str:
    """The name of a key here. `name` may be its name in a release."""
    return RELEASE_NAMES.get(name, name)


def options_of(opts: Sequence[str], where: str = "command line") -> dict[str, str]:
    """Key -> value of KEY VALUE and KEY=VALUE, by this project's names. Raises NerpError for a key
    without a value."""
    found = {}
    rest = iter(opts)
    for word in rest:
        name, equals, value = word.partition("=")
        if not equals:
            after = next(rest, None)
            if after is None:
                raise NerpError(f"{where}: expected KEY VALUE pairs, found {' '.join(opts)!r}")
            value = after
        found[own_name(name)] = value
    return found


def begins_pair(word: str) -> bool:
    """Whether a word of a command line is KEY or KEY=VALUE, rather than a name, file or number."""
    top, *rest = word.partition("=")[0].split(".")
    return top in _NODES and all(part[:1].isupper() for part in rest)
