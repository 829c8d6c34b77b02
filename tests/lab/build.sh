#!/usr/bin/env bash
# Builds the lab: a virtual machine with OpenZFS, libvirtd and qemu, for the tests that need real
# volumes. Debian's kernel, OpenZFS's modules compiled against its headers, and a root image.
#
#   tests/lab/build.sh
#
# Makes it where it is not there yet (5 minutes on two processors, 2.5 GB on the way) and prints the
# folder that holds it: vmlinuz, initrd.gz, root.img (500 MB), VERSION. As root or through sudo, on
# a Debian host with amd64 processors and the packages of `tests/install-deps.sh lab`.
#
# Environment:
#   MISTIFY_LAB_CACHE  where labs are kept: ~/.cache/mistify-libvirt/lab
#   MISTIFY_LAB_SUITE  the Debian release in it: bookworm, whose kernel 6.1 boots without a fault
#                      under emulation, which 6.12 does not always
#
# Each recipe has a folder of its own, named by a hash, so that a changed recipe is a new lab. It
# appears there when it is whole. What fails half way goes on from its last step the next time.
# Labs that were not used for a week go when a new one has been made.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C

here=$(dirname "$(realpath "$0")")
suite=${MISTIFY_LAB_SUITE:-bookworm}
cache=${MISTIFY_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mistify-libvirt/lab}
flavour=cloud-amd64
packages=(
    systemd-sysv udev kmod mount iproute2 procps busybox-static dbus
    zfsutils-linux libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils seabios
    openvswitch-switch dnsmasq-base curl ca-certificates iperf3
)
# The size of the root file system; the file is sparse.
size=3G

log() {
    echo "lab: +${SECONDS}s $*" >&2
}

key() {
    { echo "$suite" && cat "$here"/{build.sh,sources.sh,init.sh,initramfs.sh,lab.service}; } |
        sha256sum | cut -c 1-16
}

# A file system in folder $1 with the packages $2 (by comma).
debian() {
    rm -rf --one-file-system "$1"
    nice mmdebstrap --mode=root --variant=apt --format=directory --quiet --include="$2" \
        --aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' "$suite" "$1" sources.list >&2
}

# Runs a step of the build in the working folder, unless it was done there before.
step() {
    [ ! -e "$1.done" ] || return 0
    log "$1"
    "$1"
    touch "$1.done"
}

sources() {
    "$here/sources.sh" "$suite" main contrib >sources.list
}

compiler() {
    debian builder "linux-headers-$flavour,gcc,make,libc6-dev,kmod,xz-utils"
}

# The version of the kernel whose headers the builder has.
kernel_version() {
    basename builder/usr/src/linux-headers-*-"$flavour" | sed s/^linux-headers-//
}

kernel_and_modules() {
    local version
    version=$(kernel_version)
    cp /etc/resolv.conf builder/etc/resolv.conf
    cat >builder/root/make.sh <<'MAKE'
set -eu
version=$1 flavour=$2
cd /root
rm -f ./*.deb
apt-get -qq update
apt-get -qq -o APT::Sandbox::User=root download "linux-image-$version" zfs-dkms
dpkg -x linux-image-*.deb kernel
dpkg -x zfs-dkms_*.deb /
cd /usr/src/zfs-*/
headers=/usr/src/linux-headers-
./configure --disable-dependency-tracking --with-config=kernel --prefix=/usr \
    --with-linux="$headers${version%-"$flavour"}-common" --with-linux-obj="$headers$version"
make -j"$(nproc)"
mkdir -p /root/modules
find module -name '*.ko' -exec cp {} /root/modules/ \;
strip --strip-debug /root/modules/*.ko
MAKE
    # Its /proc is mounted in a namespace of its own and goes with it, however it ends.
    # shellcheck disable=SC2016
    if ! nice unshare --mount sh -c 'mount -t proc proc builder/proc && exec chroot builder "$@"' \
        sh /bin/sh /root/make.sh "$version" "$flavour" >make.log 2>&1; then
        tail -n 30 make.log >&2
        return 1
    fi
}

root_file_system() {
    debian root "$(IFS=, && echo "${packages[*]}")"
}

image() {
    local version modules
    version=$(kernel_version)
    modules=root/lib/modules/$version
    rm -rf out "$modules"
    mkdir -p out root/lib/modules root/mnt/host
    cp -a "builder/root/kernel/lib/modules/$version" "$modules"
    mkdir "$modules/extra"
    cp builder/root/modules/*.ko "$modules/extra/"
    chroot root depmod "$version"
    install -m 755 "$here/init.sh" root/sbin/labinit
    configure_systemd root/etc
    configure_libvirt root/etc/libvirt
    rm -rf root/var/lib/apt/lists/* root/var/cache/apt/*.bin root/var/cache/apt/archives/*.deb
    initramfs "$version" >out/initrd.gz
    cp "builder/root/kernel/boot/vmlinuz-$version" out/vmlinuz
    truncate -s "$size" out/root.img
    mke2fs -q -t ext4 -O ^has_journal -m 0 -E lazy_itable_init=1,nodiscard -d root out/root.img
    echo "linux $version, zfs $(sed -n 's/^Version: *//p' builder/usr/src/zfs-*/META)" >out/VERSION
}

