#!/usr/bin/env bash
# Makes a Debian 12 disk image for the tests that need a whole system, and prints its path: systemd,
# cloud-init (NoCloud), OpenSSH, qemu-guest-agent, fio, iperf3. It boots by BIOS, by UEFI and by UEFI with
# Secure Boot, has its console on ttyS0 and gets addresses by DHCP. root logs in on the console with the
# password debian, and by SSH with the key id_ed25519 beside the image.
#
#   [FLAVOUR=cloud-amd64] debian.sh     FLAVOUR=amd64 is Debian's full kernel, with drivers for SATA, e1000e
#                                       and the watchdog; the image stays in ~/.cache/mistify-libvirt/linux
#                                       until one of its recipes changes
#
# Takes about 2 minutes and 2 GB below ~/.cache.
# Needs root; mmdebstrap fdisk mtools dosfstools e2fsprogs qemu-utils grub-common grub-pc-bin openssh-client
# python3.
set -euo pipefail
cd "$(dirname "$0")"
. ./boot.sh
flavour=${FLAVOUR:-cloud-amd64}
recipe=(debian.sh boot.sh)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mistify-libvirt/linux
hash=$({ sha256sum "${recipe[@]}"; echo "$flavour"; } | sha256sum | cut -c 1-16)
image=$cache/debian-$hash/debian.qcow2
if [ -e "$image" ]; then
    echo "$image"
    exit
fi
mkdir -p "$cache"
work=$(mktemp -d "$cache/debian.XXXXXX")
chmod 755 "$work"
trap 'rm -rf --one-file-system "$work"' EXIT
cd "$work"

suite=bookworm
mib=2048
esp_mib=60
# In sectors; what is before it is boot.sh's.
root_start=131072
root_uuid=6d697374-6966-7900-0000-000000000001
packages=(
    "linux-image-$flavour" systemd-sysv systemd-resolved udev dbus kmod iproute2 iputils-ping procps
    openssh-server qemu-guest-agent cloud-init cloud-guest-utils fdisk sudo e2fsprogs initramfs-tools
    fio iperf3 sysstat pciutils util-linux-extra mokutil efivar less
)

log "packages"
# The mirror that this machine has for a suite.
mirror() {
    local own
    own=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v "r=$1" '$1 == r && $2 == "main" && !u { u = $3 } END { print u }')
    echo "${own:?no package list of $1: run apt-get update}"
}
for name in "$suite" "$suite-updates" "$suite-security"; do
    uri=$(mirror "$name")
    echo "deb $uri $name main"
done >sources.list
download shim-signed-common shim-signed shim-helpers-amd64-signed grub-efi-amd64-signed
for package in *.deb; do dpkg-deb -x "$package" signed; done
mmdebstrap --mode=root --variant=apt --format=directory --quiet \
    --include="$(IFS=, && echo "${packages[*]}")" \
    --aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$suite" root sources.list >&2

log "settings"
version=$(basename root/lib/modules/*)
echo "UUID=$root_uuid / ext4 rw,errors=remount-ro 0 1" >root/etc/fstab
echo debian >root/etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 debian\n' >root/etc/hosts
: >root/etc/machine-id         # each clone makes its own at its first boot,
rm -f root/etc/ssh/ssh_host_*  # and these
cat >root/etc/systemd/network/80-dhcp.network <<'UNIT'
[Match]
Name=en* eth*
[Network]
DHCP=yes
[DHCPv4]
ClientIdentifier=mac
UNIT
wants=root/etc/systemd/system/multi-user.target.wants
mkdir -p "$wants" root/root/.ssh root/etc/cloud/cloud.cfg.d
for unit in systemd-networkd systemd-resolved qemu-guest-agent; do
    ln -sf "/lib/systemd/system/$unit.service" "$wants/$unit.service"
done
cat >root/etc/systemd/system/host-keys.service <<'UNIT'
[Unit]
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A
UNIT
ln -sf ../host-keys.service "$wants/host-keys.service"
# Without a seed cloud-init does nothing. The image has no locales that it could set.
cat >root/etc/cloud/cloud.cfg.d/90-local.cfg <<'CONFIG'
datasource_list: [ NoCloud, None ]
network: {config: disabled}
locale: false
ssh_deletekeys: false
disable_root: false
CONFIG
ssh-keygen -q -t ed25519 -N '' -C test -f id_ed25519
install -m 600 id_ed25519.pub root/root/.ssh/authorized_keys
chmod 700 root/root/.ssh
printf 'PermitRootLogin yes\nUseDNS no\n' >root/etc/ssh/sshd_config.d/test.conf
echo 'root:debian' | chroot root chpasswd
mkdir -p root/boot/grub
cat >root/boot/grub/grub.cfg <<GRUB
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
linux /boot/vmlinuz-$version root=UUID=$root_uuid ro console=tty0 console=ttyS0,115200 no_timer_check panic=0
initrd /boot/initrd.img-$version
boot
GRUB
rm -rf root/var/lib/apt/lists/* root/var/cache/apt/*.bin root/var/cache/apt/archives/*.deb

log "disk"
partition disk $mib $esp_mib "1 : start=$root_start, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root"
mke2fs -q -t ext4 -U "$root_uuid" -m 1 -E "offset=$((root_start * 512)),lazy_itable_init=0,nodiscard" \
    -d root disk "$((mib - root_start / 2048 - 1))M"
# Debian's signed GRUB looks for its settings below EFI/debian.
cat >grub.cfg <<GRUB
search --no-floppy --fs-uuid --set=root $root_uuid
set prefix=(\$root)/boot/grub
configfile \$prefix/grub.cfg
GRUB
mkdir -p EFI/BOOT EFI/debian
cp signed/usr/lib/shim/shimx64.efi.signed EFI/BOOT/BOOTX64.EFI
cp signed/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed EFI/BOOT/grubx64.efi
cp grub.cfg EFI/debian/
boot_by_uefi disk $esp_mib EFI
boot_by_bios disk grub.cfg
mkdir done
qemu-img convert -O qcow2 -c disk done/debian.qcow2
mv id_ed25519 id_ed25519.pub done/
rm -rf "${image%/*}"
mv -T done "${image%/*}"
find "$cache" -maxdepth 1 -name 'debian-*' -mtime +30 -exec rm -rf {} +
log "done: linux $version, root $(du -sh root | cut -f1), image $(du -h "$image" | cut -f1)"
echo "$image"
