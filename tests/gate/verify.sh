#!/usr/bin/env bash
# Everything that is too long for every change and has to pass before an issue is resolved: `make verify`.
#
# A step that has passed does not run again while its inputs are the same: the files that it names below,
# this script, and the Rust compiler. So a run that was stopped goes on where it was. Remove
# ~/.cache/mistify-libvirt/verify to run all steps again. Each step has 20 minutes.
set -uo pipefail
cd "$(dirname "$0")/../.."
exec </dev/null

gate=verify
. tests/gate/steps.sh
passed=${XDG_CACHE_HOME:-$HOME/.cache}/mistify-libvirt/verify
mkdir -p "$passed"
limit_seconds=1200

# What the program is compiled from, and what the tests are.
program=(Cargo.toml Cargo.lock build.rs wrapper.h src sys dist man)
tests=("${program[@]}" tests ':!tests/lab' ':!tests/bare' ':!tests/coverage' ':!tests/gate' Makefile)
# A test of the lab runs the commands of a page, and so does that of a new user.
lab=("${tests[@]}" tests/lab docs)

# A hash of the command and of the content of the files below these paths, tracked or not.
key() {
    local command=$1
    shift
    {
        echo "$command"
        rustc -V
        git ls-files -z --cached --others --exclude-standard -- tests/gate/verify.sh tests/gate/steps.sh "$@" |
            sort -zu | while IFS= read -r -d '' file; do
            [ ! -f "$file" ] || sha256sum "$file"
        done
    } | sha256sum | cut -c 1-16
}

# Runs a command in a process group of its own, which ends at the limit, or with this script.
bounded() {
    timeout -k 10 "$limit_seconds" "$@" &
    local group=$! status=0
    trap 'kill -TERM -- "-$group" 2>/dev/null; exit 130' INT TERM
    wait "$group" || status=$?
    trap - INT TERM
    return "$status"
}

# Runs a step unless it has passed on the same inputs: its name, the command, `--`, the inputs.
once() {
    local name=$1 command=() stamp began
    shift
    while [ "$1" != -- ]; do
        command+=("$1")
        shift
    done
    shift
    stamp=$passed/${name// /-}-$(key "${command[*]}" "$@")
    if [ -e "$stamp" ]; then
        note_step "$name" 0 0 "passed before: $(cat "$stamp")"
        return
    fi
    began=$SECONDS
    step "$name" bounded "${command[@]}" || return 0
    rm -f "$passed/${name// /-}"-????????????????
    echo "$((SECONDS - began)) s, $(date -u +%Y-%m-%dT%H:%MZ)" >"$stamp"
}

export MISTIFY_TEST_REQUIRE=qemu,ovs,nwfilter,mount,users,promtool,openrpc,browser,go,landlock

step "packages" tests/install-deps.sh verify
step "compile tests" cargo test --no-run
step "lab image" tests/lab/build.sh
once "tests" tests/run-tests.sh verify -- "${tests[@]}" tests/run-tests.sh
once "whole Debians" tests/run-tests.sh alone -- "${tests[@]}" tests/run-tests.sh
once "licences" make deny -- Cargo.lock deny.toml tests/deny.sh
once "metrics rules" promtool check rules dist/prometheus/rules.yml dist/prometheus/alerts.yml -- dist
once "memory safety" make sanitize -- "${tests[@]}"
once "fuzzing" make fuzz SECONDS=20 -- "${program[@]}" fuzz
once "lab" make test-lab-agent -- "${lab[@]}"
once "lab volumes" make test-lab-volumes -- "${lab[@]}"
once "lab crashes" make test-lab-crash -- "${lab[@]}"
once "lab storage" make test-lab-storage -- "${lab[@]}"
once "lab guests" make test-lab-guests -- "${lab[@]}"
once "systemd" make test-systemd TESTS="lab::systemd:: --skip lab::systemd::unit::every_verb --skip lab::systemd::package::" -- "${lab[@]}"
once "systemd packages" make test-systemd TESTS=lab::systemd::package:: -- "${lab[@]}"
once "systemd verbs" make test-systemd TESTS=lab::systemd::unit::every_verb -- "${lab[@]}"
once "new user" make test-new-user -- "${tests[@]}" docs tests/bare
once "soak" make soak MINUTES=10 -- "${tests[@]}" benches
finish
