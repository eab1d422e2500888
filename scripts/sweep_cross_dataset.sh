#!/usr/bin/env bash
# The whole cross-dataset and domain-generalisation experiment: METHODs (default: all, plain and
# with NeRP) trained on ImageNet (SOURCE=another) and tested on it, on the ten other datasets and on
# the four variants of ImageNet, seeds 1, 2, 3. The same command skips what has finished.
# KEY VALUE pairs after the METHODs go to every run. See scripts/lib/experiments.sh for DATASETS,
# SEEDS, GPUS, SLURM, DRY_RUN, ...
#
#   DATA=/path/to/data GPUS=0,1 bash scripts/sweep_cross_dataset.sh MMRL MMRL_NeRP
#   nerp table output
set -euo pipefail
# shellcheck source=scripts/lib/experiments.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/experiments.sh"
run_sweep --protocol cross_dataset ${1:+--methods "$@"}
