#!/usr/bin/env bash
# Compiles and runs the tests, and says how long each took:
#
#   tests/run-tests.sh gate          all but those of the next two
#   tests/run-tests.sh verify        those that tests/gate/verify-only names
#   tests/run-tests.sh alone         those that tests/gate/verify-alone names
#   tests/run-tests.sh only NAME     unit and integration tests with NAME in their name
#
# The run ends with the count of skips by reason. MISTIFY_TEST_REQUIRE=qemu,... makes skips failures.
set -uo pipefail
cd "$(dirname "$0")/.."

# Most integration tests wait for another process, so more run at once than there are processors.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-8}
cargo=${CARGO:-cargo}
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
timed=(--config "target.'cfg(unix)'.runner=['$PWD/tests/gate/timed.sh']")
mapfile -t verify_only < <(sed -E '/^(#|$)/d' tests/gate/verify-only)
mapfile -t verify_alone < <(sed -E '/^(#|$)/d' tests/gate/verify-alone)

export MISTIFY_TEST_SKIPS=$target/test-skips
mkdir -p "$target"
: >"$MISTIFY_TEST_SKIPS"
status=0
case ${1-} in
gate)
    skips=()
    for name in "${verify_only[@]}" "${verify_alone[@]}"; do skips+=(--skip "$name"); done
    "$cargo" test "${timed[@]}" --no-fail-fast --lib --bins --tests -- "${skips[@]}" || status=1
    "$cargo" test --doc || status=1
    ;;
verify) "$cargo" test "${timed[@]}" --test it -- "${verify_only[@]}" || status=1 ;;
alone) "$cargo" test "${timed[@]}" --test it -- "${verify_alone[@]}" || status=1 ;;
only) "$cargo" test "${timed[@]}" --no-fail-fast --lib --test it -- "$2" || status=1 ;;
*)
    echo "usage: $0 gate|verify|alone|only NAME" >&2
    exit 2
    ;;
esac
echo "skipped tests: $(wc -l <"$MISTIFY_TEST_SKIPS")"
cut -f 1,3 "$MISTIFY_TEST_SKIPS" | sort | uniq -c
exit "$status"
