#!/usr/bin/env bash
# Train METHOD on the base classes of DATASET with 16 images per class, once per seed (1, 2, 3).
# KEY VALUE pairs go to every run. See scripts/lib/experiments.sh for SEEDS, SHOTS, DRY_RUN, ...
#
#   DATA=/path/to/data bash scripts/base2new_train.sh MMRL eurosat
set -euo pipefail
# shellcheck source=scripts/lib/experiments.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/experiments.sh"
usage "METHOD DATASET [KEY VALUE ...]" 2 "$@"
run_here --protocol base_to_novel --phase train --methods "$1" --datasets "$2" \
    ${3:+--options "${@:3}"}
