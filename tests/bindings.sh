#!/usr/bin/env bash
# The gate of sys/bindings.rs:
#
#   tests/bindings.sh write   makes it again from the libvirt headers at hand
#   tests/bindings.sh check   is it what build.rs says, and does it keep to the floor?
#
# The floor is the oldest libvirt that the agent runs with. `check` reads the release binary, so
# build that first.
set -euo pipefail
cd "$(dirname "$0")/.."

floor=8.0.0
committed=sys/bindings.rs
binary=${CARGO_TARGET_DIR:-target}/release/mistify-libvirt
cargo=${CARGO:-cargo}

fail() {
    echo "bindings: $*" >&2
    exit 1
}

# Compiles the crate against bindings made now and prints where they are.
regenerate() {
    local directory
    directory=$("$cargo" check --quiet --lib --features bindgen --message-format=json |
        sed -n '/"build-script-executed","package_id":"path+/s/.*"out_dir":"\([^"]*\)".*/\1/p')
    [ -f "$directory/bindings.rs" ] || fail "none were made"
    echo "$directory/bindings.rs"
}

younger_than_floor() {
    [ "$(printf '%s\n' "$1" "$floor" | sort -V | tail -n 1)" != "$floor" ]
}

# Equal texts where the headers are those that the committed file was made from; elsewhere it is
# enough that the crate compiles against the new one.
check_text() {
    local made=$1
    if [ "$(head -n 1 "$made")" = "$(head -n 1 "$committed")" ]; then
        diff -u "$committed" "$made" || fail "$committed is not what build.rs makes: make bindings"
    else
        echo "bindings: other headers here, compiled only: $(head -n 1 "$made")"
    fi
}

# Every C function on the list and every constant that the code names, against the version that
# libvirt's own description gives for it.
check_symbols() {
    local symbol version api=/usr/share/libvirt/api/libvirt-api.xml
    local constants functions
    functions=$(sed -n 's/^ *pub fn \(vir[A-Za-z]*\)(.*/\1/p' "$committed")
    [ -n "$functions" ] || fail "no function found in $committed"
    constants=$(grep -rhow 'VIR_[A-Z0-9_]*' src --include='*.rs' | sort -u |
        while read -r symbol; do
            ! grep -q "pub const $symbol:" "$committed" || echo "$symbol"
        done)
    for symbol in $functions $constants; do
        version=$(sed -n "s/.*<[a-z]* name='$symbol' .*version='\([0-9.]*\)'.*/\1/p" "$api")
        [ -n "$version" ] || fail "$api does not say since when there is $symbol"
        ! younger_than_floor "$version" || fail "$symbol is there since $version, floor $floor"
    done
}

# The dynamic linker refuses a binary that wants a younger symbol version than the host's.
check_binary() {
    local highest
    highest=$(readelf -VW "$binary" | grep -o 'LIBVIRT_[0-9.]*' | sort -V | tail -n 1) ||
        fail "$binary names no symbol of libvirt"
    ! younger_than_floor "${highest#LIBVIRT_}" || fail "$binary wants $highest, floor $floor"
    echo "bindings: as build.rs says; floor $floor, $binary wants $highest"
}

case ${1:-} in
write)
    cp "$(regenerate)" "$committed"
    ;;
check)
    made=$(regenerate)
    check_text "$made"
    check_symbols
    check_binary
    ;;
*)
    fail "usage: $0 write|check"
    ;;
esac
