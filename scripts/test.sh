#!/usr/bin/env bash
# Set up an environment, then run ruff, mypy and the tests. --slow runs the slow tests too. Other
# arguments go to pytest.
set -euo pipefail
NERP_EXTRAS=dev
# shellcheck source=scripts/lib/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/environment.sh"
cd "$REPO"

which=(-m "not slow")
if [ "${1:-}" = --slow ]; then
    which=()
    shift
fi
ruff check .
mypy
exec pytest -n auto "${which[@]}" "$@"
