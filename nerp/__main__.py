"""`python -m nerp`, which torchrun needs (`torchrun --nproc-per-node N -m nerp train ...`)."""

from nerp.cli import main

main()
