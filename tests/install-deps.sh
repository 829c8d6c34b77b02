#!/usr/bin/env bash
# Installs what the build and the tests need on Debian 12, and only what is missing:
#
#   tests/install-deps.sh [build|demo|linux|test|coverage|bench|lab|bare|deb|deny|fuzz|gate|verify]
#
#   build  what `cargo build` needs
#   demo   what the demo needs besides: qemu-img, which reads its disk
#   linux  what the demo runs a real guest with: libvirtd without its services, qemu, and what makes the small
#          Linux of tests/linux
#   test   (default) also libvirtd and qemu for the tests, and PyPI's jsonrpcclient, which calls the
#          agent: it is unpacked in target/ and not installed; without a network its test says so
#   coverage
#          as test, and the program that reads the counters, which is built once, in a minute, in
#          ~/.cache/mistify-libvirt
#   bench  as test, what makes the Debian guest that is measured, virt-install, and Debian's
#          prometheus-libvirt-exporter, which the agent is measured beside: it is unpacked in target/ and not
#          installed, so that no service of it is started
#   lab    what `cargo build` needs, and what makes and boots the virtual machine of tests/lab
#   bare   what `cargo build` needs, and what makes and boots the bare machine of tests/bare
#   deb    what `cargo build` needs, and cargo-deb, which is built in target/ in a minute
#   deny   cargo-deny, which is built once, in 3 minutes, in ~/.cache/mistify-libvirt
#   fuzz   what `cargo build` needs, and a C++ compiler, for libFuzzer
#   gate   what .ci/run needs: build, test and lab, libclang, to make the bindings again, promtool, to
#          check the metrics, and systemd's tools, to check the units
#   verify what `make verify` needs: gate, bare, deb, deny and fuzz, and Chromium, to look at the page
#
# As root or through sudo. Where all is there it needs neither, nor a network.
set -euo pipefail

# All libraries of the exporter come with what the tests need.
unpack_exporter() {
    local package=prometheus-libvirt-exporter directory
    directory=$(realpath -m "${CARGO_TARGET_DIR:-$(dirname "$0")/../target}")/tmp/exporter
    [ ! -x "$directory/usr/bin/$package" ] || return 0
    mkdir -p "$directory"
    cd "$directory"
    # Needs no root; apt's word of a sandbox that cannot enter this directory does no harm.
    apt-get download -q "$package"
    dpkg-deb -x "$package"_*.deb .
}

# Its own defaults would link liblzma; this uses the command.
build_cargo_deb() {
    local version=3.8.0 directory
    directory=$(realpath -m "${CARGO_TARGET_DIR:-$(dirname "$0")/../target}")/tools
    [ "$("$directory/bin/cargo-deb" --version 2>/dev/null)" != "cargo-deb $version" ] || return 0
    cargo install --quiet --locked --no-default-features --root "$directory" cargo-deb@"$version"
}

# Outside of the checkout: it takes longer than all of the agent, and every checkout needs the same.
build_cargo_deny() {
    local version=0.20.2 directory=${XDG_CACHE_HOME:-$HOME/.cache}/mistify-libvirt
    [ "$("$directory/bin/cargo-deny" --version 2>/dev/null)" != "cargo-deny $version" ] || return 0
    cargo install --quiet --locked --root "$directory" cargo-deny@"$version"
}

# Outside of the checkout as well.
build_coverage() {
    CARGO_TARGET_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/mistify-libvirt/coverage cargo build --quiet \
        --locked --release --manifest-path "$(dirname "$0")/coverage/Cargo.toml"
}

# No package of Debian's has it.
unpack_client() {
    local directory
    directory=$(realpath -m "${CARGO_TARGET_DIR:-$(dirname "$0")/../target}")/tmp/jsonrpcclient
    [ ! -d "$directory/jsonrpcclient" ] || return 0
    /usr/bin/python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
        --no-deps --only-binary :all: --require-hashes --target "$directory" -r /dev/stdin <<'WHEEL' ||
jsonrpcclient==4.0.3 --hash=sha256:3cbb9e27e1be29821becf135ea183144a836215422727e1ffe5056a49a670f0d
WHEEL
        echo "there is no jsonrpcclient" >&2
}

