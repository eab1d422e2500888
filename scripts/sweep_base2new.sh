#!/usr/bin/env bash
# The whole base-to-novel experiment: METHODs (default: all, plain and with NeRP) on the eleven
# datasets, seeds 1, 2, 3. The same command skips what has finished and continues with the rest.
# KEY VALUE pairs after the METHODs go to every run. See scripts/lib/experiments.sh for DATASETS,
# SEEDS, GPUS, SLURM, DRY_RUN, ...
#
#   DATA=/path/to/data GPUS=0,1 bash scripts/sweep_base2new.sh MMRL MMRL_NeRP
#   nerp table output
set -euo pipefail
# shellcheck source=scripts/lib/experiments.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/experiments.sh"
run_sweep --protocol base_to_novel ${1:+--methods "$@"}
