#!/usr/bin/env bash
# Checks the packages that the agent is made of against deny.toml: licences, sources and bans, and
# advisories where their database can be fetched.
#
#   tests/deny.sh           runs cargo-deny and, when all is well, writes tests/deny.sha256
#   tests/deny.sh changed   runs cargo-deny only where Cargo.lock or deny.toml are not those of
#                           tests/deny.sha256: for the same files cargo-deny says the same
set -euo pipefail
cd "$(dirname "$0")/.."

passed=tests/deny.sha256
if [ "${1:-}" = changed ]; then
    if sha256sum --check --quiet "$passed"; then
        echo "deny: Cargo.lock and deny.toml are those that cargo-deny has passed"
        exit
    fi
    tests/install-deps.sh deny
fi

deny=${XDG_CACHE_HOME:-$HOME/.cache}/mistify-libvirt/bin/cargo-deny
checks=(bans licenses sources)
if GIT_TERMINAL_PROMPT=0 timeout 20 git ls-remote -q https://github.com/RustSec/advisory-db HEAD \
    >/dev/null 2>&1; then
    checks+=(advisories)
else
    echo "deny: cannot reach the advisory database; advisories are not checked" >&2
fi
"$deny" --locked --log-level error check "${checks[@]}"
if [ "${1:-}" = changed ]; then
    echo "deny: passed; run 'make deny' and commit $passed, so that the gate need not build cargo-deny" >&2
    exit
fi
sha256sum Cargo.lock deny.toml >"$passed"
