"""The one exception that stands for a mistake of the user's."""


class NerpError(Exception):
    """Something the user can mend. Its text is one clear line that says what to do."""


class OtherRunError(NerpError):
    """The output folder holds a run that was asked for differently."""
