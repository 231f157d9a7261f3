#!/usr/bin/env bash
# Python with the client in it, in the environment that quickstart.sh and test.sh made:
#   scripts/python.sh my_program.py
set -euo pipefail
called_from=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
python=$(venv_dir)/bin/python
[[ -x $python ]] || { echo 'no Python environment yet; run scripts/quickstart.sh first' >&2; exit 1; }
remove_step_log
cd "$called_from"
exec "$python" "$@"
