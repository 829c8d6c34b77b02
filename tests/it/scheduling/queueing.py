"""queueing.py ADDRESS CONNECTIONS METHOD: one call on each connection, all open before the first byte is sent.
Prints how many answers begin with which text, as JSON."""
import collections
import json
import select
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

host, port = sys.argv[1].rsplit(":", 1)
body = json.dumps({"method": "Libvirt." + sys.argv[3], "params": [{"guest": {"id": "test"}}], "id": 1})
request = (
    f"POST /_mistify_RPC_ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
)
sockets = []
for _ in range(int(sys.argv[2])):
    connection = socket.socket()
    connection.setblocking(False)
    # All come at once, as far as the kernel lets them.
    connection.connect_ex((host, int(port)))
    sockets.append(connection)
for connection in sockets:
    # Waits until it stands.
    connection.settimeout(300)
    ready = select.poll()
    ready.register(connection, select.POLLOUT)
    ready.poll(300_000)
    connection.sendall(request.encode())


def outcome(connection):
    answer = b""
    while part := connection.recv(65536):
        answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        return head.decode().split("\r\n")[0] or "closed"
    error = json.loads(body)["error"]
    return "ok" if error is None else " ".join(error.split()[:4])


with ThreadPoolExecutor(16) as pool:
    print(json.dumps(collections.Counter(pool.map(outcome, sockets))))
