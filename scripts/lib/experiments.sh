# Sourced by the experiment scripts; defines `run_here` and `run_sweep`.
# shellcheck shell=bash
#
# What the scripts read from the environment:
#   DATA      the folder that holds the datasets' folders (default: data)
#   OUTPUT    where the runs go (default: output)
#   SEEDS, SHOTS, DATASETS, SOURCE, CONFIG    instead of the published ones (nerp sweep --help)
#   GPUS=0,1 or SLURM=partition=gpu,gpus=1    where a sweep runs
#   RUNS_AT_ONCE=2    number of runs at once on each of GPUS, or in total without GPUS
#   RUNS_PER_JOB=8    number of runs in one SLURM job, or fewer if fewer are ready
#   DRY_RUN=1 only prints the command lines

# shellcheck source=scripts/lib/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# usage NAMES COUNT ARGUMENTS... : if there are fewer than COUNT arguments, stop with the script's
# own explanation. If they have the order of CoOp's scripts (DATASET SEED), stop with the right
# command.
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
# terminal. Each command line is printed before it runs; the first failure stops the rest. `nerp`
# replaces the script's process, here and in run_sweep.
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
