# What follows "Getting started" on a bare machine (tests/bare/run.sh): the commands that need more than to be
# typed, and what has to be true after them.
set -euo pipefail
export SYSTEMD_PAGER=

# Whether the agent answers the path, with status $2 where one is given.
answers() {
    (exec 3<>/dev/tcp/127.0.0.1/20001 && printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$1" >&3 &&
        grep -q "^HTTP/1.. ${2:-}" <&3) 2>/dev/null
}

# Within five minutes: a Debian without KVM comes to its last service minutes after its SSH server.
soon() {
    for ((tries = 0; tries < 3000; tries++)); do
        ! "$@" || return 0
        sleep 0.1
    done
    echo "not so within five minutes: $*" >&2
    return 1
}

has_written() {
    [ "$(virsh domblkstat web-1 vda | awk '$2 == "wr_req" { print $3 }')" -gt "$1" ]
}

writes_on() {
    soon has_written "$(virsh domblkstat web-1 vda | awk '$2 == "wr_req" { print $3 }')"
}

# The first guest runs as it did: it is the same process, and its disk is written.
guest_runs_on() {
    [ "$(cat /run/libvirt/qemu/web-1.pid)" = "$qemu" ]
    writes_on
}

# The command's output has this in it.
says() {
    bash "$it" | grep "$1" >/dev/null
}

has_shown() {
    grep -q "$1" typed
}

# As a person at a terminal, who finds the fingerprint that ssh shows in what the guest wrote to its console.
logs_in() {
    : >typed
    {
        soon has_shown 'yes/no'
        key=$(grep -o 'SHA256:[^.]*' typed)
        mistify-libvirt console web-1 | grep -F "$key" >&2
        echo yes
        soon has_shown 'debian@web-1:~\$'
        echo 'sudo -n id'
        soon has_shown 'uid=0'
        echo exit
    } | script -qefc "bash $it" typed
}

# A command of a document that needs systemd: what shows something prints it, all else succeeds.
under_systemd() {
    local status=0
    timeout 60 bash "$it" >shown 2>&1 || status=$?
    cat shown
    case $(cat "$it") in
    "systemctl status "* | "journalctl "*) [ -s shown ] && [ $status -lt 124 ] ;;
    *) [ $status = 0 ] ;;
    esac
}

# As the installation left it, whatever the commands of the documents have changed.
as_installed() {
    rm -rf /etc/systemd/system/mistify-libvirt.s*.d
    systemctl daemon-reload
    systemctl enable mistify-libvirt.socket mistify-libvirt.service
    systemctl stop mistify-libvirt.socket mistify-libvirt.service
    systemctl start mistify-libvirt.socket mistify-libvirt.service
    soon answers /readyz 200
}

is_running() {
    mistify-libvirt status web-1 | grep -q '"state":"running"'
}

agent_pid() {
    systemctl show --value --property MainPID mistify-libvirt
}

after_the_first_guest() {
    is_running
    soon has_written 0
    qemu=$(cat /run/libvirt/qemu/web-1.pid)
    systemctl is-active mistify-libvirt
    mistify-libvirt check | grep -q '"seen":"mistify0'
    mistify-libvirt list
}

# A later version, by the same commands.
upgrade() {
    local before
    before=$(agent_pid)
    rm target/debian/*.deb
    make deb DEB_VERSION=9999
    apt install ./target/debian/mistify-libvirt_*.deb
    soon answers /readyz 200
    [ "$(agent_pid)" != "$before" ]
    [ "$(dpkg-query -W -f '${Version}' mistify-libvirt)" = 9999 ]
    is_running
    guest_runs_on
}

after_the_purge() {
    guest_runs_on
    virsh domstate web-1 | grep -q running
    local left
    left=$(find / -xdev -name '*mistify-libvirt*' ! -path '/root/*' ! -path '/var/cache/*')
    [ -z "$left" ] || { echo "left behind: $left"; return 1; }
}