packages=(make gcc libc6-dev libvirt-dev)
test=(
    libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients
    qemu-system-x86 qemu-utils seabios ipxe-qemu
    openvswitch-switch iproute2 util-linux mount python3 curl openssl stunnel4
    python3-jsonschema python3-pip
    ovmf swtpm swtpm-tools xorriso dnsmasq-base iptables
)
# What tests/linux/small.sh makes the small Linux guest with.
linux=(fdisk mtools dosfstools grub-common grub-pc-bin grub-efi-amd64-bin kmod cpio python3)
lab=(mmdebstrap e2fsprogs qemu-system-x86 seabios util-linux mount)
bare=(mmdebstrap systemd-container slirp4netns util-linux mount git)
deb=(dpkg-dev xz-utils)
gate=(binutils libclang-dev prometheus python3-prometheus-client systemd)
unpack=:
case ${1:-test} in
build) ;;
demo) packages+=(qemu-utils) ;;
linux)
    # Not libvirt-daemon-system, which starts services and makes a bridge.
    packages=(libvirt-daemon libvirt-clients qemu-system-x86 seabios ipxe-qemu iproute2 util-linux mount
        "${linux[@]}")
    ;;
test)
    packages+=("${test[@]}" "${linux[@]}")
    unpack=unpack_client
    ;;
coverage)
    "$0" test
    build_coverage
    exit
    ;;
bench)
    packages+=("${test[@]}" "${linux[@]}" "${lab[@]}" mmdebstrap openssh-client virtinst)
    unpack=unpack_exporter
    ;;
lab) packages+=("${lab[@]}" "${linux[@]}") ;;
bare) packages+=("${bare[@]}") ;;
deb)
    "$0" build
    build_cargo_deb
    packages+=("${deb[@]}")
    ;;
deny)
    build_cargo_deny
    exit
    ;;
fuzz) packages+=(g++) ;;
gate)
    packages+=("${test[@]}" "${linux[@]}" "${lab[@]}" "${gate[@]}")
    unpack=unpack_client
    ;;
verify)
    build_cargo_deny
    build_cargo_deb
    packages+=("${test[@]}" "${linux[@]}" "${lab[@]}" "${gate[@]}" "${bare[@]}" "${deb[@]}" g++ golang-go
        python3-prometheus-client chromium chromium-driver fonts-dejavu-core
        openssh-client dnsmasq-base)
    unpack=unpack_client
    ;;
*)
    echo "usage: $0 [build|demo|linux|test|coverage|bench|lab|bare|deb|deny|fuzz|gate|verify]" >&2
    exit 2
    ;;
esac

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing=()
for package in "${packages[@]}"; do
    installed "$package" || missing+=("$package")
done
if [ ${#missing[@]} = 0 ]; then
    "$unpack"
    exit
fi

if ! command -v apt-get >/dev/null; then
    echo "no apt-get here; what is needed, by Debian's names: ${missing[*]}" >&2
    exit 1
fi
as_root=()
if [ "$(id -u)" != 0 ]; then
    as_root=(sudo -n)
    if ! sudo -n true 2>/dev/null; then
        echo "neither root nor sudo; install these: ${missing[*]}" >&2
        exit 1
    fi
fi

# qemu packages from backports conflict with the release's qemu-system-x86: back to the release.
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
backports=$(dpkg-query -W -f '${Package} ${source:Package} ${Version}\n' |
    awk -v "release=$codename" '$2 == "qemu" && $3 ~ /~bpo/ { print $1 "/" release }')

# $backports: words, none with a blank.
# shellcheck disable=SC2086
install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
        --no-install-recommends --allow-downgrades "${missing[@]}" $backports </dev/null
}

echo "installing ${missing[*]} $backports"
if ! install; then
    echo "once more, with fresh package lists"
    "${as_root[@]}" apt-get update -q </dev/null
    install
fi
"$unpack"
