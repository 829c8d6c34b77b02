#!/usr/bin/env bash
# A private libvirtd with qemu, for one test process. Run as root, as the first process of
# namespaces of its own:
#
#   unshare -m -n -p --fork --mount-proc --kill-child tests/stack/up.sh
#
# It prints `ready` when libvirt answers, or `error <why>` and ends. Then it obeys lines on
# standard input, each answered by `ok` or `error <why>`:
#
#   signal-libvirtd NAME   sends SIGNAME to libvirtd; after KILL and TERM it waits for the end
#   start-libvirtd         starts it again and waits until it answers
#
# A libvirtd that crashes is started again, as systemd does (libvirtd.service: Restart=on-failure).
#
# At the end of its input it ends, and with it every process and mount of its namespaces.
#
# Environment:
#   STACK_CGROUP  v2 (default): cgroup2 alone, as on today's hosts; v1: the cpuacct controller
#                 alone, where the host has it as cgroup v1
#   STACK_BRIDGE  what mistify0 is: linux (default), or openvswitch with its userspace datapath,
#                 which needs no kernel module
#   STACK_USER    qemu's user, and its group of the same name: root (default)
#   STACK_CACHE   a directory that keeps libvirt's record of qemu's capabilities between runs
set -euo pipefail

cgroup_mode=${STACK_CGROUP:-v2}
# Empty while libvirtd is stopped on purpose.
libvirtd_pid=

fail() {
    echo "error $*"
    exit 1
}

