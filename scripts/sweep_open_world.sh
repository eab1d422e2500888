#!/usr/bin/env bash
# The whole open-world experiment: METHODs (default: all, plain and with NeRP) trained on the base
# classes of the eleven datasets and tested once on all classes, seeds 1, 2, 3. It shares its
# trained models with sweep_base2new.sh. The same command skips what has finished and continues with
# the rest. KEY VALUE pairs after the METHODs go to every run. See scripts/lib/experiments.sh for
# DATASETS, SEEDS, GPUS, SLURM, DRY_RUN, ...
#
#   DATA=/path/to/data GPUS=0,1 bash scripts/sweep_open_world.sh MMRL MMRL_NeRP
#   nerp table output
set -euo pipefail
# shellcheck source=scripts/lib/experiments.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/experiments.sh"
run_sweep --protocol open_world ${1:+--methods "$@"}
