"""`python -m nerp`, which torchrun needs (`torchrun --nproc-per-node N -m nerp train ...`)."""

import os
import sys

# The current folder, which `python -m` puts first, last: it hides nothing that is installed.
if sys.path[0] in ("", os.getcwd()):
    sys.path.append(sys.path.pop(0))

from nerp.cli import main

main()
