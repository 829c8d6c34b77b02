# shellcheck shell=bash
# Runs the steps of a gate, keeps their output, and prints how long each took. `.ci/run` and
# `tests/gate/verify.sh` source this file.
#
# The output of a step is in target/gate/<gate>/<step>.log, and that of each failed test in
# target/gate/<gate>/failed/<test>.log.
#
# shellcheck disable=SC2154 # The scripts that source this set $gate.

gate_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")/gate/$gate
rm -rf "$gate_dir"
mkdir -p "$gate_dir"
export MISTIFY_TEST_COSTS=$gate_dir/costs
: >"$MISTIFY_TEST_COSTS"

failed_steps=()

# Runs a step: its name, and the command, whose status it returns. A step that fails does not stop the
# gate.
step() {
    local name=$1 began=$EPOCHREALTIME status=0
    shift
    printf '\n=== %s\n' "$name"
    "$@" > >(tee "$gate_dir/${name// /-}.log") 2>&1 || status=$?
    note_step "$name" "$(seconds_since "$began")" "$status"
    return "$status"
}

# Adds a row to the table of steps: name, seconds, exit status, and a remark.
note_step() {
    [ "$3" = 0 ] || failed_steps+=("$1")
    printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "${4:-}" >>"$gate_dir/steps"
}

seconds_since() {
    awk -v began="$1" -v now="$EPOCHREALTIME" 'BEGIN { printf "%.1f", now - began }'
}

# Prints the tables and the result. Returns 1 where a step failed.
finish() {
    # The last lines of `tee` may still be on their way.
    wait
    printf '\n=== steps\n'
    awk -F '\t' '{
        total += $2
        printf "%7.1f s  %s%s%s\n", $2, $1, $3 == 0 ? "" : "  FAILED, status " $3, $4 == "" ? "" : "  (" $4 ")"
    } END { printf "%7.1f s  total\n", total }' "$gate_dir/steps"
    awk -v costs="$MISTIFY_TEST_COSTS" -v failed="$gate_dir/failed" -f tests/gate/times.awk \
        "$gate_dir"/*.log
    printf '\n=== result\n'
    if [ ${#failed_steps[@]} -gt 0 ]; then
        local name
        for name in "${failed_steps[@]}"; do
            echo "failed step: $name, see $gate_dir/${name// /-}.log"
        done
        [ ! -d "$gate_dir/failed" ] || printf 'failed test, see %s\n' "$gate_dir"/failed/*.log
        return 1
    fi
    echo "passed"
}
