#!/usr/bin/env bash
# Set up, then ruff, mypy and the tests. --slow runs the slow ones too; other arguments go to pytest.
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
