#!/usr/bin/env bash
# What the agent is made of, against deny.toml: licences, sources, bans; and advisories where their
# data base can be fetched.
set -euo pipefail
cd "$(dirname "$0")/.."

deny=${XDG_CACHE_HOME:-$HOME/.cache}/mistify-libvirt/bin/cargo-deny
checks=(bans licenses sources)
if GIT_TERMINAL_PROMPT=0 timeout 20 git ls-remote -q https://github.com/RustSec/advisory-db HEAD \
    >/dev/null 2>&1; then
    checks+=(advisories)
else
    echo "the data base of advisories cannot be reached: they are not looked at" >&2
fi
"$deny" --locked --log-level error check "${checks[@]}"
