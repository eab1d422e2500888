# Sourced by the scripts: a virtual environment in .venv with the pinned, tested packages.
# shellcheck shell=bash
#
# After it, $REPO is the checkout and `nerp` the installed command. A second call finds the
# environment ready and returns at once. PYTHON names an interpreter, NERP_VENV another folder.

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
VENV="${NERP_VENV:-$REPO/.venv}"

die() {
    echo "error: $*" >&2
    exit 1
}

# The first interpreter that runs and is new enough; a name on the PATH may be an empty shim.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.12 python3.11 python3.10 python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' \
            2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.10, 3.11 or 3.12 found; install one or set PYTHON to it"
}

install_environment() {
    local python stamp
    stamp="$(cat "$REPO/pyproject.toml" "$REPO/scripts/lib/constraints.txt" | cksum)"
    [ -f "$VENV/.ready" ] && [ "$(cat "$VENV/.ready")" = "$stamp" ] && return
    python="$(find_python)" || exit 1
    echo "Setting up $VENV (once; about 6 GB, most of it torch) ..."
    if [ ! -x "$VENV/bin/pip" ]; then
        "$python" -m venv --clear "$VENV" ||
            die "$python cannot make a virtual environment; on Debian: apt install python3-venv"
    fi
    "$VENV/bin/pip" install --quiet --disable-pip-version-check \
        --constraint "$REPO/scripts/lib/constraints.txt" --editable "${REPO}[dev,slurm]" ||
        die "the installation failed; the lines above say why. The same command tries again"
    echo "$stamp" >"$VENV/.ready"
}

install_environment
PATH="$VENV/bin:$PATH"
