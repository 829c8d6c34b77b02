#!/usr/bin/env bash
# Checks the units that are shipped: that systemd understands every line of them, and that the
# service is exposed no more than was decided, in tenths: 2.5 as root, 1.6 as a user of its own.
set -euo pipefail
cd "$(dirname "$0")/../dist"
scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT

# The program need not be installed here.
sed 's|^ExecStart=[^ ]*|ExecStart=/bin/true|' mistify-libvirt.service >"$scratch/mistify-libvirt.service"
cp mistify-libvirt.socket "$scratch"
exposed() {
    systemd-analyze security --offline=true --threshold="$1" --no-pager "$scratch/mistify-libvirt.service" |
        tail -n 1
}
understood() {
    local said
    said=$(systemd-analyze verify --man=no "$scratch"/mistify-libvirt.{service,socket} 2>&1 | grep -F "$scratch" || true)
    [ -z "$said" ] || { echo "$said"; return 1; }
}
understood
exposed 25
mkdir "$scratch/mistify-libvirt.service.d"
cp own-user.conf "$scratch/mistify-libvirt.service.d"
understood
exposed 16
