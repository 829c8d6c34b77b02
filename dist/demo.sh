#!/bin/bash
# Starts the agent on libvirt's built-in test driver, takes a guest through its life, printing each
# call and its answer, and keeps serving until Ctrl-C.
#   dist/demo.sh [path of mistify-libvirt]      DEMO_PORT: another port than 20001
set -euo pipefail
agent=${1:-target/release/mistify-libvirt}
port=${DEMO_PORT:-20001}
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

# Sends one request (method, path, body) and prints the body of the answer.
request() {
  local head
  exec 3<> "/dev/tcp/127.0.0.1/$port"
  head="$1 $2 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
  head+="Content-Type: application/json\r\nContent-Length: ${#3}\r\n\r\n"
  printf "$head%s" "$3" >&3
  sed '1,/^\r$/d' <&3
  exec 3>&-
}

call() {
  local body='{"method":"Libvirt.'$1'","params":[{"guest":'$2'}],"id":'$((++id))'}'
  printf '\n\033[1m%s\033[0m\n> %s\n< ' "$1" "$body"
  request POST /_mistify_RPC_ "$body" | tee "$work/answer"
  if ! grep -q '"error":null' "$work/answer"; then
    echo "the call failed" >&2
    exit 1
  fi
}

truncate -s 64M "$work/disk.raw"
"$agent" --port "$port" --libvirt-uri test:///default --bridge-type linux \
  --allow-disk-path "$work" --log-level warning &
pid=$!
until (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null; do
  kill -0 "$pid" 2> /dev/null || { pid=; echo "the agent did not start" >&2; exit 1; }
  sleep 0.05
done

id=0
nic='{"name":"eth0","network":"mistify0","model":"virtio","mac":"02:00:00:00:00:01"}'
disk='{"source":"'$work'/disk.raw","device":"vda","size":64}'
guest='{"id":"demo","type":"test","memory":256,"cpu":2,"nics":['$nic'],"disks":['$disk']}'
live='{"id":"demo","cpu":2,"nics":['$nic'],"disks":['$disk']}'
call CreateGuest "$guest"
call Run "$guest"
call Status '{"id":"demo"}'
call CPUMetrics "$live"
call DiskMetrics "$live"
call NicMetrics "$live"
call Shutdown '{"id":"demo"}'
call Delete "$guest"
printf '\n\033[1mhealth\033[0m\n< '
request GET /healthz ''
printf '\nServing on http://127.0.0.1:%s until Ctrl-C; the domain "test" is always there. Try:\n' "$port"
printf "  curl -d '%s' -H 'Content-Type: application/json' http://127.0.0.1:%s/_mistify_RPC_\n" \
  '{"method":"Libvirt.Status","params":[{"guest":{"id":"test"}}],"id":1}' "$port"
wait "$pid" || true
