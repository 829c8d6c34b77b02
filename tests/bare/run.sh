#!/usr/bin/env bash
# Runs a script as root on a bare Debian 12 that has Rust, in a copy of this checkout:
#
#   tests/bare/run.sh FOLDER
#
#   FOLDER  is copied to /root/given; /root/given/script is run by bash, in /root/checkout
#
# The machine is a root file system of its own with Debian's base, made once, under systemd in a
# container (systemd-nspawn): it has the host's kernel, and a network by slirp4netns, which reaches the
# package registries and cannot be reached. Rust is this host's, read-only. Its package lists are fresh.
# What cargo and apt download is kept for the next run, and nothing else. As root.
#
# Status: the script's; 124 after the time limit.
#
# Environment:
#   MISTIFY_BARE_CACHE    what is kept: ~/.cache/mistify-libvirt/bare
#   MISTIFY_BARE_SECONDS  the time that all of it may take: 2700, for machines with much else to do
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C

suite=bookworm
here=$(dirname "$(realpath "$0")")
checkout=$(realpath "$here/../..")
cache=${MISTIFY_BARE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mistify-libvirt/bare}
given=$(realpath "$1")

log() {
    echo "bare: +${SECONDS}s $*" >&2
}

# The settings of apt that concern how this host downloads.
apt_settings() {
    apt-config dump --format '%f "%v";%n' Acquire::http Acquire::https \
        Acquire::Check-Date Acquire::Check-Valid-Until
}

# The base of a new installation, in $1.
make_base() {
    log "making Debian's base"
    "$here/../lab/sources.sh" "$suite" main |
        nice mmdebstrap --mode=root --variant=important --format=tar --quiet --dpkgopt=force-unsafe-io \
            --include=systemd-sysv,dbus "$suite" "$1.new" - >&2
    mv "$1.new" "$1"
}

if [ "$(id -u)" != 0 ]; then
    echo "run.sh: only root makes file systems and containers" >&2
    exit 1
fi
mkdir -p "$cache"/{registry,archives/partial}
exec 9>"$cache/lock"
flock 9
# What is made otherwise has another name.
base=$cache/$({ echo "$suite" && declare -f make_base; } | sha256sum | cut -c 1-16).tar
if [ ! -e "$base" ]; then
    rm -f "$cache"/*.tar
    make_base "$base"
fi

scratch=$(mktemp -d "$cache/run.XXXXXX")
children=()
# They end with it; the container has ended with nspawn.
trap 'kill "${children[@]}" 2>/dev/null || true; rm -rf --one-file-system "$scratch"' EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
root=$scratch/root
mkdir "$root"
tar -C "$root" -xf "$base"
mkdir -p "$root"/root/{checkout,.cargo/registry} "$root/opt/rust"
git -C "$checkout" ls-files -z | tar -C "$checkout" --null -T - -c | tar -C "$root/root/checkout" -x
cp -r "$given" "$root/root/given"
# How this host reaches registries; and it says yes to whatever apt asks.
{ apt_settings && echo 'APT::Get::Assume-Yes "true";'; } >"$root/etc/apt/apt.conf.d/90host"
echo 'Binary::apt::APT::Keep-Downloaded-Packages "true";' >>"$root/etc/apt/apt.conf.d/90host"
install -D -m 644 /etc/ssl/certs/ca-certificates.crt -t "$root/etc/ssl/certs"
for file in "${CARGO_HOME:-$HOME/.cargo}"/config{,.toml}; do
    [ ! -e "$file" ] || cp "$file" "$root/root/.cargo/"
done
# Nothing here outlives the run.
echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/unsafe-io"
echo nameserver 10.0.2.3 >"$root/etc/resolv.conf"
echo bare >"$root/etc/hostname"
cat >"$root/root/run" <<'RUN'
#!/bin/bash
export PATH=/opt/rust/bin:$PATH HOME=/root DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8
# Its own network's settings, which libvirt sets for a bridge. nspawn makes all of them read-only.
mount --bind /proc/sys/net /proc/sys/net && mount -o remount,bind,rw /proc/sys/net &&
    apt-get -qq update && cd /root/checkout && bash /root/given/script
status=$?
systemctl exit "$status"
RUN
chmod +x "$root/root/run"
cat >"$root/etc/systemd/system/run.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
ExecStart=/root/run
StandardOutput=tty
StandardError=inherit
TTYPath=/dev/console
TasksMax=infinity
[Install]
WantedBy=graphical.target
UNIT
mkdir -p "$root/etc/systemd/system/graphical.target.wants"
ln -s ../run.service "$root/etc/systemd/system/graphical.target.wants/"
# Nobody logs in, and nothing else is downloaded meanwhile.
for unit in console-getty.service apt-daily.timer apt-daily-upgrade.timer; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

# A network namespace, as long as its first process is there.
setpriv --pdeathsig KILL unshare --net sleep infinity &
children+=($!)
network=/proc/$!/ns/net
until [ "$(readlink "$network")" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
setpriv --pdeathsig KILL slirp4netns --configure --mtu=65520 --disable-host-loopback "$!" tap0 \
    >"$scratch/slirp" 2>&1 &
children+=($!)

# Its cgroups are those of Debian 12, whatever the host has. nsenter: its /sys shows the interfaces of
# who starts it.
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1

log "starting it"
status=0
setpriv --pdeathsig KILL timeout --foreground "${MISTIFY_BARE_SECONDS:-2700}" \
    setpriv --pdeathsig KILL nsenter --net="$network" systemd-nspawn --quiet --register=no --keep-unit \
    --directory="$root" --machine=bare --resolv-conf=off --console=read-only \
    --network-namespace-path="$network" --capability=CAP_NET_ADMIN \
    --bind-ro="$(rustc --print sysroot):/opt/rust" \
    --bind="$cache/registry:/root/.cargo/registry" --bind="$cache/archives:/var/cache/apt/archives" \
    --boot systemd.show_status=no quiet </dev/null || status=$?
log "status $status"
exit "$status"
