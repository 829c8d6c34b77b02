#!/bin/bash
# The first process of the lab: devices, ZFS, libvirtd, then the command on the disk `cmd`, whose
# output and status go to the virtio ports `out` and `rc`. Words of the kernel command line:
#
#   lab.qemu-conf=debian  libvirt's qemu.conf as Debian ships it: qemu is a user of its own
#   LAB_INIT=/sbin/init   systemd is the first process, and this a service of it (lab.service), which
#                         leaves libvirtd and what else there is to systemd
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8

# On the console; run.sh waits for `command`.
say() {
    local up
    read -r up _ </proc/uptime
    echo "lab: +${up}s $*"
}

mount_all() {
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    mountpoint -q /dev || mount -t devtmpfs dev /dev
    mkdir -p /dev/pts /dev/shm
    mount -t devpts devpts /dev/pts
    mount -t tmpfs tmpfs /dev/shm
    mount -t tmpfs tmpfs /run
    mount -t tmpfs tmpfs /tmp
    mkdir -p /run/lock /run/dbus
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    # libvirt takes a hierarchy without any controller for none at all.
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
    done 2>/dev/null
}

find_devices() {
    # loop and tun: nothing makes their device nodes before the modules are there.
    modprobe -a virtio_console zfs loop tun
    udevadm trigger --action=add --subsystem-match=block --subsystem-match=virtio-ports \
        --subsystem-match=misc
    udevadm settle
    if [ -e /dev/disk/by-id/virtio-share ]; then
        mount -o ro /dev/disk/by-id/virtio-share /mnt/host
    fi
}

start_libvirt() {
    if grep -qw lab.qemu-conf=debian /proc/cmdline; then
        cp -p /etc/libvirt/qemu.conf.debian /etc/libvirt/qemu.conf
    fi
    dbus-uuidgen --ensure
    dbus-daemon --system --fork
    virtlogd -d
    libvirtd -d
    for ((tries = 0; tries < 200; tries++)); do
        [ ! -S /run/libvirt/libvirt-sock ] || break
        sleep 0.1
    done
}

if [ $$ = 1 ]; then
    mount_all
    hostname lab
    ip link set lo up
    /lib/systemd/systemd-udevd --daemon
fi
find_devices
say "udev, zfs $(cat /sys/module/zfs/version)"
if [ $$ = 1 ]; then
    start_libvirt
    say libvirtd
fi
tr -d '\0' </dev/disk/by-id/virtio-cmd >/run/cmd
cd /root || exit
say command
setsid bash /run/cmd </dev/null >/dev/virtio-ports/out 2>&1
status=$?
echo "$status" >/dev/virtio-ports/rc
say "status $status"
sync
# The root file system read-only, then off.
echo u >/proc/sysrq-trigger
busybox poweroff -f
