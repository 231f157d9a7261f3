#!/usr/bin/env bash
# Installs the Debian 12 packages (main and security) that building, testing and running ChatLoop need.
# Uses sudo when not root. When nothing is missing it asks dpkg only and returns at once.
#   install_deps.sh [--test | --long] [--check]
#     --test     also what only scripts/test.sh needs
#     --long     also what only scripts/test.sh --long needs
#     --check    only says what is missing; exit code 1 when something is
set -euo pipefail

packages=(
    ca-certificates
    ccache
    curl
    doctest-dev
    g++
    git
    iproute2
    libcli11-dev
    libisal-dev
    libmicrohttpd-dev
    libspdlog-dev
    libmsgpack-cxx-dev
    librandom123-dev
    librapidcheck-dev
    libutfcpp-dev
    libxxhash-dev
    libyaml-cpp-dev
    libzmq3-dev
    meson
    nettle-dev
    ninja-build
    nlohmann-json3-dev
    pkg-config
    procps
    prometheus-cpp-dev
    python3-dev
    python3-venv
    tmux
)
readonly cargo_minor_min=87  # of cargo 1.x, for the text crate

cargo_is_new_enough() {
    local version
    version=$("$1" --version 2> /dev/null) || return 1
    [[ $version =~ ^cargo\ 1\.([0-9]+)\. ]] && ((BASH_REMATCH[1] >= cargo_minor_min))
}

# Any cargo in PATH serves when it is new enough; else the security suite's, found as /usr/bin/cargo.
if ! cargo_is_new_enough cargo && ! cargo_is_new_enough /usr/bin/cargo; then
    packages+=(cargo-web rustc-web)
fi

check=0
for word in "$@"; do
    case $word in
        --test) packages+=(chromium nftables) ;;
        --long) packages+=(chromium clang libclang-rt-14-dev nftables nginx-light prometheus) ;;
        --check) check=1 ;;
        *) echo "unknown option $word" >&2; exit 64 ;;
    esac
done

missing=()
for package in "${packages[@]}"; do
    [[ $(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2> /dev/null) == ii* ]] || missing+=("$package")
done

if ((${#missing[@]} == 0)); then
    echo "all ${#packages[@]} packages are installed"
    exit 0
fi
if ((check)); then
    echo "missing: ${missing[*]}"
    exit 1
fi
if ! command -v apt-get > /dev/null; then
    echo "this system has no apt-get; install the counterparts of: ${missing[*]}" >&2
    exit 1
fi

as_root=()
if ((EUID != 0)); then
    command -v sudo > /dev/null || {
        echo "packages are missing and there is no sudo; run as root: scripts/install_deps.sh" >&2
        exit 1
    }
    as_root=(sudo)
fi
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}"
