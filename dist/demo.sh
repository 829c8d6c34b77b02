#!/bin/bash
# Starts the agent on libvirt's built-in test driver with disks in a directory. Imports an image, and creates, runs,
# measures and deletes a guest with a disk from it. Prints each call and its answer, and serves until Ctrl-C.
#   dist/demo.sh [path of mistify-libvirt]
#   DEMO_PORT, DEMO_IMAGE_STORE_PORT: ports (default 20001 and 19999)
set -euo pipefail
agent=${1:-"${CARGO_TARGET_DIR:-target}/release/mistify-libvirt"}
port=${DEMO_PORT:-20001}
images_port=${DEMO_IMAGE_STORE_PORT:-19999}
# Ignore the configuration of this host's own agent.
export MISTIFY_CONFIG=/dev/null
work=$(mktemp -d)
pid=
finish() {
  if [ -n "$pid" ]; then
    kill "$pid" 2> /dev/null || true
    wait "$pid" 2> /dev/null || true
  fi
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

store=(--storage "directory:$work/store")
title 'mistify-libvirt image import disk.raw debian'
truncate -s 64M "$work/disk.raw"
"$agent" image import "$work/disk.raw" debian "${store[@]}"

answers() { (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null; }
# Call this demo's agent, not the host's own.
if answers; then
  echo "port $port is in use; set DEMO_PORT to another port" >&2
  exit 1
fi
"$agent" --state-dir "$work/state" --port "$port" --image-store --image-store-port "$images_port" "${store[@]}" \
  --libvirt-uri test:///default --bridge-type linux --log-level warning &
pid=$!
# Send a whole request: the agent logs a warning about a connection without one.
serves() { [ -n "$(request "$1" GET /healthz '' 2> /dev/null)" ]; }
until serves "$port" && serves "$images_port"; do
  kill -0 "$pid" 2> /dev/null || { pid=; echo "cannot start the agent" >&2; exit 1; }
  sleep 0.05
done

id=0
nic='{"name":"eth0","network":"mistify0","model":"virtio","mac":"02:00:00:00:00:01"}'
disk='{"image":"debian","size":96}'
guest='{"id":"demo","type":"test","memory":256,"cpu":2,"nics":['$nic'],"disks":['$disk']}'
live='{"id":"demo","cpu":2,"nics":['$nic'],"disks":[{"device":"vda"}]}'
images ListImages '{}'
call CreateGuest "$guest"
call ResizeDisk '{"id":"demo","disks":[{"device":"vda","size":128}]}'
images CreateSnapshot '{"id":"guests/demo/disk-0","dest":"clean"}'
call Run "$guest"
call Status '{"id":"demo"}'
call CPUMetrics "$live"
call DiskMetrics "$live"
call NicMetrics "$live"
call Shutdown '{"id":"demo"}'
call Delete "$guest"
images ListVolumes '{}'
title health
request "$port" GET /healthz ''
printf '\nServing on http://127.0.0.1:%s until Ctrl-C. The test driver always has the guest "test". Try:\n' "$port"
printf "  curl -d '%s' -H 'Content-Type: application/json' http://127.0.0.1:%s/_mistify_RPC_\n" \
  '{"method":"Libvirt.Status","params":[{"guest":{"id":"test"}}],"id":1}' "$port"
wait "$pid" || true
