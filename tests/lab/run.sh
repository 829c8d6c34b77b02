#!/usr/bin/env bash
# Boots the lab, runs a command in it as root, and gives back its output and exit status:
#
#   tests/lab/run.sh [-d FOLDER] [-t SECONDS] [-k WORD] [-l LAB] [-v] [-w] -- COMMAND...
#   tests/lab/run.sh -- 'zpool create tank /dev/disk/by-id/virtio-pool && zfs list'
#
#   -d FOLDER   is seen at /mnt/host, as a copy that is read-only
#   -t SECONDS  the time that all of it may take: 300
#   -k WORD     a word for the kernel command line; init.sh says which there are
#   -l LAB      the folder of the lab: what build.sh prints
#   -v          the console goes to standard error at the end
#   -w          what is written to the root file system stays; else it is thrown away
#
# The command is one shell script. There is a blank disk of 8 GiB (sparse) at
# /dev/disk/by-id/virtio-pool; libvirtd runs; nothing inside has KVM or a network to the outside.
#
# Status: the command's; 124 after the time limit; 125 when the lab itself failed.
#
# MISTIFY_LAB_ACCEL: qemu's -accel. The default is emulation, which works on every machine.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

# Longer than a loaded machine takes to boot; the usual is 10 seconds, and 20 with systemd.
boot_seconds=90
seconds=300 lab='' share='' words='' verbose='' snapshot=on
while getopts d:t:k:l:vw option; do
    case $option in
    d) share=$OPTARG ;;
    t) seconds=$OPTARG ;;
    k) words+=" $OPTARG" ;;
    l) lab=$OPTARG ;;
    v) verbose=1 ;;
    w) snapshot=off ;;
    *) exit 125 ;;
    esac
done
shift $((OPTIND - 1))
[[ $words != *LAB_INIT=* ]] || boot_seconds=240
[ -n "$lab" ] || lab=$("$(dirname "$0")/build.sh")

qemu=
scratch=$(mktemp -d "${TMPDIR:-/tmp}/mistify-lab.XXXXXX")
trap '[ -z "$qemu" ] || kill "$qemu" 2>/dev/null || true; rm -rf "$scratch"' EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

arguments=(
    -M pc -accel "${MISTIFY_LAB_ACCEL:-tcg,thread=multi,tb-size=512}" -smp 2 -m 2048
    # With cx16 kernels from 6.12 on do not boot under emulation.
    -cpu max,-cx16
    -nodefaults -no-user-config -no-reboot -display none
    -kernel "$lab/vmlinuz" -initrd "$lab/initrd.gz"
    -append "console=ttyS0 quiet panic=-1 mitigations=off apparmor=0 selinux=0 audit=0 net.ifnames=0 \
random.trust_cpu=on$words"
    -serial "file:$scratch/console" -device virtio-rng-pci -device virtio-serial-pci
    # Descriptor 3 is a pipe, which can be opened again by its name.
    -chardev "file,id=out,path=/dev/fd/3,append=on" -device virtserialport,chardev=out,name=out
    -chardev "file,id=rc,path=$scratch/rc" -device virtserialport,chardev=rc,name=rc
)

# Adds disk $1 with image $2 and more options $3. The first is the root disk, /dev/vda.
disk() {
    arguments+=(-drive "file=$2,format=raw,if=none,id=$1,cache=unsafe,$3")
    arguments+=(-device "virtio-blk-pci,drive=$1,serial=$1")
}

printf '%s\n' "$*" >"$scratch/cmd"
# Whole sectors, or the disk would end before the command does.
truncate -s %512 "$scratch/cmd"
truncate -s 8G "$scratch/pool"
disk root "$lab/root.img" "snapshot=$snapshot"
disk cmd "$scratch/cmd" readonly=on
disk pool "$scratch/pool" discard=unmap
if [ -n "$share" ]; then
    used=$(du -sk --apparent-size "$share" | cut -f 1)
    truncate -s $((used * 5 / 4 + 16384))K "$scratch/share"
    mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$share" "$scratch/share"
    disk share "$scratch/share" readonly=on
fi

runs() {
    kill -0 "$qemu" 2>/dev/null
}

began() {
    grep -q '^lab: .* command' "$scratch/console"
}

# Waits for qemu's end at the longest until $1 on bash's clock, or until $2 holds.
wait_until() {
    while runs && [ "$SECONDS" -lt "$1" ] && ! "$2"; do
        sleep 0.1
    done
}

# Starts the machine and returns when the command begins, or cannot any more.
boot() {
    : >"$scratch/console"
    : >"$scratch/rc"
    # It ends with this script, also when that is killed.
    setpriv --pdeathsig KILL qemu-system-x86_64 "${arguments[@]}" </dev/null >"$scratch/qemu" 2>&1 &
    qemu=$!
    local limit=$((SECONDS + boot_seconds))
    wait_until $((limit < end ? limit : end)) began
}

end=$((SECONDS + seconds))
exec 3> >(exec cat)
printer=$!
for attempt in 1 2 3; do
    boot
    # Emulation breaks a boot now and then. Nothing of the command has run: once more.
    if began || [ "$SECONDS" -ge "$end" ] || [ "$attempt" = 3 ]; then
        break
    fi
    echo "run.sh: boot $attempt failed" >&2
    tail -n 5 "$scratch/console" "$scratch/qemu" >&2
    kill "$qemu" 2>/dev/null || true
    wait "$qemu" || true
done
wait_until "$end" false

late=
if runs; then
    late=1
    kill "$qemu"
fi
wait "$qemu" || true
qemu=
exec 3>&-
wait "$printer" || true
[ -z "$verbose" ] || sed 's/^/console: /' "$scratch/console" >&2
status=$(cat "$scratch/rc")
if [ -n "$status" ] && [ -z "$late" ]; then
    exit "$status"
fi
cat "$scratch/qemu" >&2
tail -n 40 "$scratch/console" >&2
if [ -n "$late" ]; then
    echo "run.sh: not done after $seconds seconds" >&2
    exit 124
fi
echo "run.sh: the lab ended without a status" >&2
exit 125
