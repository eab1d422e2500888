# Sourced by the experiment scripts, after which `run_here` and `run_sweep` are there.
# shellcheck shell=bash
#
# What the scripts read from the environment:
#   DATA      the folder that holds the datasets' folders (default: data)
#   OUTPUT    where the runs go (default: output)
#   SEEDS, SHOTS, DATASETS, SOURCE, CONFIG    instead of the published ones (nerp sweep --help)
#   GPUS=0,1 or SLURM=partition=gpu,gpus=1    where a sweep runs
#   RUNS_AT_ONCE=2    so many on each GPU, or in all where there is none
#   RUNS_PER_JOB=8    so many runs, where as many are ready, in one job of SLURM
#   DRY_RUN=1 print the command lines only

# shellcheck source=scripts/lib/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# usage NAMES COUNT ARGUMENTS... : stop, with the script's own explanation, if there are fewer, or
# with the command that is meant if they stand in the order of CoOp's scripts: DATASET SEED.
usage() {
    local names="$1" count="$2"
    shift 2
    if [ -f "$REPO/datasets/${1:-.}.yaml" ]; then
        local meant="bash $0 METHOD"
        [[ $names != *DATASET* ]] || meant+=" $1"
        [[ ! ${2:-} =~ ^[0-9]+$ ]] || meant="SEEDS=$2 $meant"
        die "$1 is a dataset; the method comes first: $meant"
    fi
    local given=0 argument
    for argument in "${@:1:count}"; do
        [ -z "${argument//[[:space:],]/}" ] || given=$((given + 1))
    done
    [ "$given" = "$count" ] && return
    say "$(sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0")"
    die "usage: bash $0 $names"
}

# The options of `nerp sweep` that the environment sets, in $SELECTION.
selection() {
    local name words
    for name in DATA OUTPUT; do
        [[ ${!name:-} != *[[:cntrl:]]* ]] || die "$name holds a line break or a control character"
    done
    SELECTION=(--root "${DATA:-data}" --output-dir "${OUTPUT:-output}")
    for name in SEEDS SHOTS DATASETS SOURCE CONFIG; do
        [ -n "${!name:-}" ] || continue
        read -rd "" -a words <<<"${!name//,/ }" || true  # words on several lines, too
        [ "${#words[@]}" -gt 0 ] || die "$name is empty; leave it out for the published choice"
        SELECTION+=("--${name,,}" "${words[@]}")
    done
}

# run_here OPTIONS... : the runs that `nerp sweep OPTIONS` plans, one after the other at this
# terminal, each command line printed before it runs; stops at the first that fails. It takes the
# place of the script, as run_sweep does.
run_here() {
    selection
    SELECTION+=(--here)
    [ -z "${DRY_RUN:-}" ] || SELECTION+=(--dry-run)
    exec nerp sweep "${SELECTION[@]}" "$@"
}

# run_sweep OPTIONS... : `nerp sweep OPTIONS`.
run_sweep() {
    selection
    [ -z "${GPUS:-}" ] || SELECTION+=(--gpus "$GPUS")
    [ -z "${SLURM:-}" ] || SELECTION+=(--slurm "$SLURM")
    [ -z "${RUNS_AT_ONCE:-}" ] || SELECTION+=(--runs-at-once "$RUNS_AT_ONCE")
    [ -z "${RUNS_PER_JOB:-}" ] || SELECTION+=(--runs-per-job "$RUNS_PER_JOB")
    [ -z "${DRY_RUN:-}" ] || SELECTION+=(--dry-run)
    exec nerp sweep "${SELECTION[@]}" "$@"
}
