#!/usr/bin/env bash
# Train METHOD on all classes of DATASET with 1, 2, 4, 8 and 16 images per class, test it on them,
# once per seed (1, 2, 3). If METHOD ends in _NeRP, the plain method is trained and NeRP corrects
# its predictions on all classes.
# KEY VALUE pairs go to every run. See scripts/lib/experiments.sh for SEEDS, SHOTS, DRY_RUN, ...
#
#   DATA=/path/to/data bash scripts/few_shot.sh CoOp eurosat
set -euo pipefail
# shellcheck source=scripts/lib/experiments.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/experiments.sh"
usage "METHOD DATASET [KEY VALUE ...]" 2 "$@"
run_here --protocol few_shot --methods "$1" --datasets "$2" ${3:+--options "${@:3}"}
