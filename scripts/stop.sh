#!/usr/bin/env bash
# Stops the cluster that scripts/quickstart.sh --keep left up: every process drains, supervisord ends last.
# Nothing to stop is fine.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
if [[ ! -e run/supervisord.pid ]]; then
    echo 'nothing runs'
    exit 0
fi
step 'stopped' 'See run/log.' "$(venv_dir)/bin/python" scripts/lib/cluster.py stop --run "$repo/run"
