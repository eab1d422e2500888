"""Fills in what the user leaves open, from published tables: NeRP's rule and settings, SAR's λ."""

from collections.abc import Mapping

from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.base.paths import shipped
from nerp.files.yaml_file import load_yaml, mapping
from nerp.settings.defaults import key
from nerp.settings.options import FLIP_NAMES
from nerp.settings.protocols import plain_name, protocol
from nerp.settings.tree import AUTOMATIC, COMMAND_LINE, PUBLISHED, Draft, Origin, get, leaves

# Keys that only one rule reads: giving one of them selects that rule.
_OF_THE_FLIP = {*FLIP_NAMES.values(), "NERP.THRESHOLDS"}
_OF_A_SHIFT = {"NERP.REFERENCES", "NERP.STRENGTH", "NERP.SCOPE"}
_OF_THE_ANCHORED = {"NERP.ANCHOR", "NERP.WIDTH", "NERP.LIMIT", "NERP.GUARD"}
_OF_PAIRS = {"NERP.PAIRS", "NERP.PAIRS_FILE", "NERP.PAIRS_NEIGHBOURS", "NERP.PAIRS_QUANTILE"}
# λ of SAR: the key, the file of values by method and dataset, and the shots they were chosen with.
_SAR_WEIGHT = "TRAINER.SAR.WEIGHT"
_SAR_FILE = "sar.yaml"
_SAR_SHOTS = 16


def settle_rule(draft: Draft, trainer: str) -> None:
    """Replace NERP.RULE auto by the rule it stands for, and fill in a flip's published settings.

    Auto is the flip if one of the flip's own keys was given, or if its settings are published for
    this method, dataset and protocol and are wanted. It is the anchored match if the user allows
    test images, and match if shares are given. Otherwise it is the shift. Values from the command
    line are kept.
    """
    cfg = draft.cfg
    nerp, where = cfg.NERP, f"{trainer} on {cfg.DATASET.NAME} ({protocol(cfg.TASK).name})"
    file = shipped("configs").joinpath("nerp", trainer, f"{protocol(cfg.TASK).name}.yaml")
    row = (load_yaml(file) if file.is_file() else {}).get(cfg.DATASET.NAME)
    published = nerp.THRESHOLDS == "published"
    if nerp.RULE == "auto":
        flips = _asked_for_flip(draft)
        shifts = _asked(draft) & _OF_A_SHIFT
        rule = "flip" if flips or published and row and not shifts else "shift"
        looking = _looking(draft)
        if looking and flips:
            raise NerpError(f"{min(flips)} is the flip's, which looks at no test image: say which "
                            f"is meant, NERP.RULE flip or NERP.RULE {looking}")
        rule = looking or rule
        draft.put("NERP.RULE", rule, Origin(AUTOMATIC))
        if looking:
            say(f"NeRP: test images may be looked at, so the rule is {looking} (NERP.RULE)")
        elif flips:
            say(f"NeRP: {min(flips)} is a key of the flip, so the rule is the flip (NERP.RULE)")
        elif rule == "shift" and published:
            say(f"NeRP: no published settings for {where}; the rule is the automatic shift")
    if nerp.RULE == "flip" and published:
        if row:
            say(f"NeRP: the published settings for {where}")
            origin = Origin(PUBLISHED, str(file), cfg.DATASET.NAME)
            _take_row(draft, mapping(row, str(file)), origin)
        else:
            draft.put("NERP.THRESHOLDS", "default", Origin(AUTOMATIC))
            say(f"NeRP: no published settings for {where}; the defaults apply")


def _asked(draft: Draft) -> set[str]:
    return {name for name, origin in draft.origins.items() if origin.is_asked}


def _asked_for_flip(draft: Draft) -> set[str]:
    """The given keys that select the flip. Raises NerpError if others select a shift."""
    given = _asked(draft)
    shifts, flips = given & _OF_A_SHIFT, given & (_OF_THE_FLIP | _OF_PAIRS)
    if draft.cfg.NERP.THRESHOLDS == "calibrated":
        flips -= {"NERP.THRESHOLDS"}  # a shift can be calibrated too
    if shifts:
        flips -= _OF_PAIRS  # NERP.SCOPE pairs reads them too
    if shifts and flips:
        raise NerpError(f"{min(flips)} is the flip's and {min(shifts)} a shift's: say which is "
                        "meant, NERP.RULE flip or NERP.RULE shift")
    return flips


def _looking(draft: Draft) -> str:
    """The rule that looks at test images if the user allows one; otherwise ""."""
    nerp, given = draft.cfg.NERP, _asked(draft)
    if nerp.SHARES:
        return "match"
    allowed = nerp.MAY_SEE == "test" or nerp.STREAM or given & _OF_THE_ANCHORED
    return "anchored" if allowed else ""


def _take_row(draft: Draft, row: Mapping[str, object], origin: Origin) -> None:
    """Apply a published row, except to keys from the command line, and print what it replaces."""
    for name, value in leaves(row):
        if draft.origin(name).kind == COMMAND_LINE:
            continue
        before, old = get(draft.cfg, name), draft.origin(name)
        draft.put(name, value, origin)
        if before not in (key(name).default, get(draft.cfg, name)):
            say(f"{name} {before} gives way to {get(draft.cfg, name)}, the published one ({before} "
                f"is from {old}; NERP.THRESHOLDS default keeps it)")


def settle_weight(draft: Draft, trainer: str) -> None:
    """Fill in SAR's weight for this method, dataset and number of training images, unless the user
    gave one."""
    if draft.origin(_SAR_WEIGHT).is_asked:
        return
    file, cfg = shipped("configs") / _SAR_FILE, draft.cfg
    tables = load_yaml(file)
    entry = plain_name(trainer) if plain_name(trainer) in tables else "default"
    row = mapping(tables[entry], f"{file}, {entry}")
    few = "fewer_shots" if 0 < cfg.DATASET.NUM_SHOTS < _SAR_SHOTS and row.get("fewer_shots") else ""
    name = few or cfg.DATASET.NAME
    if row.get(name):
        draft.put(_SAR_WEIGHT, row[name], Origin(PUBLISHED, str(file), f"{entry}.{name}"))
