"""The declaration of a configuration key: its default, its type, its range, and the words for them.

    "OPTIM.LR": number(0.002, least=0)

Each function here makes a `Key`. `nerp.settings.defaults` has the table of all keys, and a method
declares its own in `Trainer.defaults`. Every value, from a file, the command line or a checkpoint,
goes through `Key.read`.
"""

import ast
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from nerp.base.errors import NerpError
from nerp.base.paths import is_inside
from nerp.base.printable import brief, has_control_codes, is_printable
from nerp.base.registry import Registry

_LONGEST_NAME = 100  # characters; a file system takes 255 bytes


@dataclass(frozen=True)
class Key:
    """One configuration key.

    Attributes:
        default: a plain value. takes: the allowed values in words, to follow "it takes".
        accept: returns the value to keep for one of the right type; raises ValueError, with or
            without words of its own, if it is out of range.
        is_file: whether it names a file or folder whose content affects a run's numbers.
    """

    default: object
    takes: str
    accept: Callable[[object], object]
    is_file: bool = False

    def read(self, value: object, where: object) -> object:
        """`value` in the form that the key keeps; a text is read as the value that it stands for.

        Raises NerpError, beginning with `where`, for a value of another type or out of range.
        """
        if isinstance(value, str) and not isinstance(self.default, str):
            value = _literal(value)
        try:
            return self.accept(value)
        except NerpError as error:
            raise NerpError(f"{where} is {brief(value)}: {error}") from None
        except ValueError:
            raise NerpError(f"{where} is {brief(value)}; it takes {self.takes} (default "
                            f"{brief(self.default)})") from None


def as_key(value: object) -> Key:
    """A key with the default `value`, its type, and no range."""
    if isinstance(value, Key):
        return value
    if isinstance(value, bool):
        return flag(value)
    if isinstance(value, int):
        return whole(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, tuple | list):
        return listing(value, ANYTHING)
    return replace(ANYTHING, default=value)


def flag(default: bool) -> Key:
    """True or False."""

    def accept(value: object) -> object:
        return _require(value, isinstance(value, bool))

    return Key(default, "True or False", accept)


def whole(default: int, least: int | None = None, most: int | None = None) -> Key:
    """A whole number, from `least` to `most`."""

    def accept(value: object) -> object:
        return _require(value, type(value) is int and _within(value, least, most))

    return Key(default, "a whole number" + _range(least, most), accept)


def number(
    default: float,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
) -> Key:
    """A finite number, from `least` (or above `above`) to `most` (or below `below`)."""

    def accept(value: object) -> object:
        if type(value) is not int and type(value) is not float:
            raise ValueError
        try:
            read = float(value)
        except OverflowError:
            raise ValueError from None
        fits = math.isfinite(read) and _within(read, least, most)
        fits = fits and (above is None or read > above) and (below is None or read < below)
        return _require(read, fits)

    return Key(default, "a number" + _range(least, most, above, below), accept)


def text(default: str, takes: str = "a text", fits: Callable[[str], object] | None = None) -> Key:
    """A text that `fits` accepts. It has no control codes except line breaks."""

    def accept(value: object) -> object:
        if not isinstance(value, str) or not is_printable(value.replace("\n", "")):
            raise ValueError
        return _require(value, fits is None or fits(value))

    return Key(default, takes, accept)


def choice(default: str, *others: str) -> Key:
    """One of several words."""
    words = (default, *others)

    def accept(value: object) -> object:
        return _require(value, value in words)

    takes = f"one of {', '.join(words)}" if others else f"{default} alone"
    return Key(default, takes, accept)


def registered(default: str, registry: Registry, *others: str) -> Key:
    """The name of a registry's entry, replaced by the entry's own name if it is an alias; or one of
    `others`."""

    def accept(value: object) -> object:
        if not isinstance(value, str):
            raise ValueError
        return value if value in others else registry.canonical(value)

    return Key(default, " or ".join([*others, f"a {registry.kind}"]), accept)


