#!/usr/bin/env bash
# Checks the units that are shipped: that systemd understands every line of them, and that the
# services are exposed no more than was decided, in tenths: the agent's 2.4 as root and 1.5 as a user of its
# own, 1.3 that which fetches images, and 1.1 that which shuts guests down as the host stops.
set -euo pipefail
cd "$(dirname "$0")/../dist"
scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT
agent=mistify-libvirt.service
# systemd wants an instance to look at.
fetch=mistify-libvirt-fetch@1.service

# The program need not be installed here.
installed() { sed 's|^\(ExecSt[a-z]*\)=[^ ]*|\1=/bin/true|' "$1"; }
installed "$agent" >"$scratch/$agent"
installed mistify-libvirt-fetch@.service | tee "$scratch/mistify-libvirt-fetch@.service" >"$scratch/$fetch"
installed mistify-libvirt-guests.service >"$scratch/mistify-libvirt-guests.service"
cp ./*.socket "$scratch"
exposed() {
    systemd-analyze security --offline=true --threshold="$2" --no-pager "$scratch/$1" | tail -n 1
}
understood() {
    local said
    said=$(systemd-analyze verify --man=no "$scratch"/*.{service,socket} 2>&1 | grep -F "$scratch" || true)
    [ -z "$said" ] || { echo "$said"; return 1; }
}
understood
exposed "$agent" 24
exposed "$fetch" 13
exposed mistify-libvirt-guests.service 11
mkdir "$scratch/$agent.d"
cp own-user.conf "$scratch/$agent.d"
understood
exposed "$agent" 15
