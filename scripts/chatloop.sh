#!/usr/bin/env bash
# The client's command line in the environment that quickstart.sh and test.sh made:
#   scripts/chatloop.sh generate "Explain quantum computing in simple terms." --chat --stats
#   scripts/chatloop.sh status
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
python=$(venv_dir)/bin/python
[[ -x $python ]] || { echo 'no Python environment yet; run scripts/quickstart.sh first' >&2; exit 1; }
remove_step_log
exec "$python" -m chatloop "$@"