# For LAB_INIT=/sbin/init (init.sh). Without an id of its own a machine is new at each boot, and all
# its units are enabled anew.
configure_systemd() {
    install -m 644 "$here/lab.service" "$1/systemd/system/lab.service"
    ln -sf ../lab.service "$1/systemd/system/multi-user.target.wants/lab.service"
    echo 6d69737469667900000000000000006c >"$1/machine-id"
    echo lab >"$1/hostname"
    # Nobody logs in, and bridges are the kernel's own.
    ln -sf /dev/null "$1/systemd/system/serial-getty@ttyS0.service"
    rm -f "$1"/systemd/system/{getty.target,multi-user.target}.wants/{getty@tty1,openvswitch-switch}.service
}

# qemu as root; Debian's own file, whose qemu is a user of its own, stays beside it.
configure_libvirt() {
    [ -e "$1/qemu.conf.debian" ] || cp -p "$1/qemu.conf" "$1/qemu.conf.debian"
    { cat "$1/qemu.conf.debian" &&
        printf '%s\n' 'user = "root"' 'group = "root"' 'security_driver = "none"'; } >"$1/qemu.conf"
}

# The first root file system: a shell, and the modules that find the disk.
initramfs() {
    local module
    rm -rf initramfs
    mkdir -p initramfs/{bin,dev,mnt,modules}
    cp root/bin/busybox initramfs/bin/
    ln -s busybox initramfs/bin/sh
    install -m 755 "$here/initramfs.sh" initramfs/init
    for module in virtio_pci virtio_blk; do
        chroot root modprobe -S "$1" -D "$module" | awk '$1 == "insmod" { print $2 }'
    done | awk '!seen[$0]++' | while read -r module; do
        cp "root$module" initramfs/modules/
        basename "$module"
    done >initramfs/modules/order
    (cd initramfs && find . | bin/busybox cpio -o -H newc | gzip -9)
}

# One boot that keeps its changes shows that the lab works, and has libvirt keep what it found out
# about qemu, which takes seconds under emulation.
first_boot() {
    "$here/run.sh" -l out -w -t 240 -- 'virsh -q domcapabilities >/dev/null && zpool version' >&2
}

key=$(key)
if [ -e "$cache/$key" ]; then
    # When it was last used; it may be another user's.
    touch "$cache/$key" || true
    echo "$cache/$key"
    exit
fi
if [ "$(dpkg --print-architecture)" != amd64 ]; then
    log "the lab is for amd64 hosts"
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    exec sudo -n env MISTIFY_LAB_CACHE="$cache" MISTIFY_LAB_SUITE="$suite" "$0"
fi
mkdir -p "$cache"
# Held until this process and its children end.
exec 9>"$cache/lock"
flock -n 9 || { log "another build is on its way: waiting" && flock 9; }
if [ ! -e "$cache/$key" ]; then
    work=$cache/work-$key
    find "$cache" -mindepth 1 -maxdepth 1 -name 'work-*' ! -name "work-$key" -exec rm -rf {} +
    mkdir -p "$work"
    cd "$work"
    for each in sources compiler kernel_and_modules root_file_system image first_boot; do
        step "$each"
    done
    mv out "$cache/$key"
    cd /
    rm -rf --one-file-system "$work"
    find "$cache" -mindepth 1 -maxdepth 1 -type d ! -name "$key" -mtime +7 -exec rm -rf {} +
    log "made $(cat "$cache/$key/VERSION") in $cache/$key"
fi
echo "$cache/$key"
