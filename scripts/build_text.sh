#!/bin/sh
# Builds the crate text/ and puts its static library where meson wants it. Called by
# src/text/meson.build: build_text.sh CRATE_DIR OUTPUT. The work of cargo stays outside the clone.
set -eu

crate_dir=$1
output=$2
target_dir=${XDG_CACHE_HOME:-$HOME/.cache}/chatloop/cargo-target

new_enough() {  # 1.87 is what the locked dependencies need
    version=$("$1" --version 2>/dev/null | sed -n 's/^cargo \([0-9]*\.[0-9]*\).*/\1/p')
    [ -n "$version" ] && [ "$(printf '1.87\n%s\n' "$version" | sort -V | head -n 1)" = 1.87 ]
}

if new_enough cargo; then
    cargo=cargo
elif new_enough /usr/bin/cargo; then
    cargo=/usr/bin/cargo
    RUSTC=/usr/bin/rustc
    export RUSTC
else
    echo "build_text.sh: no cargo >= 1.87: apt install cargo-web rustc-web (Debian 12), or rustup" >&2
    exit 1
fi

build() {
    CARGO_TARGET_DIR=$target_dir "$cargo" build --release --locked --quiet \
        --manifest-path "$crate_dir/Cargo.toml" "$@"
}

# Other clones build in the same place: whoever copies must find what it built itself.
mkdir -p "$target_dir"
exec 9> "$target_dir/chatloop.lock"
flock 9

# Without the network when everything was fetched before; it also spares cargo the look-up.
build --offline 2>/dev/null || build
cp "$target_dir/release/libchatloop_text.a" "$output"
