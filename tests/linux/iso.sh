#!/usr/bin/env bash
# Makes ISO images from which the small Linux guest starts as from its disk, and prints the path of the one that
# FLAVOUR names; see small.sh.
#
#   FLAVOUR=hybrid  starts from a CD-ROM and from a disk, by BIOS and by UEFI, as installers do (grub-mkrescue)
#   FLAVOUR=plain   starts from a CD-ROM by BIOS alone: no partition table (El Torito)
#
# Both have the label SMALL and a file `flavour` that says which it is.
#
# Needs what small.sh needs, and xorriso.
set -euo pipefail
cd "$(dirname "$0")"
. ./boot.sh
disk=$(./small.sh)
flavour=${FLAVOUR:-hybrid}
hash=$(sha256sum iso.sh boot.sh "$disk" | sha256sum | cut -c 1-16)
directory=${disk%/*}
image=$directory/iso-$flavour-$hash.iso
if [ -e "$image" ]; then
    echo "$image"
    exit
fi
work=$(mktemp -d "$directory/iso.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

mkdir -p tree/boot/grub
mcopy -i "$disk@@$((esp_start * 512))" ::/vmlinuz ::/initrd tree/
echo "$flavour" >tree/flavour
cat >tree/boot/grub/grub.cfg <<'GRUB'
serial --unit=0 --speed=115200
linux /vmlinuz console=ttyS0,115200 no_timer_check quiet panic=0
initrd /initrd
boot
GRUB
case $flavour in
hybrid) grub-mkrescue -o disc tree -- -volid SMALL ;;
plain)
    grub-mkimage -O i386-pc-eltorito -p /boot/grub -o tree/boot/grub/eltorito.img \
        biosdisk iso9660 linux normal serial terminal
    xorriso -as mkisofs -R -V SMALL -b boot/grub/eltorito.img -no-emul-boot -boot-load-size 4 \
        -boot-info-table -o disc tree
    ;;
*)
    echo "usage: FLAVOUR=hybrid|plain $0" >&2
    exit 2
    ;;
esac >log 2>&1 || {
    cat log >&2
    exit 1
}
find "$directory" -name "iso-*.iso" -mtime +30 -delete
mv disc "$image"
log "done: $(du -h "$image" | cut -f1)"
echo "$image"
