#!/usr/bin/env bash
# Runs a test binary in the lab instead of on this machine; cargo calls it as its runner:
#
#   cargo test --test it --config 'target."cfg(unix)".runner=["tests/lab/runner.sh"]' -- lab::
#
# The binary, the agent and tests/ are found inside under the paths that they have here, which were
# compiled in. The image of tests/linux/small.sh, the pool `tank` and the bridge `mistify0` are there. A
# skip is a failure, whatever the test says that it needs. So is a run in which no test passed,
# whatever the status is.
#
# Environment:
#   LAB_QEMU_CONF  debian: qemu.conf as Debian ships it (qemu is a user of its own)
#   LAB_PACKAGES   a folder of Debian packages, two versions: systemd is the lab's first process, and
#                  has them at $MISTIFY_TEST_PACKAGES
#   LAB_SECONDS    the time limit of the run: 1500. On two processors the longest takes some 400 with
#                  nothing else to do, and more with something.
set -euo pipefail
cd "$(dirname "$0")/../.."

binary=$(realpath "$1")
shift
profile=$(dirname "$(dirname "$binary")")
agent=$profile/mistify-libvirt
words=() user=root packages=
if [ "${LAB_QEMU_CONF:-}" = debian ]; then
    words=(-k lab.qemu-conf=debian) user=libvirt-qemu
fi

scratch=$(mktemp -d "${TMPDIR:-/tmp}/mistify-lab-share.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/share"
cp "$binary" "$scratch/share/it"
cp "$agent" "$scratch/share/agent"
cp -r tests "$scratch/share/tests"
mkdir "$scratch/share/linux"
cp --sparse=always "$(tests/linux/small.sh)" "$scratch/share/linux/"
if [ -n "${LAB_PACKAGES:-}" ]; then
    words+=(-k LAB_INIT=/sbin/init) packages=/mnt/host/packages
    cp -r "$LAB_PACKAGES" "$scratch/share/packages"
fi

# What is done inside, before the tests.
{
    printf 'checkout=%q agent=%q scratch=%q\n' "$PWD" "$agent" "$(dirname "$profile")/tmp"
    echo "export MISTIFY_TEST_QEMU_USER=$user MISTIFY_TEST_REQUIRE=lab,qemu,ovs"
    # As tests/gate/timed.sh does; and why tests are slow comes out with the output.
    echo "export RUSTC_BOOTSTRAP=1 MISTIFY_TEST_COSTS=/run/costs"
    echo "trap 'sed \"s/^/cost: /\" /run/costs' EXIT"
    [ -z "$packages" ] || echo "export MISTIFY_TEST_PACKAGES=$packages"
    cat <<'INSIDE'
set -euo pipefail
mkdir -p "$checkout" "$(dirname "$agent")" "$scratch"
ln -s /mnt/host/tests "$checkout/tests"
ln -s /mnt/host/agent "$agent"
# Not in a home: a purge of the package is to leave no file with our name.
export XDG_CACHE_HOME=/run/cache
mkdir -p /run/cache/mistify-libvirt
ln -s /mnt/host/linux /run/cache/mistify-libvirt/linux
ip link add mistify0 type bridge
ip link set mistify0 up
zpool create tank /dev/disk/by-id/virtio-pool
# Here, for of two `zfs create -p` at once one fails on the parent that the other has made.
zfs create -o mountpoint=none tank/guests
export MISTIFY_TEST_ZPOOL=tank MISTIFY_TEST_SKIPS=/run/skips
cd "$checkout"
INSIDE
    printf '/mnt/host/it'
    printf ' %q' "$@" -Z unstable-options --report-time
    printf '\n%s\n' '[ ! -s "$MISTIFY_TEST_SKIPS" ] || { echo "skipped in the lab" >&2 && exit 1; }'
} >"$scratch/inside"

status=0
tests/lab/run.sh -t "${LAB_SECONDS:-1500}" -d "$scratch/share" "${words[@]}" -- \
    "$(cat "$scratch/inside")" | tee "$scratch/output" || status=$?
if [ "$status" = 0 ] && ! grep -q '^test result: ok\. [1-9]' "$scratch/output"; then
    echo "runner.sh: no test ran in the lab" >&2
    status=1
fi
exit "$status"
