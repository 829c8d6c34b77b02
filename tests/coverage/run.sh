#!/usr/bin/env bash
# Runs the unit tests and those of tests/it with counters in the code, and prints for each room how many
# of its lines were run:
#
#   tests/coverage/run.sh [TEST]...
#
# What was not run is marked in target/coverage/not-run.txt, line by line. On a stable toolchain. The
# counters are in files that the programs have mapped, so that those of agents that are killed count,
# too. Ends as the tests do.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/coverage
report=${XDG_CACHE_HOME:-$HOME/.cache}/mistify-libvirt/coverage/release/coverage
counts=$target/counts

export RUSTFLAGS="-C instrument-coverage -C llvm-args=-runtime-counter-relocation"
export CARGO_TARGET_DIR=$target LLVM_PROFILE_FILE=$counts/%m%c.profraw
tests=("${CARGO:-cargo}" test --lib --test it)
built=$("${tests[@]}" --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
agent=$target/debug/mistify-libvirt
it=$(grep '/deps/it-' <<<"$built")
unit=$(grep '/deps/mistify_libvirt-' <<<"$built")

# Without what build scripts and macros have counted; one file for each program, which also those can
# write that a test runs as another user.
rm -rf "$counts"
mkdir -p "$counts"
"$agent" --version >/dev/null
"$it" --list >/dev/null
"$unit" --list >/dev/null
chmod 666 "$counts"/*

status=0
"${tests[@]}" --no-fail-fast -- "$@" || status=$?
"$report" "$counts" "$PWD/src" "$target/not-run.txt" "$agent" "$it" "$unit"
echo "what was not run: $target/not-run.txt"
exit $status
