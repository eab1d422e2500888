"""Starting processes: Python for a module, without the current folder on its path.

`python -m MODULE` puts the current folder first. A file there with the name of an imported module
would be executed; in a folder from a stranger this would be the stranger's code. The command `nerp`
has no such path, and neither has what it starts.
"""

import ctypes
import sys
from pathlib import Path

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
# The folder of the package: last, for a checkout that nothing else puts on the path.
_HOME = str(Path(__file__).resolve().parents[2])
_CODE = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; "
    f"sys.path.extend({{{_HOME!r}}}.difference(sys.path)); "
    "sys.argv[:] = sys.argv[sys.argv.index('-m') + 1 :]; "
    "import runpy; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)
# A command line that takes `-m MODULE ARGUMENT ...` as Python's own does.
PYTHON = (sys.executable, "-c", _CODE)


def end_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when its parent dies, if the kernel can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, number)


def module_command(module: str) -> tuple[str, ...]:
    """The command line that runs a module; its arguments follow."""
    return (*PYTHON, "-m", module)
