#!/usr/bin/env bash
# Starts the actors of one node under a supervisord of their own, and returns when every worker is ready
# and every router listens. docs/operations.md has the rest.
#   scripts/launch_node.sh CONFIG ROLE... [--run DIR] [--model DIR] [--build DIR] [--wait SECONDS]
#                          [--foreground | --check]
#     CONFIG          a folder with a YAML file for each actor, e.g. configs/two-stages
#     ROLE            such a file's name without .yaml: router*, stage* or sampler*
#     --run DIR       the node's run folder (logs, socket, pid file); default run/
#     --model DIR     the model directory of all of them, in place of the files' model.path
#     --build DIR     a build folder to take as it is (or CHATLOOP_BUILD); default: build/, brought up to date
#     --wait SECONDS  how long weights may take to load; default 300
#     --foreground    become supervisord, for containers: TERM drains every process and ends with 0
#     --check         only the actors' --check: settings and model files
# Stop: scripts/stop.sh [--run DIR]. Exit codes: 0, 64 for a wrong option, file or model, 1 for the rest.
set -euo pipefail

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" | sed '$d'; }
refuse() { echo "launch_node.sh: $1" >&2; exit 64; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
words=() options=() binaries=${CHATLOOP_BUILD:-} run=$here/../run wait=300 mode=
while (($#)); do
    case $1 in
        --run | --model | --build | --wait)
            (($# > 1)) || refuse "$1 needs a value"
            case $1 in
                --run) run=$2 ;;
                --model) options+=(--model "$(realpath -m "$2")") ;;
                --build) binaries=$2 ;;
                --wait) wait=$2 ;;
            esac
            shift
            ;;
        --foreground | --check)
            [[ -z $mode || $mode == "$1" ]] || refuse '--foreground or --check, not both'
            mode=$1
            ;;
        -h | --help) usage; exit 0 ;;
        -*) refuse "unknown option $1; see --help" ;;
        *) words+=("$1") ;;
    esac
    shift
done
((${#words[@]} > 1)) || refuse 'give a configuration folder and one role or more; see --help'
[[ $wait =~ ^[0-9]{1,6}$ ]] || refuse "--wait $wait: a number of seconds"
[[ -d ${words[0]} ]] || refuse "${words[0]} is no folder"
config=$(realpath "${words[0]}")
roles=("${words[@]:1}")
for role in "${roles[@]}"; do
    [[ $role =~ ^(router|stage|sampler)[A-Za-z0-9._-]*$ ]] ||
        refuse "role '$role' is none: it starts with router, stage or sampler, then letters, digits and ._-"
    [[ -f $config/$role.yaml ]] ||
        refuse "${words[0]} has no $role.yaml; it has: $(find "$config" -maxdepth 1 -name '*.yaml' -printf '%f\n' | sort | xargs)"
done
twice=$(printf '%s\n' "${roles[@]}" | sort | uniq -d | head -n 1)
[[ -z $twice ]] || refuse "role $twice is given twice"
[[ -z $mode ]] || options+=("$mode")
run=$(realpath -m "$run")
[[ -z $binaries ]] || binaries=$(realpath -m "$binaries")

source "$here/lib/common.sh"
quiet_below_s=2
if [[ -z $binaries ]]; then
    step 'packages' 'Run scripts/install_deps.sh by hand to see all it says.' ensure_packages
fi
step 'Python environment' 'Is the Python package index reachable? See pip.conf.' ensure_venv
if [[ -z $binaries ]]; then
    step 'build' 'The first error above is the cause; build/ can be deleted at any time.' build "${actor_targets[@]}"
    binaries=$build
fi
remove_step_log
exec "$(venv_dir)/bin/python" scripts/lib/node.py --config "$config" --build "$binaries" --run "$run" \
    --wait "$wait" "${options[@]}" -- "${roles[@]}"
