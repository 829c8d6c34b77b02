#!/usr/bin/env bash
# Runs the integration tests N times beside 8 busy loops and says how many runs passed:
#
#   tests/gate/stress.sh N [TEST]...
#
# Without names it runs those of .ci/run. A test that fails here depends on how fast the machine is. The
# output of run K is in target/gate/stress/K.log.
set -uo pipefail
cd "$(dirname "$0")/../.."

runs=$1
shift
dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")/gate/stress
rm -rf "$dir"
mkdir -p "$dir"
"${CARGO:-cargo}" test --no-run || exit
words=("$@")
if [ $# = 0 ]; then
    mapfile -t words < <(sed -E '/^(#|$)/d; s/^/--skip=/' tests/gate/verify-only)
fi

loops=()
trap 'kill "${loops[@]}" 2>/dev/null' EXIT
for _ in 1 2 3 4 5 6 7 8; do
    # Ends with this script, however that ends.
    setpriv --pdeathsig KILL sh -c 'while :; do :; done' &
    loops+=($!)
done

passed=0
for run in $(seq "$runs"); do
    began=$SECONDS
    if RUST_TEST_THREADS=${RUST_TEST_THREADS:-8} "${CARGO:-cargo}" test --test it \
        --config "target.'cfg(unix)'.runner=['$PWD/tests/gate/timed.sh']" -- "${words[@]}" >"$dir/$run.log" 2>&1; then
        passed=$((passed + 1))
        echo "run $run: passed in $((SECONDS - began)) s, load $(cut -d ' ' -f 1 /proc/loadavg)"
    else
        echo "run $run: failed after $((SECONDS - began)) s, see $dir/$run.log"
        sed -n 's/^test \(.*\) \.\.\. FAILED.*/    \1/p' "$dir/$run.log"
    fi
done
echo "$passed of $runs passed"
[ "$passed" = "$runs" ]
