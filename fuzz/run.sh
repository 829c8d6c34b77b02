#!/usr/bin/env bash
# Looks for inputs for which a target of src/fuzz.rs does not hold, so many seconds each:
#
#   fuzz/run.sh SECONDS [TARGET]...
#
# It begins with fuzz/corpus and what former runs found in target/fuzz/corpus, and ends with status 1
# where it found one; that lies in target/fuzz/found then, and belongs into fuzz/corpus once it is
# mended. Under AddressSanitizer, on a stable toolchain.
set -euo pipefail
cd "$(dirname "$0")"

seconds=$1
shift
targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(ls corpus)

target=$(realpath -m "${CARGO_TARGET_DIR:-../target}")/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares"
RUSTC_BOOTSTRAP=1 RUSTFLAGS="--cfg fuzzing -Zsanitizer=address $coverage" CARGO_TARGET_DIR=$target \
    "${CARGO:-cargo}" build --quiet --locked --release --target "$host"

# Of targets that need files: in memory, where the system has such a folder.
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm
mkdir -p "$target/found"
failed=()
for name in "${targets[@]}"; do
    mkdir -p "$target/corpus/$name"
    echo "=== $name"
    # Leaks are looked for at the end alone: libvirt's own tables grow while it runs.
    FUZZ_TARGET=$name "$target/$host/release/fuzz" "$target/corpus/$name" "corpus/$name" \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 -detect_leaks=0 \
        -dict="words.dict" -artifact_prefix="$target/found/$name-" -print_final_stats=1 \
        >"$target/$name.log" 2>&1 || failed+=("$name")
    grep -E '^(#[0-9]+.*DONE|stat::number_of_executed_units|SUMMARY|thread .* panicked)' -A 1 \
        "$target/$name.log" | grep -v '^--' || true
done
[ ${#failed[@]} = 0 ] || {
    echo "found in: ${failed[*]}; see $target/found and $target/NAME.log"
    exit 1
}
