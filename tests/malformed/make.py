#!/usr/bin/env python3
"""Writes requests.jsonl: requests that no caller should send, and what the agent must make of each.

What is expected comes from the rule that stands beside it: a section of RFC 9110, 9112, 3986 or
8259, of the contract, or of "limits" (docs/security.md, and docs/configuration.md). Nothing here asks
an agent. Same input, same output: there is no chance in it.

    python3 tests/malformed/make.py > tests/malformed/requests.jsonl

A line has `class`, `rule`, `expect` (a status, or "closed" where the connection ends without an
answer), for a status of 200 an error in the answer is expected, and `send`: pieces of text, each
character a byte (Latin-1), or [text, times]. The sender ends its side after the last byte.
"""
import json

cases, seen = [], set()


def add(kind, rule, expect, *pieces):
    send = [piece for piece in pieces if piece != ""]
    whole = "".join(piece if isinstance(piece, str) else piece[0] * piece[1] for piece in send)
    whole.encode("latin-1")
    if whole not in seen:
        seen.add(whole)
        cases.append({"class": kind, "rule": rule, "expect": expect, "send": send})


CONTROLS = [chr(code) for code in range(32)] + ["\x7f"]
DELIMITERS = '"(),/:;<=>?@[\\]{}'
HIGH = [chr(code) for code in range(0x80, 0x100, 8)]
RPC = "/_mistify_RPC_"
GOOD = '{"method":"Libvirt.Status","params":[{"guest":{"id":"test"}}],"id":1}'


def get(line="GET /healthz HTTP/1.1", fields="Host: localhost\r\n"):
    return f"{line}\r\n{fields}\r\n"


def post(fields, body="", host="localhost", path=RPC):
    return f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{fields}\r\n{body}"


def sized(body, **more):
    return post(f"Content-Length: {len(body)}\r\n", body, **more)


def chunked(body):
    return post("Transfer-Encoding: chunked\r\n", body)


def utf8(text):
    """Each byte of the text as UTF-8 as a character of its own."""
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


# The request line ------------------------------------------------------------------------------

for byte in CONTROLS + [" "] + list(DELIMITERS) + HIGH:
    add("method", "RFC 9110 9.1: a token", 400, get(f"GE{byte}T /healthz HTTP/1.1"))
for line in ["", " ", "/healthz HTTP/1.1", " /healthz HTTP/1.1", "GET", "GET ", "GET /healthz",
             "GET /healthz ", "GET HTTP/1.1", "GET  HTTP/1.1", "HTTP/1.1 200 OK",
             "GET\t/healthz HTTP/1.1",
             "GET /healthz\tHTTP/1.1", "GET  /healthz HTTP/1.1", "GET /healthz  HTTP/1.1",
             "GET /healthz HTTP/1.1 ", "GET /healthz HTTP/1.1\t", "GET /healthz HTTP/1.1 x",
             "GET /a b HTTP/1.1", " GET /healthz HTTP/1.1", "\tGET /healthz HTTP/1.1",
             "GET /healthz HTTP/1.1 HTTP/1.1", "GET /healthz\rHTTP/1.1", "GET\r/healthz HTTP/1.1",
             "GET /healthz HTTP/1.1\rX: y", "\0GET /healthz HTTP/1.1", "GET\0 /healthz HTTP/1.1",
             "GET\x0b/healthz HTTP/1.1", "GET\x0c/healthz HTTP/1.1", "GET\xa0/healthz HTTP/1.1"]:
    # An empty line before the request line is passed over (RFC 9112 2.2), so `line` alone is not sent.
    if line:
        add("request line", "RFC 9112 3", 400, get(line))
for version in ["HTTP", "HTTP/", "HTTP/.", "HTTP/1", "HTTP/1.", "HTTP/.1", "HTTP/1.1.1",
        "HTTP/1,1", "HTTP/11",
                "HTTP/1.10", "HTTP/1.01", "HTTP/01.1", "http/1.1", "Http/1.1", "hTTP/1.1",
                "HTTp/1.1", "HTTP 1.1",
                "HTTP/ 1.1", "HTTP/1 .1", "HTTP1.1", "HTTP/1.1x", "HTTP/x.1", "HTTP/1.x",
                "HTTPS/1.1", "FTP/1.1",
                "HTTP//1.1", "HTTP/-1.1", "HTTP/+1.1", "HTTP/1.-1", "HTTP\\1.1", "SHTTP/1.1",
                "ICAP/1.0", "RTSP/1.0",
                "SIP/2.0", "1.1", "/1.1", "HTTP/1\x00.1", "HTTP/\xb9.1", "HTTP/1:1", "H"]:
    if not version.startswith("HTTP/0"):
        add("version", "RFC 9112 2.3: HTTP/DIGIT.DIGIT, in capitals", 400,
                get(f"GET /healthz {version}"))
for version in ["0.0", "0.9", "1.2", "1.3", "1.9", "2.0", "2.1", "3.0", "4.5", "9.9"]:
    add("version", "RFC 9110 15.6.6", 505, get(f"GET /healthz HTTP/{version}"))
    add("version", "RFC 9110 15.6.6", 505, sized(GOOD).replace("HTTP/1.1", f"HTTP/{version}", 1))
