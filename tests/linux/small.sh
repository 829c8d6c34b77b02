#!/usr/bin/env bash
# Makes the small Linux guest of the tests and the demo, and prints the path of its raw disk image: Debian's
# cloud kernel and an initramfs with busybox and qemu-guest-agent. It boots by BIOS and by UEFI, in seconds
# without KVM, and needs 256 MiB. On its serial console root logs in with the password debian. It gets
# addresses by DHCP, obeys the power button, and keeps nothing. It has iperf3.
#
#   small.sh        the image stays in ~/.cache/mistify-libvirt/linux until one of its recipes changes
#
# Needs: busybox's and the kernel's packages from apt; fdisk mtools dosfstools grub-common grub-pc-bin
# grub-efi-amd64-bin kmod cpio python3. Neither root nor a network where the image is there.
set -euo pipefail
cd "$(dirname "$0")"
. ./boot.sh
recipe=(small.sh boot.sh inittab rc dhcp agent)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mistify-libvirt/linux
hash=$(sha256sum "${recipe[@]}" | sha256sum | cut -c 1-16)
image=$cache/small-$hash.raw
if [ -e "$image" ]; then
    echo "$image"
    exit
fi
here=$PWD
mkdir -p "$cache"
work=$(mktemp -d "$cache/small.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

log "packages"
# The package of the newest kernel, by name; the package lists may be missing.
kernel() { apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p' | grep .; }
kernel=$(kernel) || { apt-get update -q >/dev/null && kernel=$(kernel); }
download "$kernel" busybox-static qemu-guest-agent iperf3 libiperf0 libsctp1
for package in *.deb; do dpkg-deb -x "$package" packages; done

log "initramfs"
version=$(basename packages/lib/modules/*)
mkdir -p root/{bin,sbin,dev,proc,sys,run,tmp,root,mnt,etc/acpi/PWRF,usr/sbin}
cp packages/bin/busybox root/bin/
while read -r command; do
    ln -sf /bin/busybox "root/bin/$command"
done < <(root/bin/busybox --list | grep -vx busybox)
for command in init getty acpid reboot poweroff hwclock; do ln -s /bin/busybox root/sbin/$command; done
ln -s /sbin/init root/init
install -m 755 "$here/rc" "$here/dhcp" root/etc/
install -m 755 "$here/agent" root/sbin/
cp "$here/inittab" root/etc/
printf '#!/bin/sh\nexec poweroff\n' >root/etc/acpi/PWRF/00000080
# What qemu-ga runs, with -P, -r or -H.
printf '#!/bin/sh\ncase "$*" in *-r*) exec reboot ;; *) exec poweroff ;; esac\n' >root/sbin/shutdown
# As shadow's, with -e for a hash: busybox of Debian has none.
cat >root/sbin/chpasswd <<'CHPASSWD'
#!/bin/sh
IFS=: read -r user password
grep -q "^$user:" /etc/passwd || exit 1
[ "$1" = -e ] || password=$(mkpasswd -m sha512 "$password")
sed -i "s|^$user:[^:]*|$user:$password|" /etc/passwd
CHPASSWD
chmod 755 root/etc/acpi/PWRF/00000080 root/sbin/shutdown root/sbin/chpasswd
echo "root:$(root/bin/busybox mkpasswd -m sha512 debian 6d697374696679):0:0:root:/root:/bin/sh" >root/etc/passwd
echo "root:x:0:" >root/etc/group
printf 'Small Linux of mistify-libvirt, kernel \\r: root, debian\n\n' >root/etc/issue
# qemu-ga with its libraries: this host's, which runs qemu and so has them.
cp packages/usr/sbin/qemu-ga root/usr/sbin/
ldd root/usr/sbin/qemu-ga | grep -o '/[^ ]*' | while read -r library; do
    install -D "$library" "root$library"
done
# iperf3 with its libraries stays on the disk, where it costs no time at the boot.
mkdir iperf3
cp packages/usr/bin/iperf3 iperf3/
LD_LIBRARY_PATH=$(echo packages/usr/lib/*-linux-gnu) ldd iperf3/iperf3 | grep -o '[^ ]*/lib[^ ]*' | while read -r library; do
    cp "$library" iperf3/
done
cat >root/bin/iperf3 <<'IPERF3'
#!/bin/sh
mkdir -p /run/esp
[ -d /run/esp/iperf3 ] || mount -o ro LABEL=ESP /run/esp
LD_LIBRARY_PATH=/run/esp/iperf3 exec /run/esp/iperf3/iperf3 "$@"
IPERF3
chmod 755 root/bin/iperf3
cat >root/etc/modules <<'MODULES'
virtio_pci
virtio_blk
virtio_scsi
virtio_net
virtio_console
virtio_balloon
virtio-rng
virtio_mem
virtio_input
sd_mod
sr_mod
isofs
vfat
nls_ascii
nls_cp437
button
evdev
qemu_fw_cfg
pvpanic
pvpanic-pci
MODULES
depmod -b packages "$version"
modules_folder=lib/modules/$version
while read -r module; do
    modprobe -d packages -S "$version" --show-depends "$module" | sed -n 's/^insmod //p'
done < <(cat root/etc/modules && echo efivarfs) | sort -u | while read -r file; do
    install -D -m 644 "$file" "root/${file#*packages/}"
done
cp packages/$modules_folder/modules.{builtin,order} root/$modules_folder/ 
depmod -b root "$version"
(cd root && find . | sort | cpio --quiet -o -H newc -R 0:0) | gzip -1 >initrd

log "disk"
cp packages/boot/vmlinuz-* vmlinuz
# no_timer_check: without KVM on a busy machine the kernel finds its timer too slow, and panics.
cat >grub.cfg <<'GRUB'
search --no-floppy --label --set=root ESP
serial --unit=0 --speed=115200
linux /vmlinuz console=ttyS0,115200 no_timer_check quiet panic=0
initrd /initrd
boot
GRUB
partition disk 64 56
mkdir -p EFI/BOOT
grub-mkimage -O x86_64-efi -c grub.cfg -p /boot/grub -o EFI/BOOT/BOOTX64.EFI "${modules[@]}" efi_gop all_video
boot_by_uefi disk 56 EFI vmlinuz initrd iperf3
boot_by_bios disk grub.cfg
find "$cache" -name "small-*.raw" -mtime +30 -delete
mv disk "$image"
log "done: linux $version, $(du -h "$image" | cut -f1)"
echo "$image"
