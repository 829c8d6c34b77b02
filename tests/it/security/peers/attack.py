# A caller that means ill, until it is killed: python3 -c ... KIND PLACE CONNECTIONS
#
# Says "ready" once its connections are open and have said something, and then, again and again, how
# many it has made so far.
#
#   heads    a byte of a head now and then       bodies   a byte of a body now and then
#   idle     nothing                             endless  a head without end
#   connects 1,000 connections a second          garbage  a request with garbage behind it
#   hold     one request, and nothing more; over a limit, another try
import os
import socket
import sys
import time

TICK = 0.02
kind, place, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
host, port = place.rsplit(":", 1)
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /_mistify_RPC_ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
FIRST = {
    "heads": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ",
    "bodies": POST + b"Content-Length: 1000000\r\n\r\n" + b"x" * 16000,
    "endless": b"GET /healthz HTTP/1.1\r\n",
    "hold": GET,
}
made = 0


def connect():
    global made
    stream = socket.create_connection((host, int(port)), 60)
    stream.setblocking(False)
    made += 1
    try:
        stream.send(FIRST.get(kind, b""))
    except OSError:
        pass
    return stream


def is_over(stream):
    try:
        return not stream.recv(65536)
    except BlockingIOError:
        return False
    except OSError:
        return True


def send(stream, data):
    try:
        stream.send(data)
    except OSError:
        pass


def more(tick):
    if kind in ("heads", "bodies") and tick % 5 == 0:
        return b"x"
    if kind == "endless":
        return b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 200
    if kind == "garbage":
        return GET + os.urandom(4096)
    return b""


streams, tick, said = [], 0, 0
start = time.monotonic()
while True:
    if kind == "connects":
        for _ in range(int(1000 * TICK)):
            connect().close()
    else:
        streams = [stream for stream in streams if not is_over(stream) or stream.close()]
        while len(streams) < count:
            streams.append(connect())
        data = more(tick)
        if data:
            for stream in streams:
                send(stream, data)
    if tick == 0:
        print("ready", flush=True)
    if time.monotonic() - start > said:
        said += 0.5
        print(made, flush=True)
    tick += 1
    time.sleep(max(0, start + tick * TICK - time.monotonic()))