add("version", "RFC 9110 15.6.6: the preface of HTTP/2", 505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

for byte in [byte for byte in CONTROLS if byte != "\n"] + list('"<>\\^`{|}#') + HIGH:
    add("target", "RFC 9112 3.2, RFC 3986 2", 400, get(f"GET /heal{byte}thz HTTP/1.1"))
for escape in ["%", "%2", "%zz", "%2g", "%g2", "%%20", "%u0041", "%-1", "% 20", "%+1", "%2%", "a%",
        "%\xb22"]:
    add("target", "RFC 3986 2.1: % and two digits", 400, get(f"GET /{escape} HTTP/1.1"))
    if escape != "% 20":
        add("target", "RFC 3986 2.1: % and two digits", 400, get(f"GET /healthz?{escape} HTTP/1.1"))
for target in ["healthz", "*", "?", "?x", "#", ".", "..", "../healthz", "\\healthz", "localhost",
        "localhost:80",
               "[::1]", "127.0.0.1:20001", "http:", "http:/", "http:/healthz", "http://",
               "http:///healthz",
               "://localhost/", "//", "https://localhost/healthz", "ftp://localhost/healthz",
               "file:///etc/passwd", "javascript:alert(1)", "data:,x", "http://a@localhost/healthz",
               "http://a:b@localhost/healthz", "http://localhost@evil.example/healthz",
               "http://localhost/#x",
               "httpx://localhost/", "http//localhost/", "ht tp://localhost/",
               "http:\\\\localhost\\healthz"]:
    # `//` is a path.
    if target != "//":
        add("target", "RFC 9112 3.2", 400, get(f"GET {target} HTTP/1.1"))
        add("target", "RFC 9112 3.2", 400, sized(GOOD, path=target))
for authority in ["[::1", "::1", "[]", "localhost:x", "[x]", "localhost:80:80", "lo%host"]:
    add("target", "RFC 9112 3.2.2, RFC 3986 3.2.2", 400,
            get(f"GET http://{authority}/healthz HTTP/1.1"))

for text in ["SSH-2.0-OpenSSH_9.2\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "\x80\x2e\x01\x00\x02",
             "\x05\x01\x00", "\x04\x01\x00\x50\x7f\x00\x00\x01\x00", "stats\r\n",
             "*1\r\n$4\r\nPING\r\n", "EHLO a\r\n",
             "HELP\r\n", "PROXY TCP4 1.2.3.4 127.0.0.1 1 2\r\n" + get(), "\r\n\r\n\0",
             "<xml/>\r\n", "{}\r\n", GOOD,
             "\x00\x00\x00\x08\x04\xd2\x16\x2f", "\x03\x00\x00\x13\x0e\xe0", "GIOP\x01\x00",
             "\xff\xd8\xff\xe0",
             "\r\r\n" + get(), "\n\r\n\r" + get(), "\ufeff".encode().decode("latin-1") + get(),
             "\x0c" + get(),
             "0\r\n\r\n" + get(), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
             "-----BEGIN CERTIFICATE-----\r\n",
             "GET /healthz HTTP/1.1\rHost: localhost\r\r", "\x7fELF\x02\x01\x01",
             "\x1f\x8b\x08\x00", "a" * 7 + "\r\n"]:
    add("other protocol", "RFC 9112 2.2", 400, text)

# Fields -----------------------------------------------------------------------------------------

for byte in CONTROLS + [" "] + [c for c in DELIMITERS if c != ":"] + HIGH:
    add("field name", "RFC 9110 5.1: a token", 400,
            get(fields=f"Host: localhost\r\nX{byte}Y: z\r\n"))
for line in [":", ": x", "X", " X: y", "\tX: y", "x y", "=", "X=y", '"X": y', "GET / HTTP/1.1",
        "{}", "\0", "\x7f: x"]:
    add("field name", "RFC 9112 5", 400, get(fields=f"Host: localhost\r\n{line}\r\n"))
    add("field name", "RFC 9112 2.2, 5", 400, get(fields=f"{line}\r\nHost: localhost\r\n"))
for name in ["Host", "Content-Length", "Transfer-Encoding", "Connection", "Content-Type", "Expect",
        "Authorization", "X"]:
    for blank in [" ", "\t", "  ", " \t"]:
        value = {"Content-Length": "0", "Transfer-Encoding": "chunked"}.get(name, "localhost")
        host = "" if name == "Host" else "Host: localhost\r\n"
        add("field name", "RFC 9112 5.1: no blank before the colon", 400,
            get("POST /healthz HTTP/1.1", f"{host}{name}{blank}: {value}\r\n"))
for name, value in [("X", "y"), ("Connection", "close"), ("Content-Length", "0"),
        ("Transfer-Encoding", "x,"), ("Accept", "a")]:
    for fold in [" z", "\tz", "  z", " Transfer-Encoding: chunked", " \r\n x", " "]:
        add("folded field", "RFC 9112 5.2", 400,
            get("POST /healthz HTTP/1.1", f"Host: localhost\r\n{name}: {value}\r\n{fold}\r\n"))
for byte in [byte for byte in CONTROLS if byte != "\t"]:
    add("field value", "RFC 9110 5.5: no controls", 400,
            get(fields=f"Host: localhost\r\nX: a{byte}b\r\n"))
    add("field value", "RFC 9110 5.5: no controls", 400, get(fields=f"Host: local{byte}host\r\n"))
    if byte not in "\r\n":
        add("field value", "RFC 9110 5.5: no controls", 400,
            post(f"Content-Length: {len(GOOD)}{byte}\r\n", GOOD))

# Host -------------------------------------------------------------------------------------------

for fields in ["", "X: y\r\n", "Host: localhost\r\nHost: localhost\r\n",
        "Host: localhost\r\nhost: evil.example\r\n",
               "HOST: localhost\r\nHost: 127.0.0.1\r\n", "Host: localhost\r\nX: y\r\nHost:\r\n",
               "Hosts: localhost\r\n", "Host: localhost\r\nHost: localhost\r\nHost: localhost\r\n"]:
    add("host", "RFC 9112 3.2: exactly one", 400, get(fields=fields))
    add("host", "RFC 9112 3.2: exactly one", 400,
        f"POST {RPC} HTTP/1.1\r\n{fields}Content-Type: application/json\r\nContent-Length: {len(GOOD)}\r\n\r\n{GOOD}")
add("host", "RFC 9112 3.2: not two, in HTTP/1.0 neither", 400,
    get("GET /healthz HTTP/1.0", "Host: localhost\r\nHost: localhost\r\n"))
for byte in list(' "#/<>?@[\\]^`{|}') + HIGH:
    add("host", "RFC 9112 3.2, RFC 3986 3.2.2", 400, get(fields=f"Host: local{byte}host\r\n"))
for host in ["::1", "[::1", "::1]", "[]", "[::1]]", "[[::1]]", "[::1]x", "[::1]80", "[localhost]",
        "[127.0.0.1]", "[::g]",
             "[1:2:3:4:5:6:7:8:9]", "[::1%lo]", "[:::]", "localhost:x", "localhost:80x",
             "localhost:-1", "localhost:+80",
             "localhost:80:80", "localhost::80", "localhost:8 0", "localhost:0x50", "[::1]:x",
             "localhost/", "http://localhost",
             "user@localhost", "user:pass@localhost", "localhost?x", "localhost#x", "%", "%zz",
             "lo%zcal", "local host",
             "localhost, 127.0.0.1 x", "127.0.0.1:http"]:
    add("host", "RFC 9112 3.2, RFC 3986 3.2.2", 400, get(fields=f"Host: {host}\r\n"))
    add("host", "RFC 9112 3.2, RFC 3986 3.2.2", 400, sized(GOOD, host=host))

# What web pages can send (docs/security.md) --------------------------

NAMES = ["", "evil.example", "evil.example:20001", "localhost.evil.example",
        "127.0.0.1.evil.example", "localhost.",
         "xlocalhost", "local-host", "localhost,localhost", "LOCALHOST.evil.example", "0x7f.1",
         "0177.0.0.1",
         "2130706433", "127.1", "127.0.0.256", "127.0.0.1.", "127.0.0.01x", "1.2.3.4.5", "hv1",
         "a.b", "%6cocalhost", "*",
         "localhost%00", "localhost%2f", "_", "-", "~", "a!b", "a=b", "ip6-localhost",
         "[::1].evil.example"[5:]]
for name in NAMES:
    add("rebinding", "agent: Host is an address, localhost or listed", 403,
            get(fields=f"Host: {name}\r\n"))
    add("rebinding", "agent: Host is an address, localhost or listed", 403, sized(GOOD, host=name))
for path in ["/metrics", "/readyz", "/", "/nothing"]:
    add("rebinding", "agent: Host, on every path", 403, get(f"GET {path} HTTP/1.1",
            "Host: evil.example:20001\r\n"))
    add("rebinding", "agent: Host, in HTTP/1.0 too", 403, get(f"GET {path} HTTP/1.0",
            "Host: evil.example:20001\r\n"))
    add("rebinding", "RFC 9112 3.2.2: the target's authority counts", 403,
        get(f"GET http://evil.example{path} HTTP/1.1"))
    add("rebinding", "RFC 9112 3.2.2: the target's authority counts", 403,
        get(f"GET http://evil.example{path} HTTP/1.0", ""))
ORIGINS = ["null", "", "http://evil.example", "https://evil.example", "https://localhost",
        "http://localhost:1",
           "http://127.0.0.1", "http://localhost.evil.example", "http://localhost/", "localhost",
           "//localhost",
           "file://", "chrome-extension://abc", "moz-extension://abc",
           "http://localhost http://evil.example",
           "http://localhost, http://evil.example", "http://[::1]", "http://user@localhost",
           "HTTP//localhost",
           "http:localhost", "http://", "*", "undefined", "http://xn--nxasmq6b", "about:blank",
           "Null"]
for origin in ORIGINS:
    add("cross-origin", "agent: Origin is http://<Host>", 403,
        post(f"Origin: {origin}\r\nContent-Length: {len(GOOD)}\r\n", GOOD))
    add("cross-origin", "agent: Origin is http://<Host>", 403,
            get(fields=f"Host: localhost\r\nOrigin: {origin}\r\n"))
add("cross-origin", "agent: every Origin counts", 403,
    get(fields="Host: localhost\r\nOrigin: http://localhost\r\nOrigin: null\r\n"))
add("cross-origin", "agent: no Host to compare with", 403, get("GET /healthz HTTP/1.0",
        "Origin: http://localhost\r\n"))
for site in ["cross-site", "same-site", "Cross-Site", "", "none,", "same-origin, cross-site", "?0",
        "x", "cross-origin"]:
    for path in ["/healthz", "/metrics"]:
        add("cross-site", "agent: Sec-Fetch-Site is same-origin or none", 403,
            get(f"GET {path} HTTP/1.1", f"Host: localhost\r\nSec-Fetch-Site: {site}\r\n"))
    add("cross-site", "agent: Sec-Fetch-Site is same-origin or none", 403,
        post(f"Sec-Fetch-Site: {site}\r\nContent-Length: {len(GOOD)}\r\n", GOOD))
for kind, body in [("text/plain", GOOD), ("application/x-www-form-urlencoded", "a=" + GOOD),
                   ("multipart/form-data; boundary=b",
                   f"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n{GOOD}\r\n--b--\r\n")]:
    head = f"POST {RPC} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    add("form", "contract 2: application/json alone", 415, f"{head}\r\n{body}")
    for field in ["Origin: null", "Origin: http://evil.example", "Sec-Fetch-Site: cross-site",
            "Sec-Fetch-Site: same-site"]:
        add("form", "agent: refused by where it comes from, before its type", 403,
                f"{head}{field}\r\n\r\n{body}")
for method in ["POST", "GET", "PUT", "DELETE"]:
    ask = f"Access-Control-Request-Method: {method}\r\nAccess-Control-Request-Headers: content-type\r\n"
    add("preflight", "agent: a page gets no leave", 403,
        get(f"OPTIONS {RPC} HTTP/1.1", f"Host: localhost\r\nOrigin: http://evil.example\r\n{ask}"))
    add("preflight", "contract 2: POST required", 405, get(f"OPTIONS {RPC} HTTP/1.1",
            f"Host: localhost\r\n{ask}"))

# Where the body ends ------------------------------------------------------------------------------

LENGTHS = ["", "+5", "-5", "-0", "5,", ",5", "5, 5", "5,6", "5;", "5 5", "0x5", "0X5", "5h", "5.0",
        "5e0", "1e3", "5_0", "5'000",
           '"5"', "'5'", "five", "null", "NaN", "inf", "\xb2", "\xa05", utf8("\uff15"),
           utf8("\u0665"), "5\xa0", "(5)", "[5]",
           "{5}", "5%", "$5", "#5", "5/5", "5-5", "5=5", "~5", "0b101", "0o5", "5L", "5u", "--5",
           "+-5", "5\t5", "%35", "\\5"]
for length in LENGTHS:
    add("length", "RFC 9112 6.3, RFC 9110 8.6: digits alone", 400,
            post(f"Content-Length: {length}\r\n", "12345"))
for length in ["1048577", "2097152", str(2**31 - 1), str(2**31), str(2**32 - 1), str(2**32),
        str(2**32 + 5), str(2**63 - 1),
               str(2**63), str(2**64 - 1), str(2**64), str(2**64 + 5), str(2**128), "9" * 100,
                       "9" * 1000,
               "1" + "0" * 30, "00000000000000000000001048577"]:
    add("length", "limits: 1 MiB", 413, post(f"Content-Length: {length}\r\n", ""))
for one, two in [("5", "6"), ("6", "5"), ("0", "5"), ("5", "0"), ("5", "-5"), ("5", ""), ("", "5"),
        ("5", "+5"), ("5", "x"),
                 ("5", "5, 5"), ("0", "1048577"), ("5", "500"), ("5", "0x5")]:
    add("length", "RFC 9112 6.3: not two", 400,
            post(f"Content-Length: {one}\r\nContent-Length: {two}\r\n", "12345"))
    add("length", "RFC 9112 6.3: not two", 400,
            post(f"content-length: {one}\r\nX: y\r\nCONTENT-LENGTH: {two}\r\n", "12345"))
for codings in ["gzip", "deflate", "compress", "br", "identity", "x", "", "xchunked", "chunkedx",
        "chunke", "chunked gzip",
                "chunked, gzip", "chunked;gzip", "chunked; q=1", "chunked/1", '"chunked"',
                "'chunked'", "(chunked)", "chunked\xa0",
                "\xa0chunked", "chunked.", "chunked, chunked", "chunked,chunked",
                "gzip, chunked, chunked", "chunked, identity",
                "chunked, x, chunked", "cow", "chun ked", utf8("\uff43hunked"), "true", "1",
                "none"]:
    add("coding", "RFC 9112 6.3: chunked comes last, 6.1: once", 400,
        post(f"Transfer-Encoding: {codings}\r\n", "0\r\n\r\n"))
for codings in ["gzip, chunked", "x, chunked", "identity, chunked", "deflate,chunked",
        "br , chunked", "gzip, x, chunked",
                "x;y=z, chunked", "cow, Chunked"]:
    add("coding", "RFC 9112 6.1: not known here", 501, post(f"Transfer-Encoding: {codings}\r\n",
            "0\r\n\r\n"))
    one, two = codings.rsplit(",", 1)
    add("coding", "RFC 9112 6.1: not known here", 501,
        post(f"Transfer-Encoding: {one}\r\nTransfer-Encoding:{two}\r\n", "0\r\n\r\n"))
for codings in ["chunked\r\nTransfer-Encoding: chunked", "chunked\r\nTransfer-Encoding: gzip",
        "gzip\r\nTransfer-Encoding: gzip",
                "chunked\r\nTransfer-Encoding: x", "chunked\r\nTransfer-Encoding:",
                "x\r\nTransfer-Encoding: y"]:
    add("coding", "RFC 9112 6.1, 6.3", 400, post(f"Transfer-Encoding: {codings}\r\n", "0\r\n\r\n"))
for codings in ["chunked", "gzip", "gzip, chunked", "identity"]:
    add("coding", "RFC 9112 6.1: not in HTTP/1.0", 400,
        post(f"Transfer-Encoding: {codings}\r\n", "0\r\n\r\n").replace("HTTP/1.1", "HTTP/1.0"))

INNER = get("GET /healthz HTTP/1.1")
for te in ["Transfer-Encoding: chunked", "transfer-encoding: chunked",
        "TRANSFER-ENCODING: CHUNKED", "Transfer-Encoding:chunked",
           "Transfer-Encoding:\tchunked", "Transfer-Encoding: chunked ",
           "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: identity",
           "Transfer-Encoding: x"]:
    for length in ["0", "5", str(5 + len(INNER)), "104857"]:
        for fields in [f"Content-Length: {length}\r\n{te}\r\n",
                f"{te}\r\nContent-Length: {length}\r\n"]:
            add("smuggling", "RFC 9112 6.3: not both", 400, post(fields, "0\r\n\r\n" + INNER))
for te in ["Transfer-Encoding : chunked", "Transfer-Encoding\t: chunked",
        "Transfer_Encoding\0: chunked", "Transfer-Encoding:\x0bchunked",
           "Transfer-Encoding: \0chunked", "Transfer-Encoding: chunked\x0b",
           "Transfer-Encoding\r\n : chunked",
           "Transfer-Encoding:\r\n chunked", "X: y\rTransfer-Encoding: chunked",
           "X: y\n Transfer-Encoding: chunked",
           " Transfer-Encoding: chunked", "\x0bTransfer-Encoding: chunked",
           "Transfer-Encoding: xchunked", "Transfer\xadEncoding: chunked"]:
    add("smuggling", "RFC 9112 5.1, 5.2, 6.3, RFC 9110 5.5", 400, post(f"{te}\r\n",
            "0\r\n\r\n" + INNER))
    add("smuggling", "RFC 9112 5.1, 5.2, 6.3, RFC 9110 5.5", 400,
            post(f"Content-Length: 5\r\n{te}\r\n", "0\r\n\r\n" + INNER))

for size in ["", " ", "x", "g", "-1", "+1", "0x1", "0X1", "1h", "1 1", " 1", "\t1", "1.0", "1e",
        "1_0", "1,0", "#1", "\xb9", '"1"', "(1)",
             utf8("\uff11"), "1:", "1=x", "1x", "1/", "one", "\0", "1\0", "1\x0b", "%31", "1\\",
             "{1}", "--", "0-0", "1'", "$1"]:
    if size not in ["1e"]:
        add("chunk size", "RFC 9112 7.1", 400, chunked(f"{size}\r\na\r\n0\r\n\r\n"))
for size in ["100001", "ffffff", "7fffffff", "80000000", "ffffffff", "100000000",
        "7fffffffffffffff", "8000000000000000",
             "ffffffffffffffff", "10000000000000000", "f" * 17, "f" * 32, "f" * 1000,
             "1" + "0" * 40, "00100001"]:
    add("chunk size", "limits: 1 MiB", 413, chunked(f"{size}\r\n"))
for size in ["1", "a", "10", "ff"]:
    data = "x" * int(size, 16)
    for end in ["x", "\n", "\r", "\r\r\n", " \r\n", "\0", "0\r\n\r\n", "xx\r\n"]:
        # A bare CR waits for its LF, which does not come.
        rest = "" if end == "\r" else "0\r\n\r\n"
        add("chunk end", "RFC 9112 7.1", "closed" if end == "\r" else 400,
                chunked(f"{size}\r\n{data}{end}{rest}"))
for line in ["1\n", "1;x\n", "0\n\n", "0\r\n\n", "0\r\nT: x\n\r\n", "1\r\na\r\n0\n\r\n"]:
    add("chunk end", "RFC 9112 7.1: CR and LF", 400, chunked(line))
for byte in [byte for byte in CONTROLS if byte not in "\t\n\r"]:
    add("chunk extension", "RFC 9112 7.1.1: tokens and quoted text", 400,
            chunked(f"1;x={byte}y\r\na\r\n0\r\n\r\n"))
    add("trailer", "RFC 9110 5.5: no controls", 400, chunked(f"1\r\na\r\n0\r\nT: x{byte}y\r\n\r\n"))
for line in ["T", " T: x", "\tT: x", ": x", "T x: y", "T : y", "T\t: y", '"T": x', "T(: x",
        "GET /healthz HTTP/1.1", "T,: x", "=", "T@: x", "\xfc: x", "{}"]:
    add("trailer", "RFC 9112 7.1.2: fields", 400, chunked(f"1\r\na\r\n0\r\n{line}\r\n\r\n"))

for expectation in ["100", "100-continu", "100-continue;x", "200-ok", "x", "100-continue, x",
        "continue", '"100-continue"', "101-continue", "", "100 continue"]:
    add("expectation", "RFC 9110 10.1.1", 417,
            post(f"Expect: {expectation}\r\nContent-Length: {len(GOOD)}\r\n", GOOD))

# Limits -------------------------------------------------------------------------------------------

for count in [101, 102, 128, 200, 500, 1000, 4000]:
    add("head limit", "limits: 100 fields", 431, "GET /healthz HTTP/1.1\r\n", ["A: b\r\n", count],
            "\r\n")
    add("head limit", "limits: 100 fields", 431, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n",
            ["X:\r\n", count], "\r\n")
for size in [16384, 16385, 20000, 32768, 65536, 200000]:
    add("head limit", "limits: 16 KiB", 431, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ",
            ["x", size], "\r\n\r\n")
    add("head limit", "limits: 16 KiB", 431, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n", ["x",
            size], ": y\r\n\r\n")
    add("head limit", "limits: 16 KiB", 431, "GET /healthz HTTP/1.1\r\nHost: ", ["a", size],
            "\r\n\r\n")
    add("head limit", "limits: 16 KiB", 431, ["x", size])
    add("head limit", "limits: 16 KiB", 431,
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ", ["a", size],
            "\r\n\r\n")
    add("target limit", "RFC 9112 3, RFC 9110 15.5.15", 414, "GET /", ["a", size],
            " HTTP/1.1\r\nHost: localhost\r\n\r\n")
    add("target limit", "RFC 9112 3, RFC 9110 15.5.15", 414, "GET /healthz?", ["a", size])
    add("target limit", "RFC 9112 3, RFC 9110 15.5.15", 414, f"POST http://localhost{RPC}?",
            ["%20", size])
    add("chunk limit", "limits: 16 KiB of what is ignored", 431, chunked("1;x="), ["y", 10000],
            "\r\na\r\n1;x=", ["y", size], "\r\na\r\n") \
        if size < 16384 - 8 else add("chunk limit", "limits: a line of 16 KiB", 400,
                chunked("1;x="), ["y", size], "\r\n")
    add("chunk limit", "limits: 16 KiB of what is ignored", 431, chunked("0\r\n"), ["T: x\r\n",
            size], "\r\n")
    add("chunk limit", "limits: 16 KiB of what is ignored", 431, chunked(""),
            ["1;xxxxxxxxxxxxxx\r\na\r\n", size // 8], "0\r\n\r\n")
for count in [16, 17, 20]:
    add("body limit", "limits: 1 MiB", 413, chunked(""), *(["10000\r\n", ["x", 65536],
            "\r\n"] * count), "1\r\nx\r\n")

# Requests that end before they are complete ----------------------------------------------------------

whole = sized(GOOD)
for cut in range(0, len(whole)):
    if cut % 4 == 0 or cut == len(whole) - 1:
        add("cut off", "RFC 9112 8: incomplete", "closed", whole[:cut])
whole = chunked(f"{len(GOOD):x};x=y\r\n{GOOD}\r\n0\r\nT: x\r\n\r\n")
start = whole.index("\r\n\r\n") + 1
for cut in range(start, len(whole)):
    if cut % 4 == 0 or cut == len(whole) - 1:
        add("cut off", "RFC 9112 8: incomplete", "closed", whole[:cut])
for text in ["\r\n", "\n\n\n", ["\r\n", 1000], "\r"]:
    add("cut off", "RFC 9112 2.2: empty lines are no request", "closed", text)
add("cut off", "RFC 9112 8: incomplete", "closed", post("Content-Length: 1048576\r\n"), ["x",
        1048575])

# What is asked of whom (contract 2) ---------------------------------------------------------------------

for path in ["/", "/_mistify_RPC", "/_mistify_RPC_/", "/_mistify_RPC_/x", "/_mistify_rpc_",
        "/_MISTIFY_RPC_", "/x/_mistify_RPC_",
             "/_mistify_RPC_;x", "/_mistify_RPC_.", "/debug/pprof/", "/debug/pprof/cmdline",
             "/index.html", "/favicon.ico", "/rpc/", "/rpc/x", "/RPC", "/rpc.",
             "/snapshots/download", "/metrics/", "/healthz/", "/healthz/x", "/Metrics",
             "/.git/config", "/../../etc/passwd",
             "/%2e%2e/etc/passwd", "/cgi-bin/x", "/wp-login.php", "/a" * 100]:
    add("path", "contract 2", 404, sized(GOOD, path=path))
    add("path", "contract 2", 404, get(f"GET {path} HTTP/1.1"))
for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "PROPFIND", "FOO",
        "post", "Post", "POSTS", "XPOST", "M-SEARCH", "!", "0"]:
    add("verb", "contract 2", 405, get(f"{method} {RPC} HTTP/1.1",
            "Host: localhost\r\nContent-Type: application/json\r\n"))
    if method != "GET":
        add("verb", "contract 2", 405, sized(GOOD).replace("POST", method, 1))
for kind in [None, "", "text/plain", "text/plain; charset=utf-8",
        "application/x-www-form-urlencoded", "multipart/form-data", "text/json",
             "application/json-rpc", "application/jsonx", "xapplication/json", "application/jso",
             "json", "application", "application/", "/json",
             "*/*", "application/*", "application/xml", "text/html",
             "application/json, text/plain", "text/plain, application/json",
             "text/plain;application/json", "text/plain; x=application/json",
             "application/octet-stream", '"application/json"',
             "application\\json", "application//json", "application/ json", "application/json/x",
             "application/vnd.api+json"]:
    field = "" if kind is None else f"Content-Type: {kind}\r\n"
    add("type", "contract 2", 415,
            f"POST {RPC} HTTP/1.1\r\nHost: localhost\r\n{field}Content-Length: {len(GOOD)}\r\n\r\n{GOOD}")

# Bodies (contract 3 and 4) --------------------------------------------------------------------------------

for cut in range(len(GOOD)):
    add("json cut off", "contract 3, RFC 8259", 400, sized(GOOD[:cut]))
WRONG = ["'a'", "a", "True", "FALSE", "nul", "nulll", "undefined", "NaN", "Infinity", "-Infinity",
        "+1", "01", "-01", "00", ".5", "-.5", "5.",
         "1.e1", "1e", "1e+", "1E-", "0x1", "1_0", "1 2", "- 1", "--1", "1.2.3", '"', '"a', '"\\"',
         '"\\x41"', '"\\a"', '"\\u12"', '"\\u"',
         '"\\uZZZZ"', '"\\u 123"', '"\\', "[", "]", "{", "}", "[1", "[1,", "[1,]", "[,1]", "[1 2]",
         "[1;2]", '{"a"}', '{"a":}', '{"a" 1}',
         '{"a":1,}', '{,"a":1}', '{"a":1 "b":2}', "{a:1}", "{'a':1}", "{1:1}", "{null:1}",
         '{"a"::1}', '{"a":1]', "[1}", "[{]}", "/**/1", "//x\n1",
         "#x\n1", "<a/>", "`a`", "\\", "@", "(1)", "\0", "\x0b1", "\x0c1", utf8("\u00a01"),
         utf8("\u20281"), "\xff", "\xc3(", "\x80", "\xfe\xff"]
for wrong in WRONG:
    for body in ['{"method":"Libvirt.Status","params":[{"guest":{"id":%s}}],"id":1}',
            '{"method":"Libvirt.Status","params":[{}],"id":%s}', "%s"]:
        text = body % wrong
        add("json", "RFC 8259, contract 3", 400, sized(text))
for byte in CONTROLS[:32]:
    add("json", "RFC 8259 7: controls are escaped", 400,
            sized('{"method":"Libvirt.Status","params":[{"guest":{"id":"a%sb"}}],"id":1}' % byte))
for text in [utf8("\ufeff") + GOOD, GOOD.encode("utf-16-le").decode("latin-1"),
        GOOD.encode("utf-16-be").decode("latin-1"),
             GOOD.encode("utf-32-le").decode("latin-1"),
                     "\xff\xfe" + GOOD.encode("utf-16-le").decode("latin-1"), "\0" + GOOD,
                     "\x1f\x8b\x08\x00" + GOOD,
             " ", "\n\n", "\t", "null", "true", "1", "-1", '"x"', "[]", "[1]", "[" + GOOD + "]",
             "{}", '{"id":1}', '{"params":[]}', '{"method":null}']:
    add("json", "contract 3: UTF-8, an object with a method", 400, sized(text))
for depth in [10001, 20000, 100000, 500000]:
    for opening, closing in [("[", "]"), ('{"a":', "}")]:
        size = len('{"id":1,"x":') + depth * (len(opening) + 1) + 2
        if size < 1048576:
            head = post(f"Content-Length: {size}\r\n", '{"id":1,"x":')
            add("json depth", "limits: 10,000 deep, as Go's decoder", 400, head, [opening, depth],
                    "1", [closing, depth], "}")
    for opening in ["[", '{"a":', "[{\"a\":"]:
        if depth * len(opening) < 1048576:
            add("json depth", "limits: 10,000 deep; cut off", 400,
                    post(f"Content-Length: {depth * len(opening)}\r\n"), [opening, depth])
for method in ["", "Status", ".", ".Status", "Libvirt.", "Libvirt", "Libvirt.Status.",
        "Libvirt.Status.x", "..", "Libvirt..Status", "libvirt.Status",
               "LIBVIRT.STATUS", "Libvirt.status", "Libvirt.NewDomain", "Libvirt.GetState",
               "Libvirt.Nothing", "Rpc.Status", "System.listMethods",
               "ImageStore.ListImages", "Libvirt. Status", " Libvirt.Status", "Libvirt.Status ",
               "Libvirt/Status", "Libvirt:Status", "Libvirt.Status\\u0000",
               "Libvirt.\\u0053tatus2", "<script>", "a" * 1000, "." * 1000, "a." * 500,
               utf8("Libv\u0131rt.Status"), "../Libvirt.Status", "Libvirt.%s"]:
    add("json method", "contract 3", 400,
            sized('{"method":"%s","params":[{"guest":{"id":"test"}}],"id":1}' % method))
for method in ["1", "true", "[]", "{}", '["Libvirt.Status"]', "-0.5"]:
    add("json method", "contract 3: a string", 400,
            sized('{"method":%s,"params":[{"guest":{"id":"test"}}],"id":1}' % method))
for params in ["", ',"params":null', ',"params":{}', ',"params":"x"', ',"params":1',
        ',"params":true', ',"params":{"guest":{"id":"test"}}',
               ',"params":[1]', ',"params":["x"]', ',"params":[true]', ',"params":[[]]',
               ',"params":[[{"guest":{"id":"test"}}]]', ',"param":[{}]']:
    for method in ["Status", "CreateGuest", "CPUMetrics"]:
        add("json params", "contract 3", 400, sized('{"method":"Libvirt.%s"%s,"id":1}' % (method,
                params)))
TEXT = ["1", "-1", "1.5", "true", "false", "[]", "{}", '["x"]']
UNSIGNED = ["-1", "1.5", "-0.5", '"1"', '""', "true", "[]", "{}", "18446744073709551616", "1e400",
        "[1]", "1e2", "1.0"]
LIST = ["1", '"x"', "true", "{}", "[1]", '["x"]', "[[]]", "[true]"]
for name, values in [("id", TEXT), ("type", TEXT), ("image", TEXT), ("state", TEXT), ("memory",
        UNSIGNED), ("cpu", UNSIGNED), ("nics", LIST),
                     ("disks", LIST), ("vnc", ["1.5", '"1"', "true", "[]", "{}",
                     "9223372036854775808", "-9223372036854775809"]),
                     ("metadata", ["1", '"x"', "true", "[]", '{"a":1}', '{"a":[]}', '{"a":true}'])]:
    for value in values:
        add("json member", "contract 3 and 4", 400,
                sized('{"method":"Libvirt.Status","params":[{"guest":{"%s":%s}}],"id":1}' % (name,
                        value)))
for member in ["name", "network", "model", "mac", "address", "netmask", "gateway", "device"]:
    for value in ["1", "true", "[]", "{}"]:
        add("json member", "contract 3 and 4", 400,
                sized('{"method":"Libvirt.Status","params":[{"guest":{"id":"test","nics":[{"%s":%s}]}}],"id":1}' % (member, value)))
for value in ["1", '"1"', "{}", '["1"]', "[1.5]", "[true]", "[[]]", "[9223372036854775808]"]:
    add("json member", "contract 3 and 4", 400,
            sized('{"method":"Libvirt.Status","params":[{"guest":{"id":"test","nics":[{"vlans":%s}]}}],"id":1}' % value))
for member in ["bus", "device", "volume", "image", "source"]:
    for value in ["1", "true", "[]", "{}"]:
        add("json member", "contract 3 and 4", 400,
                sized('{"method":"Libvirt.Status","params":[{"guest":{"id":"test","disks":[{"%s":%s}]}}],"id":1}' % (member, value)))
for value in UNSIGNED:
    add("json member", "contract 3 and 4", 400,
            sized('{"method":"Libvirt.Status","params":[{"guest":{"id":"test","disks":[{"size":%s}]}}],"id":1}' % value))
for value in ["1", '"x"', "[]", '{"a":1}', '{"a":{}}', "true"]:
    add("json member", "contract 3 and 4", 400,
            sized('{"method":"Libvirt.Status","params":[{"guest":{"id":"test"},"args":%s}],"id":1}' % value))
for value in ["1", '"x"', "[]", "true"]:
    add("json member", "contract 3 and 4", 400,
            sized('{"method":"Libvirt.Status","params":[{"guest":%s}],"id":1}' % value))
for method in ["Status", "Run", "Shutdown", "Poweroff", "Reboot", "Restart", "CreateGuest"]:
    for params in ["[]", "[null]", "[{}]", '[{"guest":null}]', '[{"guest":{}}]',
            '[{"guest":{"id":""}}]']:
        add("arguments", "contract 9: invalid argument", 200,
                sized('{"method":"Libvirt.%s","params":%s,"id":1}' % (method, params)))

for case in cases:
    print(json.dumps(case))
