# The world of the documents' commands: an /etc and an agent of its own.
set -euo pipefail
world=$PWD
cp -a /etc "$world/etc"
mount --bind "$world/etc" /etc
echo '192.0.2.1 hv1.example' >>/etc/hosts
# The packages' own; Prometheus has the same token as the agent.
mkdir -p /etc/stunnel /etc/prometheus
mkdir "$world/bin" "$world/root" "$world/store" "$world/state"
ln -s "$world/target/release/mistify-libvirt" "$world/bin"
PATH=$world/bin:$PATH
export STATE_DIRECTORY=$world/state
agent=

# A network of its own, and libvirt's test driver.
on_the_test_driver() {
    ip link set lo up
    ip address add 192.0.2.1/32 dev lo
    cat >/etc/mistify-libvirt.conf <<END
libvirt-uri = test:///default
storage = directory:$world/store
image-store = true
allow-disk-path = /
END
}

# The tests' libvirtd, with the agent that the settings of the section before say.
on_a_stack() {
    ip link del mistify0
    echo mistify-libvirt >first
    local it=first
    serve
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
    cp /etc/mistify-libvirt.token /etc/prometheus/mistify-libvirt.token
    kill $agent
    wait $agent
    echo mistify-libvirt >again
    local it=again
    serve
}

# In the checkout, with the program of the tests in place of another build.
in_checkout() {
    (cd "$CHECKOUT" && export CARGO=true CARGO_TARGET_DIR=$world/target DESTDIR=$world/root && "$@")
}

# Ended as by Ctrl-C when it has come to its last words.
demo() {
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

# There is no systemd here: what it would start is enabled in the folder that `make install` filled.
enables_the_unit() {
    systemctl() {
        case $1 in
        daemon-reload) ;;
        enable) command systemctl --root="$world/root" enable "${@:3}" ;;
        esac
    }
    . "$it"
    unset -f systemctl
    test -L "$world/root/etc/systemd/system/multi-user.target.wants/mistify-libvirt.service"
}

# The command, with a server of this world as the image service in place of the one that it names.
pulls_from_here() {
    local place=127.0.0.1:8090 disk=served/debian-12.qcow2 server sum
    mkdir served
    qemu-img convert -O qcow2 disk.raw $disk
    /usr/bin/python3 -m http.server --bind 127.0.0.1 --directory served 8090 >server.log 2>&1 &
    server=$!
    until curl -sf http://$place/ >/dev/null; do
        kill -0 $server
        sleep 0.1
    done
    sum=$(sha256sum <$disk)
    sed "s|https://images.example/|http://$place/|; s/ debian-12 / pulled /; s/SUM/${sum%% *}/" "$it" >pull
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

# The command answers as the document says; a job has another id each time.
answers_as_shown() {
    local output
    output=$(. "$it")
    printf '%s\n' "$output"
    [[ $(without_id <<<"$output") == *"$(without_id <"$it.answer")"* ]]
}

without_id() {
    sed -E 's/"job":"[0-9]+"/"job":""/'
}
