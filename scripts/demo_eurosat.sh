#!/usr/bin/env bash
# NeRP on EuroSAT's novel classes with given MMRL weights: the published quick demo. The script
# looks for the data, the CLIP weights and the MMRL weights, and says how to get what is missing.
#
#   DATA=/path/to/data bash scripts/demo_eurosat.sh [WEIGHTS]
#
# WEIGHTS is the folder of an MMRL training run, or of published weights: it holds
# MultiModalRepresentationLearner/model.pth.tar-<epoch>. Default: where base2new_train.sh puts them.
# CLIP=FILE         CLIP ViT-B/16 weights, instead of the ones in ~/.cache/clip
# PAIRS=FILE        published class pairs (class_pairs.json.gz), instead of mined ones
# REFERENCE=FILE    published mean images (zip or png), instead of the training images' mean
# OUTPUT, DRY_RUN   as in scripts/lib/experiments.sh
set -euo pipefail
# shellcheck source=scripts/lib/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/environment.sh"

data="${DATA:-data}"
output="${OUTPUT:-output}"
trained="$output/base2new/train_base/eurosat/shots_16/MMRL/vit_b16/seed1"
weights="${1:-$trained}"
missing=0

# lacks WHAT HOW: report that WHAT is missing and HOW to get it.
lacks() {
    printf 'missing: %s\n    %s\n' "$1" "$2" >&2
    missing=1
}

check_data() {
    if [ -d "$data/eurosat/2750" ] && [ -f "$data/eurosat/split_zhou_EuroSAT.json" ]; then
        echo "data: $data/eurosat"
    else
        lacks "EuroSAT in $data/eurosat (2750/ and split_zhou_EuroSAT.json)" \
            "nerp data prepare eurosat --root $(printf %q "$data")    (or DATA=where it is)"
    fi
}

check_clip() {
    local found
    if [ -n "${CLIP:-}" ]; then
        found="$CLIP"
        [ -f "$CLIP" ] || { lacks "CLIP weights $CLIP" "CLIP=FILE names them"; return; }
    else
        # Downloads them; without a network, the error says what else to do.
        found="$(python -c "$FIND_CLIP")" || { lacks "CLIP weights" "see the line above"; return; }
    fi
    echo "CLIP weights: $found"
}

FIND_CLIP='
import sys
from nerp.clip.loading import weights_file
from nerp.base.errors import NerpError
try:
    print(weights_file("ViT-B/16"))
except NerpError as error:
    sys.exit(str(error))
'

check_mmrl() {
    local train
    if compgen -G "$weights/MultiModalRepresentationLearner/model*" >/dev/null; then
        echo "MMRL weights: $weights"
        return
    fi
    printf -v train 'DATA=%q OUTPUT=%q SEEDS=1 bash %q MMRL eurosat' \
        "$data" "$output" "$REPO/scripts/base2new_train.sh"
    lacks "MMRL weights in $weights (MultiModalRepresentationLearner/model.pth.tar-<epoch>)" \
        "$train    (or give the folder of published ones)"
}

if [ -z "${DRY_RUN:-}" ]; then
    check_data
    check_clip
    check_mmrl
    [ "$missing" = 0 ] || die "the lines above say how to get what is missing"
fi

settings=(TASK B2N DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES new)
[ -z "${CLIP:-}" ] || settings+=(MODEL.BACKBONE.PATH "$CLIP")
[ -z "${PAIRS:-}" ] || settings+=(NERP.PAIRS bundle NERP.PAIRS_FILE "$PAIRS")
[ -z "${REFERENCE:-}" ] || settings+=(NERP.REFERENCE_IMAGE "$REFERENCE")
command=(nerp test --root "$data" --seed 1 --trainer MMRL_NeRP --dataset eurosat
    --config-file configs/trainers/MMRL/vit_b16.yaml --model-dir "$weights"
    --output-dir "$output/demo_eurosat" "${settings[@]}")
printf '%q ' "${command[@]}"
echo
[ -n "${DRY_RUN:-}" ] || "${command[@]}"