# Mounts the hierarchies of the mode, each from this cgroup namespace's root down; `roots` says
# where they are.
mount_cgroups() {
    local hierarchy
    roots=()
    umount -R /sys/fs/cgroup 2>/dev/null || true
    if [ "$cgroup_mode" = v2 ]; then
        mount -t cgroup2 cgroup2 /sys/fs/cgroup || fail "no cgroup v2 can be mounted"
        roots=(/sys/fs/cgroup)
        return
    fi
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    for hierarchy in $(awk -F: '$2 ~ /(^|,)cpu(acct)?(,|$)/ { print $2 }' /proc/self/cgroup); do
        roots+=("/sys/fs/cgroup/$hierarchy")
        mkdir "${roots[-1]}"
        mount -t cgroup -o "$hierarchy" cgroup "${roots[-1]}" || fail "no cgroup v1 $hierarchy"
    done
    [ ${#roots[@]} -gt 0 ] || fail "this host has no cgroup v1 cpuacct"
}

# Steps into cgroups of its own and makes them the roots of all that the stack sees: two stacks
# with a guest of the same name would share `/machine/qemu-1-<name>` otherwise. They are passed on
# as paths through open descriptors: the only way back out (`leave_cgroups`).
enter_cgroups() {
    local root descriptor cgroups=()
    mount_cgroups
    for root in "${roots[@]}"; do
        exec {descriptor}<"$root"
        if [ "$cgroup_mode" = v2 ] && [ ! -s "$root/cgroup.subtree_control" ]; then
            # libvirt takes a v2 hierarchy without any controller for none at all.
            sed 's/[a-z_]\+/+&/g' "$root/cgroup.controllers" >"$root/cgroup.subtree_control" || true
        fi
        cgroups+=("$(mktemp -d "/proc/1/fd/$descriptor/mistify-stack-XXXXXX")")
        echo 0 >"${cgroups[-1]}/cgroup.procs" || fail "no cgroup can be made in $root"
    done
    umount -lR /sys/fs/cgroup
    exec unshare -C "$self" "${cgroups[@]}"
}

# Ends every other process of the namespace and removes its cgroups from the host.
leave_cgroups() {
    local cgroup tries
    exec 2>/dev/null
    kill -KILL -1 || true
    for cgroup in "${cgroups[@]}"; do
        echo 0 >"${cgroup%/*}/cgroup.procs"
        for ((tries = 0; tries < 100; tries++)); do
            find "$cgroup" -depth -type d -exec rmdir {} + && break
            sleep 0.02
        done
    done
}

private_folders() {
    local directory
    for directory in /run /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do
        mount -t tmpfs -o mode=755 tmpfs "$directory"
    done
    # Where libvirt looks for huge pages when it starts; not every kernel has them.
    mkdir /run/hugepages
    mount -t hugetlbfs hugetlbfs /run/hugepages 2>/dev/null || true
    # As the packages have it: logs of consoles are opened in it before libvirt would make it.
    mkdir -m 700 /var/log/libvirt/qemu
    mkdir /run/lock /run/etc-libvirt
    cp -a /etc/libvirt/. /run/etc-libvirt
    # No network or guest of the machine's own comes along.
    rm -rf /run/etc-libvirt/qemu
    local user=${STACK_USER:-root}
    printf '%s\n' "user = \"$user\"" "group = \"$user\"" 'security_driver = "none"' \
        >>/run/etc-libvirt/qemu.conf
    mount --bind /run/etc-libvirt /etc/libvirt
    if [ "$user" != root ] && [ -e /dev/kvm ]; then
        # As udev has it. libvirt asks qemu again and again what it can do where only root may open it.
        mknod -m 666 /run/kvm c 10 232
        mount --bind /run/kvm /dev/kvm
    fi
    if [ -n "${STACK_CACHE:-}" ]; then
        mkdir -p "$STACK_CACHE" /var/cache/libvirt/qemu/capabilities
        mount --bind "$STACK_CACHE" /var/cache/libvirt/qemu/capabilities
    fi
}

private_network() {
    ip link set lo up
    if [ "${STACK_BRIDGE:-linux}" = openvswitch ]; then
        start_openvswitch
        ovs-vsctl add-br mistify0 -- set bridge mistify0 datapath_type=netdev
    else
        ip link add mistify0 type bridge
    fi
    ip link set mistify0 up
}

start_openvswitch() {
    local db=/run/openvswitch/conf.db log=/var/log/libvirt
    mkdir /run/openvswitch
    ovsdb-tool create "$db" /usr/share/openvswitch/vswitch.ovsschema
    ovsdb-server "$db" --remote=punix:/run/openvswitch/db.sock --pidfile --detach \
        --log-file="$log/ovsdb-server.log" 2>/dev/null || fail "ovsdb-server does not start"
    ovs-vsctl --no-wait init
    ovs-vswitchd --pidfile --detach --log-file="$log/ovs-vswitchd.log" 2>/dev/null ||
        fail "ovs-vswitchd does not start"
}

start_libvirtd() {
    local tries
    (cd / && exec libvirtd) </dev/null >>/var/log/libvirt/libvirtd.out 2>&1 &
    libvirtd_pid=$!
    for ((tries = 0; tries < 1000; tries++)); do
        if ! kill -0 "$libvirtd_pid" 2>/dev/null; then
            echo "error libvirtd ended: $(tail -n 1 /var/log/libvirt/libvirtd.out)"
            return 1
        fi
        # A connection waits until the drivers are initialised.
        if [ -S /run/libvirt/libvirt-sock ] && virsh -q uri >/dev/null 2>&1; then
            return 0
        fi
        sleep 0.01
    done
    echo "error libvirtd does not answer"
    return 1
}

signal_libvirtd() {
    kill -s "$1" "$libvirtd_pid" 2>/dev/null || { echo "error libvirtd is gone"; return; }
    case $1 in KILL | TERM)
        wait "$libvirtd_pid" 2>/dev/null || true
        libvirtd_pid=
        ;;
    esac
    echo ok
}

# libvirtd 9.0 can crash when a client dies: the thread of a call in flight and the main loop then
# free the client's event callbacks at once (remoteClientFreePrivateCallbacks).
revive_libvirtd() {
    local status=0
    if [ -z "$libvirtd_pid" ] || kill -0 "$libvirtd_pid" 2>/dev/null; then
        return
    fi
    wait "$libvirtd_pid" 2>/dev/null || status=$?
    echo "tests/stack/up.sh: libvirtd ended with status $status; starting it again" >&2
    start_libvirtd >&2 || true
}

# Looks for a line before it reads one: bash may lose a byte where the time of a read is over.
obey() {
    local verb argument never
    exec {never}<> <(:)
    while true; do
        if ! read -r -t 0; then
            revive_libvirtd
            read -r -t 0.1 -u "$never" || true
            continue
        fi
        read -r verb argument || return 0
        case $verb in
        start-libvirtd) start_libvirtd && echo ok || true ;;
        signal-libvirtd) signal_libvirtd "$argument" ;;
        *) echo "error unknown command $verb" ;;
        esac
    done
}

[ "$$" = 1 ] || fail "run under unshare -m -n -p --fork --mount-proc --kill-child"
self=$(realpath "$0")
[ $# != 0 ] || enter_cgroups
cgroups=("$@")
trap leave_cgroups EXIT
export LIBVIRT_DEFAULT_URI=qemu:///system LC_ALL=C
mount_cgroups
if [ "$cgroup_mode" = v2 ]; then
    # A v2 cgroup has processes or controlled children, not both.
    mkdir /sys/fs/cgroup/daemons
    echo 0 >/sys/fs/cgroup/daemons/cgroup.procs
fi
private_folders
private_network
(cd / && exec virtlogd) </dev/null >/var/log/libvirt/virtlogd.out 2>&1 &
start_libvirtd || exit 1
echo ready
obey
