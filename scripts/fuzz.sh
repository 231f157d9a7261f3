#!/usr/bin/env bash
# Fuzzes with libFuzzer under ASan and UBSan, every target for the same time, one target per core at once.
#   scripts/fuzz.sh [--seconds N] [TARGET...]     default: 600 s, all targets of tests/fuzz
# The corpus grows from run to run in the cache; a finding is an input in build-fuzz/findings. One line a
# target, at the end "N passed, N failed".
set -euo pipefail

seconds=600 targets=()
while (($#)); do
    case $1 in
        --seconds)
            [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || { echo '--seconds needs a number' >&2; exit 64; }
            seconds=$2
            shift
            ;;
        -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        -*) echo "unknown option $1" >&2; exit 64 ;;
        *) targets+=("$1") ;;
    esac
    shift
done

source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
readonly build_fuzz=$repo/build-fuzz
readonly corpus=$cache/fuzz-corpus
readonly findings=$build_fuzz/findings
if ((${#targets[@]} == 0)); then
    mapfile -t targets < <(sed -n "s/^  '\([a-z]*\)': \[.*/\1/p" tests/fuzz/meson.build)
fi

build_targets() {
    if [[ ! -f $build_fuzz/build.ninja ]]; then
        CC='ccache clang' CXX='ccache clang++' meson setup "$build_fuzz" -Dwerror=false \
            -Db_sanitize=address,undefined -Db_lundef=false -Doptimization=1 \
            -Dcpp_args='-g1 -fsanitize=fuzzer-no-link -fno-sanitize-recover=undefined'
    fi
    local names=()
    for target in "${targets[@]}"; do names+=("tests/fuzz/libfuzzer_$target" "tests/fuzz/fuzz_$target"); done
    ninja -C "$build_fuzz" "${names[@]}"
}

# fuzz TARGET: one line, and the log in build-fuzz/TARGET.log.
fuzz() {
    local target=$1 log=$build_fuzz/$1.log status=0 units executions covered
    mkdir -p "$corpus/$target" "$findings" "$build_fuzz/seeds/$target"
    "$build_fuzz/tests/fuzz/fuzz_$target" --write "$build_fuzz/seeds/$target"
    "$build_fuzz/tests/fuzz/libfuzzer_$target" -max_total_time="$seconds" -max_len=65536 -timeout=20 \
        -rss_limit_mb=3000 -print_final_stats=1 -artifact_prefix="$findings/$target-" \
        "$corpus/$target" "$build_fuzz/seeds/$target" > "$log" 2>&1 || status=$?
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    units=$(find "$corpus/$target" -type f | wc -l)
    covered=$(grep -o 'cov: [0-9]*' "$log" | tail -n 1)
    if ((status == 0)); then
        printf '✓ %-12s %10s runs, %s edges, %d in the corpus\n' "$target" "$executions" "${covered#cov: }" "$units"
    else
        printf '✗ %-12s its last words, of %s:\n' "$target" "$log"
        tail -n 25 "$log" | sed 's/^/    /'
    fi
    return $status
}

step 'packages' 'Run scripts/install_deps.sh --long by hand to see all it says.' ensure_packages --long
step 'fuzz targets' 'The first error above is the cause; build-fuzz/ can be deleted at any time.' build_targets
trap 'remove_step_log; kill $(jobs -p) 2> /dev/null || true' EXIT

passed=0 failed=0 running=0
reap() { if wait -n; then passed=$((passed + 1)); else failed=$((failed + 1)); fi; running=$((running - 1)); }
for target in "${targets[@]}"; do
    if ((running >= $(nproc))); then reap; fi
    fuzz "$target" &
    running=$((running + 1))
done
while ((running)); do reap; done
echo "$passed passed, $failed failed"
((failed == 0))
