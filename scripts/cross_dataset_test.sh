#!/usr/bin/env bash
# Test METHOD, trained by cross_dataset_train.sh, on all classes of DATASET, once per seed. METHOD
# may end in _NeRP; DATASET may be a variant of ImageNet (imagenetv2, imagenet_sketch, imagenet_a,
# imagenet_r) or ImageNet itself.
# KEY VALUE pairs go to every run. See scripts/lib/experiments.sh for SEEDS, SHOTS, DRY_RUN, ...
#
#   DATA=/path/to/data bash scripts/cross_dataset_test.sh MMRL_NeRP eurosat
set -euo pipefail
# shellcheck source=scripts/lib/experiments.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/experiments.sh"
usage "METHOD DATASET [KEY VALUE ...]" 2 "$@"
run_here --protocol cross_dataset --phase test --methods "$1" --datasets "$2" \
    ${3:+--options "${@:3}"}
