# Sourced by the scripts: an environment with nerp in it.
# shellcheck shell=bash
#
# After it, $REPO is the checkout and `nerp` the installed command. A second call finds the
# environment ready and returns at once. Messages go to standard error. The environment is:
#   - the folder NERP_VENV, with the pinned, tested packages;
#   - else an active one (venv, conda) that has torch: nerp is installed in it, its torch stays;
#   - else .venv, with the pinned, tested packages.
# PYTHON       the interpreter that .venv is made with
# NERP_TORCH   the build of torch in .venv, a folder of https://download.pytorch.org/whl: cpu (a
#              quarter of the size), cu126, ...; default: the one that pip finds, which has CUDA
# NERP_EXTRAS  extras of pyproject.toml to install too, such as tensorboard,hub

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
PINS="$REPO/scripts/lib/constraints.txt"
BUILDS="https://download.pytorch.org/whl"  # one folder per build of torch

# Print lines on standard error; at a terminal they are broken between words.
say() {
    local size=
    [ ! -t 2 ] || size="$(stty size <&2)"  # rows and columns; 0 0 if they are unknown
    case "${size#* }" in
        "" | 0) echo "$*" >&2 ;;
        *) fold -s -w "${size#* }" <<<"$*" >&2 ;;
    esac
}

die() {
    say "error: $*"
    exit 1
}

# The folder of the active environment, if torch is installed in it and no other is asked for.
active_environment() {
    local active="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}"
    [ -n "$active" ] && [ -z "${NERP_VENV:-}" ] && [ "$active" != "$REPO/.venv" ] &&
        "$active/bin/python" -c 'import importlib.metadata as m; m.version("torch")' 2>/dev/null &&
        echo "$active"
}

# The first interpreter that runs and is new enough; a name on the PATH may be an empty shim.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.12 python3.11 python3.10 python3.13 python3.14 \
        python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' \
            2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.10 to 3.14 found; install one or set PYTHON to it"
}

# install ARGUMENTS... : pip install into $VENV. A terminal shows pip's own output; other outputs
# show one line per package.
install() {
    local pip=("$VENV/bin/python" -m pip install --disable-pip-version-check "$@")
    if [ -t 2 ]; then
        "${pip[@]}" >&2
    else
        "${pip[@]}" | sed -unE -e '/\.metadata/d' -e 's/^Installing .*/    installing .../p' \
            -e 's#^ *(Downloading|Using cached) ([^ ]*/)?([^ ]*-[0-9][^- ]*)-[^ ]*whl#    \3#p' >&2
    fi
}

# install_or_die WHY ARGUMENTS... : `install`; if it fails, stop with an error that ends with WHY.
install_or_die() {
    install "${@:2}" ||
        die "the installation failed; the lines above say why. ${1}The same command tries again"
}

# Install the pinned, tested packages in $VENV, with the build of torch that NERP_TORCH asks for.
make_environment() {
    local python build="${NERP_TORCH:-}" size="about 6 GB" why pinned=()
    [[ $build =~ ^([a-z]+[0-9.]*)?$ ]] || die "NERP_TORCH=$build: cpu, cu126 or the like"
    python="$(find_python)" || exit 1
    [ "$build" != cpu ] || size="about 1.5 GB"
    if [ -e "$VENV/.ready" ]; then
        say "Bringing $VENV up to date${NERP_EXTRAS:+, with what $NERP_EXTRAS needs} ..."
    else
        say "Setting up $VENV (once, in minutes; $size, most of it torch) ..."
    fi
    if [ ! -x "$VENV/bin/pip" ]; then
        "$python" -m venv --clear "$VENV" ||
            die "$python cannot make a virtual environment; on Debian: apt install python3-venv"
    fi
    if [ -n "$build" ]; then
        # The builds of one folder fit each other, as torch and torchvision must.
        mapfile -t pinned < <(sed -n "s/^torch\(vision\)\?==.*/&+$build/p" "$PINS")
        why="NERP_TORCH=$build asks for ${pinned[*]} from $BUILDS/$build: that build may not be"
        why+=" there ($BUILDS lists them), or the address may be out of reach from here; without"
        why+=" NERP_TORCH it is the build that pip finds by itself. "
        install_or_die "$why" --extra-index-url "$BUILDS/$build" "${pinned[@]}"
    fi
    install_or_die "" --constraint "$PINS" --editable "$NERP"
}

