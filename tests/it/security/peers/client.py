# A caller of the agent, in the words of its arguments; one line of output for each.
#
#   ask PLACE               GET /healthz: the status, or "closed" where no byte came
#   say PLACE TEXT          sends the text, in which \\r and \\n are escaped: the answer, escaped too
#   keep FILE               keeps all others from opening it until its input ends: "kept", and "asked"
#                           as soon as one tries
#   half PLACE              the same as ask by a caller that says at once that it will say no more
#   hold PLACE UID COUNT    so many connections of that user, kept until the end: how many were served
#   keep-busy PLACE UID COUNT  the same, each in the middle of another request
#   press PLACE UID COUNT   as hold, but each tries again for up to 20 s until it is served
#   fill PLACE UID COUNT BYTES  so many connections that send as much of a body, and not its end: how many
#   take PLACE UID COUNT REFUSED TEXT  so many connections of that user that send the text, in which \\r and \\n are
#                           escaped, kept until the end: how many are told "busy", once so many are
#   post PLACE UID BODY     calls by that user
#   full PLACE UID BODY     the same again and again for up to 9 s, until it is told 503
#   flood PLACE UID HOW     64 connections of that user, each with a batch of 64 calls: all close at once
#                           ("leave"), or when each has the begin of its answer ("stay"): how many
#   again                   asks once more on each connection that is kept: how many were served
#   pose HOST               listens at a port of its own, or at this path, as the agent would: its address, and then for each
#                           connection how many bytes came
#   storm PLACE COUNT BODY  so many connections that send a call and close at once
#   reuse PLACE UID PID BODY  a call of that user, reset, and then GET /healthz by root from the same
#                           port, while the process is stopped
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time

# More connections than a process may have open by default.
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, max(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))

kept = []


def connect(place, port=None):
    if place.startswith("/"):
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(60)
        stream.connect(place)
        return stream
    source, _, place = place.rpartition(">")
    host, to = place.rsplit(":", 1)
    host = host.strip("[]")
    stream = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    stream.settimeout(60)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if source or port:
        stream.bind((source, port or 0))
    stream.connect((host, int(to)))
    return stream


def get(stream, connection="close"):
    stream.sendall(f"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n\r\n".encode())


def post(stream, body, path="/_mistify_RPC_"):
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    stream.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())


def status(stream):
    try:
        answer = stream.recv(65536)
    except ConnectionError:
        answer = b""
    return answer[9:12].decode() if answer else "closed"


def ask(place, half=False):
    stream = connect(place)
    try:
        get(stream)
        if half:
            stream.shutdown(socket.SHUT_WR)
    except (ConnectionError, OSError):
        pass
    return status(stream)


def say(place, text):
    stream = connect(place)
    answer = b""
    try:
        stream.sendall(text.encode().decode("unicode_escape").encode("latin-1"))
        while part := stream.recv(65536):
            answer += part
    except ConnectionError:
        pass
    return answer.decode("latin-1").encode("unicode_escape").decode() or "closed"


def keep(path):
    # A lease: who opens the file has to wait, and its holder is told by a signal.
    signal.signal(signal.SIGIO, lambda *_: print("asked", flush=True))
    file = os.open(path, os.O_RDWR)
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    print("kept", flush=True)
    sys.stdin.read()
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return "let go"


def hold(place, uid, count, then=b""):
    os.seteuid(int(uid))
    served = 0
    for _ in range(int(count)):
        stream = connect(place)
        try:
            get(stream, "keep-alive")
        except ConnectionError:
            pass
        if status(stream) == "200":
            served += 1
            kept.append(stream)
            stream.sendall(then)
    os.seteuid(0)
    return served


def press(place, uid, count):
    served, end = 0, time.monotonic() + 20
    while served < int(count) and time.monotonic() < end:
        served += hold(place, uid, 1)
    return served


def fill(place, uid, count, size):
    os.seteuid(int(uid))
    head = f"POST /rpc HTTP/1.1\r\nHost: localhost\r\nContent-Length: {int(size) + 1}\r\n\r\n"
    for _ in range(int(count)):
        stream = connect(place)
        try:
            stream.sendall(head.encode() + b" " * int(size))
        except ConnectionError:
            pass  # Refused before all of it was sent.
        kept.append(stream)
    os.seteuid(0)
    return count


def take(place, uid, count, refused, text):
    os.seteuid(int(uid))
    waiting = []
    for _ in range(int(count)):
        stream = connect(place)
        stream.sendall(text.encode().decode("unicode_escape").encode("latin-1"))
        waiting.append(stream)
    os.seteuid(0)
    kept.extend(waiting)
    busy = 0
    while waiting and busy < int(refused):
        ready, _, _ = select.select(waiting, [], [], 20)
        if not ready:
            break
        for stream in ready:
            busy += b"busy" in stream.recv(65536)
            waiting.remove(stream)
    return busy


def call(place, uid, body):
    os.seteuid(int(uid))
    stream = connect(place)
    try:
        post(stream, body)
    except ConnectionError:
        pass
    os.seteuid(0)
    return status(stream)


def full(place, uid, body):
    end = time.monotonic() + 9
    while (answer := call(place, uid, body)) != "503" and time.monotonic() < end:
        pass
    return answer


def flood(place, uid, how):
    hold(place, uid, 64)
    calls = [{"jsonrpc": "2.0", "method": "rpc.discover", "id": number} for number in range(64)]
    body = json.dumps(calls)
    for stream in kept:
        post(stream, body, "/rpc")
    for stream in kept:
        if how == "stay":
            stream.recv(1, socket.MSG_PEEK)
    for stream in kept:
        stream.close()
    return len(kept)


def again():
    served = 0
    for stream in kept:
        try:
            get(stream, "keep-alive")
        except ConnectionError:
            pass
        served += status(stream) == "200"
    return served


def pose(host):
    if host.startswith("/"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(host)
        listener.listen()
        print(host, flush=True)
    else:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host.strip("[]"), 0), family=family)
        print(f"{host}:{listener.getsockname()[1]}", flush=True)
    while True:
        stream, _ = listener.accept()
        count = 0
        try:
            while part := stream.recv(65536):
                count += len(part)
        except ConnectionError:
            pass
        print(count, flush=True)


def storm(place, count, body):
    sent = 0
    while sent < int(count):
        try:
            stream = connect(place)
            sent += 1
            post(stream, body)
        except ConnectionError:
            pass
        stream.close()
    return sent


def reuse(place, uid, pid, body):
    os.kill(int(pid), signal.SIGSTOP)
    os.seteuid(int(uid))
    # One that the kernel gives nobody by itself.
    port = 10000 + os.getpid() % 20000
    first = connect(place, port)
    post(first, body)
    first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    first.close()
    os.seteuid(0)
    second = connect(place, port)
    get(second)
    os.kill(int(pid), signal.SIGCONT)
    return status(second)


words = sys.argv[1:]
while words:
    what = words.pop(0)
    action, count = {
        "ask": (ask, 1),
        "keep": (keep, 1),
        "say": (say, 2),
        "half": (lambda place: ask(place, True), 1),
        "hold": (hold, 3),
        "keep-busy": (lambda *words: hold(*words, b"GET /healthz HTTP/1.1\r\n"), 3),
        "press": (press, 3),
        "fill": (fill, 4),
        "take": (take, 5),
        "post": (call, 3),
        "full": (full, 3),
        "flood": (flood, 3),
        "again": (again, 0),
        "pose": (pose, 1),
        "storm": (storm, 3),
        "reuse": (reuse, 4),
    }[what]
    print(action(*words[:count]), flush=True)
    words = words[count:]
