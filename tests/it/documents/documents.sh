# The world of the documents' commands: an /etc and an agent of its own.
set -euo pipefail
world=$PWD
cp -a /etc "$world/etc"
mount --bind "$world/etc" /etc
echo '192.0.2.1 hv1.example' >>/etc/hosts
mkdir "$world/bin" "$world/root"
ln -s "$world/target/release/mistify-libvirt" "$world/bin"
PATH=$world/bin:$PATH
export STATE_DIRECTORY=$world/state
agent=

# A network of its own, and libvirt's test driver: each page begins with an agent and a guest of its own.
on_the_test_driver() {
    ip link set lo up
    ip address add 192.0.2.1/32 dev lo
    begin_page() {
        echo "== $1"
        stop_agent
        forget_files
        cat >/etc/mistify-libvirt.conf <<END
libvirt-uri = test:///default
storage = directory:$world/store
image-store = true
allow-disk-path = /
END
        made_guest=
        restarts
        mistify-libvirt image import disk.raw debian-12
        cat >web-1.json <<END
{"id": "web-1", "type": "test", "memory": 512, "cpu": 2, "disks": [{"image": "debian-12"}],
 "nics": [{"name": "eth0", "network": "mistify0", "model": "virtio", "mac": "02:00:00:00:00:01"}],
 "metadata": {"owner": "alice"}}
END
        make_guest
    }
    make_guest() {
        made_guest=yes
        mistify-libvirt create web-1.json
        mistify-libvirt run web-1
    }
    # An example of settings is read and not used: this agent needs its own.
    has_file() {
        case $2 in
        /etc/mistify-libvirt.conf) mistify-libvirt --config "$1" --check-config ;;
        *) install -D -m 644 "$1" "$2" ;;
        esac
    }
}

# The tests' libvirtd, with the agent that the page configures.
on_a_stack() {
    ip link del mistify0
    begin_page() { forget_files; }
    has_file() { install -D -m 644 "$1" "$2"; }
}

# What pages write, and the packages' own directories.
forget_files() {
    rm -rf /etc/mistify-libvirt* /etc/systemd/system/mistify-libvirt* /etc/stunnel /etc/prometheus store state
    mkdir /etc/stunnel /etc/prometheus store state
}

stop_agent() {
    [ -n "$agent" ] || return 0
    kill $agent
    wait $agent || true
    agent=
}

# As systemd restarts the service. A guest of libvirt's test driver ends with the agent: it is made anew.
restarts() {
    stop_agent
    echo mistify-libvirt >service
    local it=service
    serve
    [ -z "${made_guest-}" ] || { mistify-libvirt delete web-1 && make_guest; }
}

# Runs the command in the background, and waits until it serves.
serve() {
    bash -c "exec $(cat "$it")" >>agent.log 2>&1 &
    agent=$!
    until curl -sf http://127.0.0.1:20001/readyz >/dev/null; do
        kill -0 $agent
        sleep 0.1
    done
}

# The agent again, with what the text above the command gives it.
listen_beyond() {
    cat >>/etc/mistify-libvirt.conf <<END
listen = 127.0.0.1
listen = 192.0.2.1
token-file = /etc/mistify-libvirt.token
allow-host = hv1.example
END
    restarts
}

# The settings that the page shows, for the restart that it names.
listen_for_metrics() {
    cat >>/etc/mistify-libvirt.conf <<END
metrics-listen = 127.0.0.1
metrics-listen = 192.0.2.1
metrics-token-file = /etc/mistify-libvirt-metrics.token
allow-host = hv1.example
END
}

# A copy to the other host of the page, which is this one.
copies_here() {
    local copy from to
    read -r copy from to <<<"$(<"$it")"
    [ "$copy" = scp ]
    cp "$from" "${to#*:}"
}

# The disk of this world has no SSH server: `make test-new-user` waits for one.
creates_without_ssh() {
    sed 's/ --wait ssh/ --type qemu/' "$it" >creates
    . ./creates
}

# The image is the user's own.
imports() {
    local file
    file=$(awk '{ print $4 }' "$it")
    [ -e "$file" ] || qemu-img convert -O qcow2 disk.raw "$file"
    . "$it"
}

# In the checkout, with the program of the tests in place of another build.
in_checkout() {
    (cd "$CHECKOUT" && export CARGO=true CARGO_TARGET_DIR=$world/target DESTDIR=$world/root && "$@")
}

# With a real guest, and where there can be none.
demo() {
    serves_a_demo
    demo_says 'small login:'
    DEMO_DRIVER=test serves_a_demo
    demo_says 'whose guests run nothing: DEMO_DRIVER is test'
}

demo_says() { grep -q "$1" demo.log || { cat demo.log; return 1; }; }

# Ended as by Ctrl-C when it has come to its last words.
serves_a_demo() {
    # Else the words of the one before are taken for its own.
    : >demo.log
    # A network of its own, where the port is free, and a group of its own, which Ctrl-C reaches.
    set -m
    in_checkout unshare -n bash -c "ip link set lo up && . $it" >demo.log 2>&1 &
    set +m
    local make=$!
    until grep -q 'until Ctrl-C' demo.log; do
        kill -0 $make || { cat demo.log; return 1; }
        sleep 0.1
    done
    kill -INT -- -$make
    wait $make || true
}

# systemd finds the units, and man the pages, where `make install` puts them.
is_installed() {
    systemctl --root="$world/root" enable mistify-libvirt mistify-libvirt.socket mistify-libvirt-fetch.socket
    test -L "$world/root/etc/systemd/system/multi-user.target.wants/mistify-libvirt.service"
    test -e "$world/root/usr/share/man/man8/mistify-libvirt.8"
    test -e "$world/root/usr/share/man/man5/mistify-libvirt.conf.5"
}

# The command, with a server of this world as the image service in place of the one that it names.
pulls_from_here() {
    local place=127.0.0.1:8090 disk server sum
    disk=$(grep -o '[^/]*\.qcow2' "$it")
    mkdir -p served
    qemu-img convert -O qcow2 disk.raw "served/$disk"
    /usr/bin/python3 -m http.server --bind 127.0.0.1 --directory served 8090 >server.log 2>&1 &
    server=$!
    until curl -sf http://$place/ >/dev/null; do
        kill -0 $server
        sleep 0.1
    done
    sum=$(sha256sum <"served/$disk")
    sed "s|https://images.example/|http://$place/|; s/SUM/${sum%% *}/" "$it" >pull
    (export MISTIFY_IMAGE_SERVICE=$place && . ./pull)
    kill $server
}

# The command's output has this in it.
says() {
    local output
    output=$(. "$it")
    printf '%s\n' "$output"
    [[ $output == *"$1"* ]]
}

# The command answers as the document says; jobs, times and uuids differ each time.
answers_as_shown() {
    local output
    output=$("$@")
    printf '%s\n' "$output"
    diff <(comparable <"${it}.answer") <(comparable <<<"$output")
}

comparable() {
    jq -S 'del(.. | .job?, .time?, .uuid?, .created?, .started?, .ended?)'
}