# Install nerp, and the packages that it lacks, in the active environment $VENV.
use_environment() {
    say "Putting nerp into the active environment $VENV (once) ..."
    "$VENV/bin/python" -m pip freeze | grep -E '^torch(vision)?==' >"$VENV/.nerp-keeps" || true
    install_or_die "" --constraint "$VENV/.nerp-keeps" --editable "$NERP"
}

check_torch() {
    local said
    said="$("$VENV/bin/python" -c 'import torch, torchvision' 2>&1)" ||
        die "torch and torchvision in $VENV do not work together (${said##*$'\n'}): both have to" \
            "be from one folder of https://download.pytorch.org/whl, or both without one"
}

# Warn if there is a GPU that torch does not see. The check ends once torch has seen it.
warn_of_unused_gpu() {
    local gpu cuda said
    [ "${CUDA_VISIBLE_DEVICES-all}" != "" ] && [ "${NERP_TORCH:-}" != cpu ] || return 0
    gpu="$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null |
        head -n 1)" || return 0
    [ -n "$gpu" ] && [ "$(cat "$VENV/.gpu" 2>/dev/null)" != "$gpu" ] || return 0
    cuda="$(nvidia-smi | sed -n 's/.*CUDA Version: *\([0-9.]*\).*/\1/p')"
    if said="$("$VENV/bin/python" -c "$SEES_GPU" "$gpu" "$cuda" 2>&1)"; then
        echo "$gpu" >"$VENV/.gpu"
    else
        say "$said"
    fi
}

SEES_GPU='
import sys, warnings
import torch
warnings.simplefilter("ignore")
if torch.cuda.is_available():
    sys.exit(0)
gpu, supported = sys.argv[1:]
built = torch.version.cuda
say = f"warning: torch {torch.__version__} does not see the GPU ({gpu}), so runs are on the CPU: "
if not built:
    say += "it is a build without CUDA. Install one with CUDA, such as the default of pip"
elif supported and [*map(int, built.split("."))] > [*map(int, supported.split("."))]:
    say += (f"it is built for CUDA {built}, and the driver supports {supported} at most. Install a "
            f"newer driver, or a torch for CUDA {supported} or older")
else:
    try:
        torch.cuda.init()
    except Exception as error:
        say += " ".join(str(error).split())
sys.exit(f"{say}; https://pytorch.org/get-started/locally lists the builds, and in .venv "
         "NERP_TORCH=cu126 (or another) before the same command takes that one.")
'

VENV="$(active_environment)" || VENV="${NERP_VENV:-$REPO/.venv}"
[[ ${NERP_EXTRAS:-} =~ ^[a-z,]*$ ]] || die "NERP_EXTRAS=$NERP_EXTRAS: tensorboard,hub or the like"
NERP="${REPO}[slurm${NERP_EXTRAS:+,$NERP_EXTRAS}]"
stamp="$(cat "$REPO/pyproject.toml" "$PINS" <(printf %s "${NERP_TORCH:-}") | cksum)"
ready="$VENV/.ready${NERP_EXTRAS:+-$NERP_EXTRAS}"
if [ "$(cat "$ready" 2>/dev/null)" != "$stamp" ]; then
    if active_environment >/dev/null; then use_environment; else make_environment; fi
    check_torch
    echo "$stamp" | tee "$VENV/.ready" >"$ready"
fi
warn_of_unused_gpu
PATH="$VENV/bin:$PATH"
