#!/usr/bin/env bash
# The main job with nothing to download: set up, then `nerp demo` (see nerp demo --help).
set -euo pipefail
# shellcheck source=scripts/lib/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/environment.sh"
exec nerp demo "$@"
