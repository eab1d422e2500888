"""The exceptions that stand for what the user can mend, printed as one line."""


class NerpError(Exception):
    """Something the user can mend. Its text is one clear line that says what to do."""


class OtherRunError(NerpError):
    """The output folder holds a run that was asked for differently."""


class DiskError(NerpError, OSError):
    """A file that cannot be written: a full disk, a limit, a folder that is read-only."""
