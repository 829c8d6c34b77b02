#!/bin/bash
# Starts the agent with disks in a directory, on a libvirtd and QEMU in namespaces of its own. Imports a small Linux,
# and creates, runs, measures and deletes a guest with a disk from it. Prints each call and its answer, and serves
# until Ctrl-C. Where namespaces, QEMU or the small Linux are not available it says why, and uses libvirt's built-in
# test driver, whose guests run nothing. Leaves nothing behind but the small Linux in ~/.cache/mistify-libvirt.
#   dist/demo.sh [path of mistify-libvirt]
#   DEMO_PORT, DEMO_IMAGE_STORE_PORT: ports (default 20001 and 19999)
#   DEMO_DRIVER=test: use the test driver
set -euo pipefail
agent=${1:-"${CARGO_TARGET_DIR:-target}/release/mistify-libvirt"}
port=${DEMO_PORT:-20001}
images_port=${DEMO_IMAGE_STORE_PORT:-19999}
# Ignore the configuration of this host's own agent.
export MISTIFY_CONFIG=/dev/null
checkout=$(dirname "$(dirname "$(realpath "$0")")")
work=$(mktemp -d)
pid=
stack=
made=()
finish() {
  if [ -n "$pid" ]; then
    # The agent itself: nsenter passes no signal on.
    kill "$(cut -d ' ' -f 1 "/proc/$pid/task/$pid/children" 2> /dev/null | grep . || echo "$pid")" 2> /dev/null || true
    wait "$pid" 2> /dev/null || true
  fi
  # It ends at the end of its input, with every process and mount of its namespaces.
  if [ -n "$stack" ]; then
    exec 8>&-
    wait "$stack" 2> /dev/null || true
  fi
  [ ${#made[@]} = 0 ] || rmdir "${made[@]}" || true
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 0' INT TERM

# Sends one request (port, method, path, body) and prints the body of the answer.
request() {
  local head
  exec 3<> "/dev/tcp/127.0.0.1/$1"
  shift
  head="$1 $2 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
  head+="Content-Type: application/json\r\nContent-Length: ${#3}\r\n\r\n"
  printf "$head%s" "$3" >&3
  sed '1,/^\r$/d' <&3
  exec 3>&-
}

title() { printf '\n\033[1m%s\033[0m\n' "$1"; }

# Calls a method (port, name, parameters). A failed call ends the demo.
method() {
  local body='{"method":"'$2'","params":['$3'],"id":'$((++id))'}'
  title "$2"
  printf '> %s\n< ' "$body"
  request "$1" POST /_mistify_RPC_ "$body" | tee "$work/answer"
  if ! grep -q '"error":null' "$work/answer"; then
    echo "call $2 failed" >&2
    exit 1
  fi
}
call() { method "$port" "Libvirt.$1" '{"guest":'"$2"'}'; }
images() { method "$images_port" "ImageStore.$1" "$2"; }

# Starts a libvirtd with QEMU and a bridge, and makes the small Linux. Sets how the agent is started, and what the
# guest is. Fails with the reason in $why.
real_libvirt() {
  local word init
  why="DEMO_DRIVER is test"
  [ "${DEMO_DRIVER:-}" != test ] || return 1
  why="only root can make namespaces"
  [ "$(id -u)" = 0 ] || return 1
  for program in libvirtd virtlogd virsh qemu-system-x86_64 ip unshare nsenter; do
    why="$program is not installed"
    command -v "$program" > /dev/null || return 1
  done
  title 'tests/linux/small.sh'
  why="the small Linux cannot be made"
  image=$("$checkout/tests/linux/small.sh") || return 1
  echo "$image"
  # The stack has directories of its own in the place of these, which come with libvirt's services.
  for directory in /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do
    [ -d "$directory" ] || { mkdir "$directory" && made+=("$directory"); }
  done
  mkfifo "$work/commands"
  unshare -m -n -p --fork --mount-proc --kill-child "$checkout/tests/stack/up.sh" \
    < "$work/commands" > "$work/stack" 2> "$work/stack.errors" &
  stack=$!
  exec 8> "$work/commands"
  until [ -s "$work/stack" ] || ! kill -0 "$stack" 2> /dev/null; do sleep 0.1; done
  read -r word < "$work/stack" || word=$(tail -n 1 "$work/stack.errors")
  why="no private libvirtd: $word"
  [ "$word" = ready ] || return 1
  init=$(cut -d ' ' -f 1 "/proc/$stack/task/$stack/children")
  inside=(nsenter -m -p -t "$init" --)
  uri=qemu:///system
  type=qemu
  # /dev/kvm alone does not say that guests run.
  if [ -w /dev/kvm ] && grep -qwE 'vmx|svm' /proc/cpuinfo; then type=kvm; fi
}

inside=()
if ! real_libvirt; then
  printf '\nUsing the test driver of libvirt, whose guests run nothing: %s\n' "$why"
  uri=test:///default
  type=test
  image=$work/disk.raw
  truncate -s 64M "$image"
fi

store=(--storage "directory:$work/store")
title 'mistify-libvirt image import linux.raw linux'
"$agent" image import "$image" linux "${store[@]}"

answers() { (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null; }
# Call this demo's agent, not the host's own.
if answers; then
  echo "port $port is in use; set DEMO_PORT to another port" >&2
  exit 1
fi
"${inside[@]}" "$(realpath "$agent")" --state-dir "$work/state" --port "$port" --image-store \
  --image-store-port "$images_port" "${store[@]}" --libvirt-uri "$uri" --bridge-type linux --log-level warning 8>&- &
pid=$!
# Send a whole request: the agent logs a warning about a connection without one.
serves() { [ -n "$(request "$1" GET /healthz '' 2> /dev/null)" ]; }
until serves "$port" && serves "$images_port"; do
  kill -0 "$pid" 2> /dev/null || { pid=; echo "cannot start the agent" >&2; exit 1; }
  sleep 0.05
done

id=0
nic='{"name":"eth0","network":"mistify0","model":"virtio","mac":"02:00:00:00:00:01"}'
disk='{"image":"linux","size":96}'
guest='{"id":"demo","type":"'$type'","memory":256,"cpu":1,"nics":['$nic'],"disks":['$disk']}'
live='{"id":"demo","cpu":1,"nics":['$nic'],"disks":[{"device":"vda"}]}'
# The state of the guest, and what it wrote to its console.
state() { request "$port" POST /_mistify_RPC_ '{"method":"Libvirt.Status","params":[{"guest":{"id":"demo"}}],"id":1}'; }
console() {
  local text
  text=$(request "$port" POST /_mistify_RPC_ '{"method":"Libvirt.Console","params":[{"guest":{"id":"demo"}}],"id":1}')
  text=${text#*\"console\":\"}
  # Without the colours and the cursor's moves.
  printf '%b\n' "${text%%\"\}*}" | tr -d '\r' | sed 's/\x1b[[?0-9;=]*[a-zA-Z]//g'
}
# Waits (seconds, command) until a command succeeds.
wait_for() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || { echo "waited in vain: $*" >&2; exit 1; }
    sleep 0.5
  done
}
has_prompt() { console | grep -q 'login:'; }
is_off() { state | grep -q '"shutoff"'; }
images ListImages '{}'
call CreateGuest "$guest"
call ResizeDisk '{"id":"demo","disks":[{"device":"vda","size":128}]}'
images CreateSnapshot '{"id":"guests/demo/disk-0","dest":"clean"}'
call Run "$guest"
call Status '{"id":"demo"}'
if [ "$type" != test ]; then
  title 'Console: the last lines, once the guest has booted'
  wait_for 120 has_prompt
  console | tail -n 5
  echo
fi
call CPUMetrics "$live"
call DiskMetrics "$live"
call NicMetrics "$live"
call Shutdown '{"id":"demo"}'
wait_for 60 is_off
call Delete "$guest"
images ListVolumes '{}'
title health
request "$port" GET /healthz ''
printf '\nServing on http://127.0.0.1:%s until Ctrl-C. Try:\n' "$port"
printf "  curl -d '%s' -H 'Content-Type: application/json' http://127.0.0.1:%s/_mistify_RPC_\n" \
  '{"method":"Libvirt.CreateGuest","params":[{"guest":'"$guest"'}],"id":1}' "$port"
wait "$pid" || true
