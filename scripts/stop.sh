#!/usr/bin/env bash
# Stops what scripts/quickstart.sh --keep or scripts/launch_node.sh left up: every process drains, supervisord
# ends last. Nothing to stop is fine.
#   scripts/stop.sh [--run DIR]    the run folder; default run/
set -euo pipefail

run=
case ${1:-} in
    '') ;;
    --run) (($# == 2)) || { echo '--run needs one value' >&2; exit 64; }; run=$(realpath -m "$2") ;;
    -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" | sed '$d'; exit 0 ;;
    *) echo "unknown option $1" >&2; exit 64 ;;
esac
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
run=${run:-$repo/run}
if [[ ! -e $run/supervisord.pid ]]; then
    echo 'nothing runs'
    exit 0
fi
step 'stopped' "See $run/log." "$(venv_dir)/bin/python" scripts/lib/supervise.py stop --run "$run"
