#!/usr/bin/env bash
# Train METHOD on all classes of ImageNet (SOURCE=another) with 16 images per class, once per seed.
# KEY VALUE pairs go to every run. See scripts/lib/experiments.sh for SEEDS, SHOTS, DRY_RUN, ...
#
#   DATA=/path/to/data bash scripts/cross_dataset_train.sh MMRL
set -euo pipefail
# shellcheck source=scripts/lib/experiments.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/experiments.sh"
usage "METHOD [KEY VALUE ...]" 1 "$@"
run_here --protocol cross_dataset --phase train --methods "$1" ${2:+--options "${@:2}"}
