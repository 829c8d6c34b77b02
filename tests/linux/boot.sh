# Makes disk images that boot, for the recipes of this directory, which source this file. Files alone are
# needed: no loop device, no mount, no chroot.
#
# The layout is that of Debian's cloud images: GPT, partition 14 for GRUB's BIOS part, partition 15 the EFI
# system partition, and what a recipe adds behind them.
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin

# In sectors of 512 bytes.
bios_start=2048
bios_sectors=6144
esp_start=8192

modules=(part_gpt fat ext2 search search_fs_uuid search_label configfile linux normal serial terminal
    echo sleep reboot halt minicmd)

log() { echo "+${SECONDS}s $*" >&2; }

# The file that apt downloads for a package, in the current directory; the package lists may be too old.
download() {
    apt-get download -q -o APT::Sandbox::User=root "$@" >/dev/null || {
        apt-get update -q >/dev/null
        apt-get download -q -o APT::Sandbox::User=root "$@" >/dev/null
    }
}

# Writes a new partition table: the disk, its size in MiB, that of the EFI system partition, and the lines
# of sfdisk for further partitions.
partition() {
    local disk=$1 mib=$2 esp_mib=$3
    rm -f "$disk"
    truncate -s "${mib}M" "$disk"
    {
        echo "label: gpt"
        echo "14 : start=$bios_start, size=$bios_sectors, type=21686148-6449-6E6F-744E-656564454649, name=bios"
        echo "15 : start=$esp_start, size=$((esp_mib * 2048)), type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp"
        printf '%s\n' "${@:4}"
    } | sfdisk -q "$disk"
}

# Makes a disk boot by BIOS: the disk, and GRUB's first commands. What grub-install does, on a file: the
# boot sector gets the place of GRUB's core, and the core the place of its own rest.
boot_by_bios() {
    local disk=$1 commands=$2
    grub-mkimage -O i386-pc -c "$commands" -p /boot/grub -o core.img biosdisk "${modules[@]}"
    python3 - "$disk" /usr/lib/grub/i386-pc/boot.img core.img $bios_start $bios_sectors <<'PYTHON'
import struct, sys
disk, boot, core = sys.argv[1], bytearray(open(sys.argv[2], 'rb').read()), bytearray(open(sys.argv[3], 'rb').read())
start, sectors = int(sys.argv[4]), int(sys.argv[5])
assert len(core) <= sectors * 512
struct.pack_into('<Q', boot, 0x5c, start)
boot[0x66:0x68] = b'\x90\x90'  # boot from the drive that the BIOS names, also where it names none
struct.pack_into('<Q', core, 0x1f4, start + 1)
with open(disk, 'r+b') as f:
    first = bytearray(f.read(512))
    first[:440] = boot[:440]
    f.seek(0)
    f.write(first)
    f.seek(start * 512)
    f.write(core)
PYTHON
}

# Writes the EFI system partition: the disk, its size in MiB, and the files and directories in it.
boot_by_uefi() {
    local disk=$1 esp_mib=$2
    rm -f esp.img
    truncate -s "${esp_mib}M" esp.img
    mkfs.vfat -n ESP esp.img >/dev/null
    mcopy -s -i esp.img "${@:3}" ::/
    dd if=esp.img of="$disk" bs=512 seek=$esp_start conv=notrunc,sparse status=none
    rm esp.img
}
