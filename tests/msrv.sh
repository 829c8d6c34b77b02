#!/usr/bin/env bash
# Checks that no package of the program wants a newer Rust than the rust-version of Cargo.toml. clippy's
# incompatible_msrv checks our own code. With that very Rust at hand (rustup), it compiles the program.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo=${CARGO:-cargo}
ours=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
packages=$("$cargo" tree --locked -e normal,build --prefix none --format '{p}' | cut -d ' ' -f 1,2 | sort -u)
metadata=$("$cargo" metadata --locked --format-version 1)
wrong=$(OURS=$ours PACKAGES=$packages python3 -c '
import json, os, sys
version = lambda text: tuple(int(part) for part in text.split("."))[:2]
ours = version(os.environ["OURS"])
used = set(os.environ["PACKAGES"].split("\n"))
for package in json.load(sys.stdin)["packages"]:
    name, wants = "{name} v{version}".format(**package), package["rust_version"]
    if name in used and wants and version(wants) > ours:
        print(name, "wants Rust", wants)
' <<<"$metadata")
[ -z "$wrong" ] || { echo "msrv: rust-version is $ours, but: $wrong" >&2; exit 1; }
if command -v rustup >/dev/null && rustup toolchain list | grep -q "^$ours"; then
    "$cargo" "+$ours" check --locked
fi
echo "msrv: $(wc -l <<<"$packages") packages compile with Rust $ours by their own word"
