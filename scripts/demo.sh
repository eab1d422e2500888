#!/usr/bin/env bash
# The whole job without a download: set up an environment, then `nerp demo` (nerp demo --help).
set -euo pipefail
on_path="$(command -v nerp || true)"
# shellcheck source=scripts/lib/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/environment.sh"
nerp demo "$@"
[ -n "$on_path" ] || say "(in this terminal, first: . $(printf %q "$VENV/bin/activate"))"
