# A caller of the agent, in the words of its arguments; one line of output for each.
#
#   ask PLACE               GET /healthz: the status, or "closed" where no byte came
#   say PLACE TEXT          sends the text, in which \\r and \\n are escaped: the answer, escaped too
#   keep FILE               keeps all others from opening it until its input ends: "kept", and "asked"
#                           as soon as one tries
#   half PLACE              the same as ask by a caller that says at once that it will say no more
#   hold PLACE UID COUNT    so many connections of that user, kept until the end: how many were served
#   storm PLACE COUNT BODY  so many connections that send a call and close at once
#   reuse PLACE UID PID BODY  a call of that user, reset, and then GET /healthz by root from the same
#                           port, while the process is stopped
import fcntl
import os
import signal
import socket
import struct
import sys

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


def post(stream, body):
    head = "POST /_mistify_RPC_ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
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


def hold(place, uid, count):
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
    os.seteuid(0)
    return served


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
        "storm": (storm, 3),
        "reuse": (reuse, 4),
    }[what]
    print(action(*words[:count]), flush=True)
    words = words[count:]
