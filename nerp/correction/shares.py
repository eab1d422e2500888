"""Reads the shares of the classes under test from a user's file."""

from collections.abc import Sequence

from nerp.base.errors import NerpError
from nerp.base.printable import brief
from nerp.data.benchmark import comparable
from nerp.files.json_file import is_number, read_json


def read_shares(file: str, classnames: Sequence[str]) -> dict[str, float]:
    """The shares in a JSON file {class name: share}, in the order of `classnames`; {} of "".

    Case does not matter, and underscores are spaces. Raises NerpError, naming the file, if it lacks
    a class, has another class, or has shares that are not positive or do not sum to 1.
    """
    if not file:
        return {}
    content = {comparable(name): value for name, value in read_json(file).items()}
    wanted = {comparable(name): name for name in classnames}
    missing = [name for key, name in wanted.items() if key not in content]
    if missing:
        raise NerpError(f"{file}: no share of {brief(missing[0])}; each class under test has one")
    further = [key for key in content if key not in wanted]
    if further:
        raise NerpError(f"{file}: {brief(further[0])} is no class under test")
    shares: dict[str, float] = {}
    for key, share in content.items():
        if not is_number(share) or not share > 0:
            raise NerpError(f"{file}: the share of {brief(key)} is {brief(share)}; it is a number "
                            "above 0")
        shares[key] = share
    total = sum(shares.values())
    if abs(total - 1) > 1e-4:
        raise NerpError(f"{file}: the shares sum to {total:g}; they sum to 1")
    return {name: shares[key] / total for key, name in wanted.items()}