def listing(default: Sequence[object], each: Key, least: int = 0, most: int | None = None) -> Key:
    """A list of `least` to `most` entries, each of them as `each` takes it."""

    def accept(value: object) -> object:
        if isinstance(value, str):  # words as they are typed: gap,image
            value = [part.strip(" '\"") for part in value.strip("[]() ").split(",")]
        if not isinstance(value, tuple | list) or not _within(len(value), least, most):
            raise ValueError
        return (tuple if isinstance(default, tuple) else list)(map(each.accept, value))

    count = f" of {least}" if least == most else _range(least, most)
    return Key(default, f"a list{count} such as {brief(default)}, each {each.takes}", accept)


def strength(default: str) -> Key:
    """The strength of priors: auto, one number for all of them, or a list with one per prior."""
    each = number(0.0)

    def accept(value: object) -> object:
        if value == "auto":
            return value
        parts = value.strip("[]() ").split(",") if isinstance(value, str) else value
        parts = parts if isinstance(parts, tuple | list) else [parts]
        if not parts:
            raise ValueError
        return ", ".join(f"{each.accept(_literal(part)):g}" for part in parts)

    return Key(default, "auto, a number, or one for each reference such as 0.5,0.1", accept)


def logits(default: str) -> Key:
    """A number of logits above 0, or auto."""
    each = number(1.0, above=0)

    def accept(value: object) -> object:
        return value if value == "auto" else each.accept(_literal(value))

    return Key(default, "auto, or a number of logits above 0", accept)


def shares() -> Key:
    """The shares of classes: "" for equal ones, which may also be called uniform, or a file."""
    files = file("")

    def accept(value: object) -> object:
        return "" if value == "uniform" else files.accept(value)

    return Key("", "uniform, or a JSON file with a share for each class", accept, is_file=True)


def mapping(default: Mapping[str, object]) -> Key:
    """Names with values."""

    def accept(value: object) -> object:
        return _require(value, isinstance(value, Mapping))

    return Key(default, "KEY: value lines", accept)


ANYTHING = Key(None, "any value", lambda value: value)


def template(default: str) -> Key:
    """A prompt with one {} for the class name."""

    def fits(value: str) -> bool:
        return value.count("{}") == 1 and _is_plain(value.replace("{}", ""))

    return text(default, "a text with one {} for the class name", fits)


def name(default: str) -> Key:
    """A name that may become part of a path; "" for no name."""
    return text(
        default,
        f"a plain name: no / or \\, no . or - at its beginning, at most {_LONGEST_NAME} characters",
        re.compile(rf"([^\s/\\.-][^/\\\n]{{,{_LONGEST_NAME - 1}}})?").fullmatch,
    )


def inside(default: str) -> Key:
    """A path that stays in the folder it is joined to; {} may stand for a split in it."""

    def fits(value: str) -> bool:
        return is_inside(value) and _is_plain(value.replace("{}", "", 1))

    return text(default, "a path inside its folder: no .., no / at its beginning", fits)


def path(default: str) -> Key:
    """A file or folder anywhere."""

    def accept(value: object) -> object:
        return _require(value, isinstance(value, str) and not has_control_codes(value))

    return Key(default, "a path", accept)


def file(default: str) -> Key:
    """A file, or a folder of files, whose content affects a run's numbers."""
    return replace(path(default), is_file=True)


def _literal(value: object) -> object:
    """The number, True, list ... that a text stands for; a text that stands for none of them, and
    any other value, unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(value, value))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def _require(value: object, fits: object) -> object:
    if not fits:
        raise ValueError
    return value


def _is_plain(text: str) -> bool:
    """Whether `str.format` leaves a text unchanged."""
    return "{" not in text and "}" not in text


def _within(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def _range(
    least: float | None, most: float | None, above: float | None = None, below: float | None = None
) -> str:
    """A range in words, "" if there is no limit."""
    if least is not None and most is not None:
        return f" from {least:,} to {most:,}"
    ends = ((least, "of at least"), (above, "above"), (most, "at most"), (below, "below"))
    words = [f"{word} {end:,}" for end, word in ends if end is not None]
    return " " + " and ".join(words) if words else ""
