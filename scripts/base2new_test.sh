#!/usr/bin/env bash
# Test METHOD on the base and on the novel classes of DATASET, once per seed (1, 2, 3). METHOD may
# end in _NeRP. It is the model that base2new_train.sh trains with the same settings.
# KEY VALUE pairs go to every run. See scripts/lib/experiments.sh for SEEDS, SHOTS, DRY_RUN, ...
#
#   DATA=/path/to/data bash scripts/base2new_test.sh MMRL_NeRP eurosat
set -euo pipefail
# shellcheck source=scripts/lib/experiments.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/experiments.sh"
usage "METHOD DATASET [KEY VALUE ...]" 2 "$@"
run_here --protocol base_to_novel --phase test --methods "$1" --datasets "$2" \
    ${3:+--options "${@:3}"}
