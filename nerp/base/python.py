"""Starting processes: Python for a module, without the current folder on its path.

`python -m MODULE` puts the current folder first. A file there with the name of an imported module
would be executed; in a folder from a stranger this would be the stranger's code. The command `nerp`
does not put the current folder on the path, and neither do the processes that it starts.
"""

import ctypes
import sys
from pathlib import Path

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
# The folder that contains the package. It comes last on the path, for a checkout not installed.
_HOME = str(Path(__file__).resolve().parents[2])
_CODE = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; "
    f"sys.path.extend({{{_HOME!r}}}.difference(sys.path)); "
    "sys.argv[:] = sys.argv[sys.argv.index('-m') + 1 :]; "
    "import runpy; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)
# The start of a command line that understands `-m MODULE ARGUMENT ...` as Python's own does.
PYTHON = (sys.executable, "-c", _CODE)


def end_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when its parent dies, if the kernel can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, number)


def module_command(module: str) -> tuple[str, ...]:
    """The command line that runs a module; its arguments follow."""
    return (*PYTHON, "-m", module)
