"""Error messages in the caller's terms: options of a command line, or arguments in Python."""

import contextlib
import re
from collections.abc import Iterator

from nerp.base.errors import NerpError
from nerp.base.log import command_line

# An option of the command line, as messages name it -> the same in a call from Python.
_ARGUMENTS = {
    "--trainer NAME": "the first argument, trainer", "--dataset NAME": "the argument dataset",
    "--load-epoch": "epoch", "--config-file": "config", "--model-dir": "model",
    "--overwrite": "overwrite=True", "--output-dir": "output_dir", "--trainer": "trainer",
    "--dataset": "dataset", "--root": "root", "--seed": "seed", "--classes": "classes",
    "--shots": "shots", "--task": "task", "--backbone": 'options={"MODEL.BACKBONE.NAME": ...}',
    "--save-logits": "nerp.correct or nerp.test, which keep them,", "command line": "options",
}
_OPTIONS = re.compile("|".join(rf"(?<![\w-]){re.escape(option)}(?![\w-])"
                               for option in sorted(_ARGUMENTS, key=len, reverse=True)))


@contextlib.contextmanager
def in_the_callers_words() -> Iterator[None]:
    """Errors that leave this context speak of Python arguments, unless a command line is being
    carried out."""
    try:
        yield
    except NerpError as error:
        text = str(error)
        said = text if command_line.get() else _OPTIONS.sub(lambda hit: _ARGUMENTS[hit[0]], text)
        if said == text:
            raise
        raise type(error)(said) from None
