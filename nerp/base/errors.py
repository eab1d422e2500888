"""The exceptions for problems that the user can mend, printed as one line."""

from nerp.base.printable import printable

_LONGEST, _END = 1500, 300  # characters


class NerpError(Exception):
    """A problem that the user can mend. Its text is one clear line that says what to do. The middle
    of a very long text, which may quote an untrusted file, is left out. Control codes are escaped.
    """

    def __str__(self) -> str:
        text = printable(super().__str__())
        if len(text) <= _LONGEST:
            return text
        return f"{text[: _LONGEST - _END]} ... {text[-_END:]}"


class OtherRunError(NerpError):
    """The output folder holds a run that was asked for differently."""


class DiskError(NerpError, OSError):
    """A file that cannot be written: a full disk, a limit, a folder that is read-only."""
