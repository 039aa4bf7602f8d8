"""Raw HTTP/1.1 requests, well formed and not, through `examples/reverse_proxy` to an origin that records what arrives.

Every case says what may be answered, and whether the request may reach the origin at all. Cases are written against
RFC 9110 and RFC 9112; where they leave a choice, the case names every answer that is right.
"""

import contextlib
import os
import re
import select
import socket
import sys
import threading
import time

from harness import Threaded, finish, listening, reverse_proxy, verdict

REJECT = {400, 405, 411, 413, 414, 417, 421, 426, 431, 501, 505}
seen = {}  # path -> list of dicts, as the origin read them
lock = threading.Lock()


def serve(connection):
    """A strict reader: one request after another; answers only what it read to its end."""
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            more = connection.recv(65536)
            if not more:
                return
            data += more
        head, _, data = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        parts = lines[0].split(b" ")
        entry = {"head": head, "line": lines[0], "target": parts[1] if len(parts) > 1 else b"", "body": b"", "whole": False}
        fields = [line.partition(b":")[::2] for line in lines[1:]]
        entry["fields"] = [(name.lower().decode("latin1"), value.strip().decode("latin1")) for name, value in fields]
        key = re.sub(rb"^https?://[^/]*", b"", entry["target"])
        match = re.search(rb"case-\d+", key)
        with lock:
            seen.setdefault((match.group(0) if match else key).decode("latin1"), []).append(entry)
        get = lambda name: [value for field, value in entry["fields"] if field == name]
        if get("transfer-encoding"):
            while True:
                while b"\r\n" not in data:
                    more = connection.recv(65536)
                    if not more:
                        return
                    data += more
                size, _, data = data.partition(b"\r\n")
                length = int(size.split(b";")[0], 16)
                if length == 0:
                    break
                while len(data) < length + 2:
                    more = connection.recv(65536)
                    if not more:
                        return
                    data += more
                entry["body"] += data[:length]
                data = data[length + 2 :]
            trailers = []
            while True:
                while b"\r\n" not in data:
                    more = connection.recv(65536)
                    if not more:
                        return
                    data += more
                line, _, data = data.partition(b"\r\n")
                if not line:
                    break
                trailers.append(line)
            entry["trailers"] = trailers
        elif get("content-length"):
            length = int(get("content-length")[0])
            while len(data) < length:
                more = connection.recv(65536)
                if not more:
                    return
                data += more
            entry["body"], data = data[:length], data[length:]
        entry["whole"] = True
        body = b"" if parts[0] == b"HEAD" else b"ok"
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n\r\n" + body)


origin = Threaded(serve)
if not os.environ.get("REVERSE_PROXY_BIN"):
    print("REVERSE_PROXY_BIN must name the built example reverse_proxy")
    sys.exit(2)
port, _child = reverse_proxy(origin.port)
HOST = f"127.0.0.1:{port}"


def exchange(raw, wait):
    """Sends the bytes; returns the statuses of the answers and whether the connection was closed."""
    got, closed = b"", False
    with socket.create_connection(("127.0.0.1", port), 3) as c:
        with contextlib.suppress(OSError):
            c.sendall(raw)
        end = time.monotonic() + wait
        while (left := end - time.monotonic()) > 0:
            if not select.select([c], [], [], left)[0]:
                break
            try:
                data = c.recv(65536)
            except OSError:
                closed = True
                break
            if not data:
                closed = True
                break
            got += data
            if re.search(rb"HTTP/1\.[01] [2-5]\d\d", got) and b"\r\n\r\n" in got:
                end = min(end, time.monotonic() + 0.12)
    statuses = [int(s) for s in re.findall(rb"HTTP/1\.[01] (\d{3}) ", got)]
    return statuses, closed, got


cases = []


def case(name, raw, allowed, forwarded=None, where=None, count=None, wait=1.0):
    """`allowed`: statuses of the first answer (None = closed without one). `forwarded`: must it reach the origin whole?"""
    cases.append((name, raw, allowed, forwarded, where, count, wait))


def req(line="GET {p} HTTP/1.1", fields=(), body="", host=True):
    out = line + "\r\n" + ("Host: {h}\r\n" if host else "")
    return out + "".join(f + "\r\n" for f in fields) + "\r\n" + body


OK = {200}
NO = REJECT | {None}
EITHER = OK | NO
CHUNKED = "Transfer-Encoding: chunked"


def post(fields=(), body="", **kw):
    return req("POST {p} HTTP/1.1", fields, body, **kw)


def target_is(text):
    return lambda e, p: e["target"].decode("latin1").endswith(text.replace("{p}", p)) or f"target arrived as {e['target']}"


def body_is(body):
    return lambda e, _p: e["body"] == body or f"body arrived as {e['body'][:60]}"


def lacks(*names):
    return lambda e, _p: not [f for f in e["fields"] if f[0] in names] or f"{names} arrived: {e['fields']}"


def both(*tests):
    def run(e, p):
        for test in tests:
            r = test(e, p)
            if r is not True:
                return r
        return True

    return run


# The request line.
case("a plain GET", req(), OK, True)
case("HEAD", req("HEAD {p} HTTP/1.1"), OK, True)
case("a method of our own", req("PURGE-ALL {p} HTTP/1.1"), OK | {405, 501})
case("a method in lower case is not GET", req("get {p} HTTP/1.1"), OK | NO, None, lambda e, _p: e["line"].startswith(b"get ") or e["line"])
case("a method with a bracket", req("GE(T {p} HTTP/1.1"), NO, False)
case("an empty method", req(" {p} HTTP/1.1"), NO, False)
case("two blanks after the method", req("GET  {p} HTTP/1.1"), NO, False)
case("a tab after the method", req("GET\t{p} HTTP/1.1"), NO, False)
case("no version", req("GET {p}"), NO, False)
case("a blank in the target", req("GET {p} x HTTP/1.1"), NO, False)
case("version 9.9", req("GET {p} HTTP/9.9"), NO, False)
case("version 1.10", req("GET {p} HTTP/1.10"), NO, False)
case("version 2.0 in HTTP/1 syntax", req("GET {p} HTTP/2.0"), NO, False)
case("the protocol's name in lower case", req("GET {p} http/1.1"), NO, False)
case("a blank inside the version", req("GET {p} HTTP/ 1.1"), NO, False)
case("a blank after the version", req("GET {p} HTTP/1.1 "), EITHER)
case("one empty line first", "\r\n" + req(), OK | NO)
case("CR alone ends the request line", "GET {p} HTTP/1.1\rHost: {h}\r\n\r\n", NO, False)
case("LF alone ends the lines", "GET {p} HTTP/1.1\nHost: {h}\n\n", EITHER)
case("a CR inside the target", req("GET {p}\rx HTTP/1.1"), NO, False)
case("NUL in the target", req("GET {p}\0 HTTP/1.1"), NO, False)
case("a control character in the target", req("GET {p}\x01 HTTP/1.1"), NO, False)
case("DEL in the target", req("GET {p}\x7f HTTP/1.1"), NO, False)
case("a target without a slash", req("GET case HTTP/1.1"), NO, False)
case("an empty target", req("GET  HTTP/1.1"), NO, False)
# hyper drops it while it reads the request line; what matters is that it does not travel.
case("a fragment in the target", req("GET {p}#part HTTP/1.1"), EITHER, None, target_is("{p}"))
case("* with GET", req("GET * HTTP/1.1"), NO, False)
case("OPTIONS * is answered here", req("OPTIONS * HTTP/1.1"), {200, 204, 400, 405}, False)
case("CONNECT is not this server's", "CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: 127.0.0.1:9\r\n\r\n", NO, False)
case("the authority form with GET", "GET {h} HTTP/1.1\r\nHost: {h}\r\n\r\n", NO, False)
case("the absolute form", "GET http://{h}{p} HTTP/1.1\r\nHost: {h}\r\n\r\n", OK, True)
case("the absolute form with another scheme", "GET ftp://{h}{p} HTTP/1.1\r\nHost: {h}\r\n\r\n", NO, False)
case("the absolute form with userinfo", "GET http://a:b@{h}{p} HTTP/1.1\r\nHost: {h}\r\n\r\n", NO, False)
case("TRACE never travels", req("TRACE {p} HTTP/1.1"), {200, 400, 403, 405, 501}, False)
case("a target of 70 KB", req("GET {p}?" + "a" * 70_000 + " HTTP/1.1"), NO, False)
case("a target of 4 KB", req("GET {p}?" + "a" * 4000 + " HTTP/1.1"), OK, True)
for name, text in [
    ("dot segments", "/a/../{p}/./b"),
    ("a double slash", "//a//{p}"),
    ("percent escapes in any case", "{p}/%2f%2F%41%7e?%20=%3D"),
    ("an incomplete escape", "{p}/%zz%2"),
    ("an empty query", "{p}?"),
    ("characters that some clean", "{p}/(a)'b;c=d,e!$&*+?x[0]=1&y;z=%00"),
    ("a question mark in the query", "{p}?a=b?c=/d"),
]:
    text = text.replace("/{p}", "{p}") if not text.startswith("{p}") else text
    case(f"bytes kept as they are: {name}", req(f"GET {text} HTTP/1.1"), EITHER, None, target_is(text))

# Host.
case("no Host", req(host=False), {400, None}, False)
case("two equal Hosts", req(fields=["Host: {h}"]), {400, None}, False)
case("two different Hosts", req(fields=["Host: other.example"]), {400, None}, False)
case("an empty Host", req(fields=["Host:"], host=False), NO, False)
for bad in ["a b", "a/b", "user@127.0.0.1", "127.0.0.1:x", "[::1", "a?b", "a#b", "a\tb", "http://a", "%00", "é"]:
    case(f"Host {bad!a}", req(fields=[f"Host: {bad}"], host=False), NO, False)
case("HTTP/1.0 without Host", req("GET {p} HTTP/1.0", host=False), EITHER)
case("Host goes upstream as the upstream's", req(), OK, True, lambda e, _p: [v for n, v in e["fields"] if n == "host"] == [f"127.0.0.1:{origin.port}"] or e["fields"])

# Fields.
case("a blank before the colon", req(fields=["X-A : b"]), {400, None}, False)
case("a tab before the colon", req(fields=["X-A\t: b"]), {400, None}, False)
case("an empty field name", req(fields=[": b"]), {400, None}, False)
case("a line without a colon", req(fields=["X-A b"]), {400, None}, False)
case("a blank before the first field", "GET {p} HTTP/1.1\r\n Host: {h}\r\n\r\n", {400, None}, False)
case("a folded line", req(fields=["X-A: b", " c"]), {400, None, 200}, None, lambda e, _p: b"\r\n c" not in e["head"] or "the fold arrived")
for char in '(),/;<=>?@[\\]{}"':
    case(f"{char!r} in a field name", req(fields=[f"X{char}A: b"]), {400, None}, False)
case("a byte above ASCII in a field name", req(fields=["Xé: b"]), {400, None}, False)
case("NUL in a value", req(fields=["X-A: b\0c"]), {400, None}, False)
case("CR in a value", req(fields=["X-A: b\rc"]), {400, None}, False)
case("a control character in a value", req(fields=["X-A: b\x01c"]), EITHER - {200}, False)
case("bytes above ASCII in a value", req(fields=["X-A: é"]), EITHER)
case("an empty value", req(fields=["X-A:"]), OK, True)
case("200 fields", req(fields=[f"X-{i}: b" for i in range(200)]), {400, 431, None}, False)
case("60 fields", req(fields=[f"X-{i}: b" for i in range(60)]), OK, True)
case("a field of 100 KB", req(fields=["X-A: " + "b" * 100_000]), {400, 431, None}, False)
case("a field of 8 KB", req(fields=["X-A: " + "b" * 8000]), OK, True)

# Content-Length.
case("a sized body", post(["Content-Length: 5"], "hello"), OK, True, body_is(b"hello"))
case("a length of nought", post(["Content-Length: 0"]), OK, True)
case("leading noughts", post(["Content-Length: 0005"], "hello"), EITHER, None, body_is(b"hello"))
case("a POST with neither length nor coding has no body", post() + req("GET {p}b HTTP/1.1"), OK, True, body_is(b""), 2)
case("a GET with a body", req(fields=["Content-Length: 5"], body="hello") + req(), OK | {400}, None, None, 2)
for name, value in [("plus", "+5"), ("minus", "-5"), ("hexadecimal", "0x5"), ("a blank inside", "5 5"), ("empty", ""), ("a semicolon", "5;"),
                    ("a fraction", "5.0"), ("letters", "five"), ("past 64 bits", "18446744073709551621"), ("two in a list", "5, 6"),
                    ("quoted", '"5"'), ("an underscore", "1_0"), ("a vertical tab", "\x0b5"), ("other digits", "\u00b2")]:
    case(f"length: {name}", post([f"Content-Length: {value}"], "hello"), {400, 413, None}, False)
case("length: equal ones in a list", post(["Content-Length: 5, 5"], "hello"), EITHER, None, body_is(b"hello"))
case("length: two equal lines", post(["Content-Length: 5", "Content-Length: 5"], "hello"), EITHER, None, body_is(b"hello"))
case("length: two different lines", post(["Content-Length: 5", "Content-Length: 6"], "hello!"), {400, None}, False)
case("length: blank before the colon", post(["Content-Length : 5"], "hello"), {400, None}, False)
case("length under an alias is no framing", post(["Content_Length: 5", "Content-Length: 0"]), EITHER, None, lacks("content_length"))
case("length: body shorter than said, then silence", post(["Content-Length: 50"], "hello"), NO | {408}, False, wait=0.6)

# Transfer-Encoding.
WHOLE = "5\r\nhello\r\n0\r\n\r\n"
case("a chunked body", post([CHUNKED], WHOLE), OK, True, body_is(b"hello"))
case("a GET with a chunked body", req(fields=[CHUNKED], body=WHOLE), OK, True, body_is(b"hello"))
case("Chunked in capitals", post(["Transfer-Encoding: CHUNKED"], WHOLE), EITHER, None, body_is(b"hello"))
case("coding and length together", post([CHUNKED, "Content-Length: 5"], WHOLE), EITHER, None, both(body_is(b"hello"), lambda e, _p: not {"content-length", "transfer-encoding"} <= {n for n, _ in e["fields"]} or "both arrived"))
case("length and coding together", post(["Content-Length: 5", CHUNKED], WHOLE), EITHER, None, body_is(b"hello"))
case("length and coding, and a request hidden behind", post(["Content-Length: 6", CHUNKED], "0\r\n\r\n" + req("GET /smuggled HTTP/1.1")), EITHER, None, None, 1)
case("coding and length, and a request hidden behind", post([CHUNKED, "Content-Length: 6"], "0\r\n\r\n" + req("GET /smuggled HTTP/1.1")), EITHER, None, None, 1)
case("coding and length of its whole, and a request hidden behind", post([CHUNKED, "Content-Length: 5"], WHOLE + req("GET /smuggled HTTP/1.1")), EITHER, None, None, 1)
case("coding twice in a list", post(["Transfer-Encoding: chunked, chunked"], WHOLE), {400, 501, None}, False)
case("coding on two lines", post([CHUNKED, CHUNKED], WHOLE), {400, 501, None}, False)
for name, value in [("identity", "identity"), ("unknown", "xchunked"), ("not last", "chunked, gzip"), ("an empty one", ""), ("a comma", ",chunked,x"),
                    ("a parameter", "chunked;q=1"), ("a vertical tab", "\x0bchunked"), ("quoted", '"chunked"'), ("gzip alone", "gzip")]:
    case(f"coding: {name}", post([f"Transfer-Encoding: {value}"], WHOLE), {400, 501, None}, False)
case("coding: gzip, chunked", post(["Transfer-Encoding: gzip, chunked"], WHOLE), {400, 501, None}, False)
case("coding: blank before the colon", post(["Transfer-Encoding : chunked"], WHOLE), {400, None}, False)
case("coding: folded", post(["Transfer-Encoding:", " chunked"], WHOLE), {400, 501, None}, False)
case("coding: in HTTP/1.0", req("POST {p} HTTP/1.0", [CHUNKED], WHOLE), NO, False)
case("coding under an alias is no framing", post(["Transfer_Encoding: chunked", "Content-Length: 5"], "hello"), EITHER, None, both(body_is(b"hello"), lacks("transfer_encoding")))

# Chunks.
for name, body, result in [
    ("capital digits", "A\r\nhello12345\r\n0\r\n\r\n", b"hello12345"),
    ("leading noughts", "0005\r\nhello\r\n0000\r\n\r\n", b"hello"),
    ("an extension", "5;a=b\r\nhello\r\n0;c\r\n\r\n", b"hello"),
    ("a quoted extension", '5;a="b c"\r\nhello\r\n0\r\n\r\n', b"hello"),
    ("several", "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"),
    ("a trailer", "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", b"hello"),
    ("a body that looks like a request", "1c\r\nGET /smuggled HTTP/1.1\r\nA: b\r\n0\r\n\r\n", b"GET /smuggled HTTP/1.1\r\nA: b"),
]:
    case(f"chunks: {name}", post([CHUNKED], body), OK, True, body_is(result))
# hyper's reader takes these; the body is framed anew towards the origin, so nothing of it can travel.
for name, body in [
    ("a blank after the size", "5 \r\nhello\r\n0\r\n\r\n"),
    ("an extension without a name", "5;\r\nhello\r\n0\r\n\r\n"),
    ("an extension that is no token", "5;a[b\r\nhello\r\n0\r\n\r\n"),
]:
    case(f"chunks: {name}", post([CHUNKED], body), EITHER, None, body_is(b"hello"))
for name, body in [
    ("0x before the size", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("a sign before the size", "+5\r\nhello\r\n0\r\n\r\n"),
    ("a negative size", "-5\r\nhello\r\n0\r\n\r\n"),
    ("an underscore in the size", "0_5\r\nhello\r\n0\r\n\r\n"),
    ("a blank before the size", " 5\r\nhello\r\n0\r\n\r\n"),
    ("no size", "\r\nhello\r\n0\r\n\r\n"),
    ("a size that is no digit", "g\r\nhello\r\n0\r\n\r\n"),
    ("a size past 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("LF alone after the size", "5\nhello\r\n0\r\n\r\n"),
    ("CR alone after the size", "5\rhello\r\n0\r\n\r\n"),
    ("nothing after the data", "5\r\nhello0\r\n\r\n"),
    ("LF alone after the data", "5\r\nhello\n0\r\n\r\n"),
    ("more data than said", "3\r\nhello\r\n0\r\n\r\n"),
    ("less data than said", "7\r\nhello\r\n0\r\n\r\n"),
    ("LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
    ("CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
    ("an extension of 40 KB", "5;a=" + "b" * 40_000 + "\r\nhello\r\n0\r\n\r\n"),
    ("a comma for a semicolon", "5,a\r\nhello\r\n0\r\n\r\n"),
    ("a trailer without a colon", "5\r\nhello\r\n0\r\nX-Sum\r\n\r\n"),
    ("a trailer with a blank before the colon", "5\r\nhello\r\n0\r\nX-Sum : 1\r\n\r\n"),
    ("the last chunk is missing", "5\r\nhello\r\n"),
]:
    case(f"chunks: {name}", post([CHUNKED], body), NO | {408}, False, wait=0.7)
case("chunks: a trailer that would frame or authenticate is dropped", post([CHUNKED, "Trailer: Content-Length"], "5\r\nhello\r\n0\r\nContent-Length: 9\r\nHost: evil\r\nTransfer-Encoding: x\r\nAuthorization: y\r\n\r\n"),
     EITHER, None, lambda e, _p: not re.search(rb"(?i)content-length|host:|transfer-encoding|authorization", b"\n".join(e.get("trailers", []))) or f"{e['trailers']} arrived")

# One connection, several requests.
case("two requests at once are two requests", req() + req("GET {p}b HTTP/1.1"), OK, True, None, 2)
case("a body, then a request", post(["Content-Length: 5"], "hello") + req("GET {p}b HTTP/1.1"), OK, True, body_is(b"hello"), 2)
case("chunks, then a request", post([CHUNKED], WHOLE) + req("GET {p}b HTTP/1.1"), OK, True, body_is(b"hello"), 2)
case("nothing after `Connection: close`", req(fields=["Connection: close"]) + req("GET /smuggled HTTP/1.1"), OK, True, None, 1)
case("nothing after a request that was refused", req(fields=["X-A : b"]) + req("GET /smuggled HTTP/1.1"), {400, None}, False, None, 1)
case("nothing after a refused length", post(["Content-Length: +5"], req("GET /smuggled HTTP/1.1")), {400, None}, False, None, 1)

# Expect, Upgrade, hop-by-hop.
case("Expect: 100-continue", post(["Content-Length: 5", "Expect: 100-continue"], "hello"), {100, 200}, True, body_is(b"hello"), wait=4)
case("an unknown expectation", post(["Content-Length: 5", "Expect: coffee"], "hello"), {417, None}, False)
case("h2c is not upgraded to", req(fields=["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"]), OK | {400}, None, lacks("upgrade", "http2-settings"))
case("an unknown upgrade is dropped", req(fields=["Connection: Upgrade", "Upgrade: tardis/1"]), OK | {400, 426}, None, lacks("upgrade"))
case("a WebSocket request without its key", req(fields=["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]), {400, 426}, False)
case("a WebSocket request of version 8", req(fields=["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]), {400, 426}, False)
case("fields that Connection names", req(fields=["Connection: X-Secret", "X-Secret: 1"]), OK, True, lacks("x-secret"))
case("fields that a second Connection line names", req(fields=["Connection: keep-alive", "connection: x-a , X-B", "X-A: 1", "x-b: 2"]), OK, True, lacks("x-a", "x-b"))
case("Connection naming Host", req(fields=["Connection: Host"]), OK | {400}, None, lambda e, _p: "host" in dict(e["fields"]) or "no Host arrived")
case("Connection naming the length", post(["Connection: Content-Length", "Content-Length: 5"], "hello"), OK | {400}, None, body_is(b"hello"))
case("the fixed hop-by-hop fields", req(fields=["Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "TE: gzip"]), OK, True, lacks("keep-alive", "proxy-connection", "te"))
case("identity fields are not the client's to say", req(fields=["Client-Cert: :YQ==:", "X-Forwarded-Client-Cert: x"]), OK, True, lacks("client-cert", "x-forwarded-client-cert"))
case("X-Forwarded-For is not the client's to say", req(fields=["X-Forwarded-For: 6.6.6.6", "X-Real-IP: 6.6.6.6"]), OK, True, lambda e, _p: b"6.6.6.6" not in e["head"] or "the client's word arrived")
case("Max-Forwards: 0 with OPTIONS stays here", req("OPTIONS {p} HTTP/1.1", ["Max-Forwards: 0"]), {200, 204, 400, 405}, False)
case("a query token's name means nothing here", req("GET {p}?proxy_token=x HTTP/1.1"), OK, True, target_is("{p}?proxy_token=x"))
case("HTTP/1.0 with keep-alive goes on as our own version", req("GET {p} HTTP/1.0", ["Connection: keep-alive"]), OK, True, lambda e, _p: e["line"].endswith(b"HTTP/1.1") or e["line"])

names = set()
for number, (name, raw, allowed, forwarded, where, count, wait) in enumerate(cases):
    assert name not in names, name
    names.add(name)
    p = f"/case-{number:04d}"
    raw = raw.replace("{p}", p).replace("{h}", HOST)
    with lock:
        seen.clear()
    statuses, closed, got = exchange(raw.encode("latin1"), wait)
    time.sleep(0.01)
    with lock:
        arrived = [e for entries in seen.values() for e in entries]
    first = statuses[0] if statuses else None
    problems = []
    if first not in allowed and not (first is None and None in allowed):
        problems.append(f"answered {statuses or ('closed' if closed else 'nothing')}, allowed {sorted(map(str, allowed))}")
    if first is None and not closed and None in allowed and forwarded is not False:
        problems.append("neither answered nor closed")
    if any(b"smuggled" in e["target"] for e in arrived):
        problems.append("the hidden request arrived as a request")
    whole = [e for e in arrived if e["whole"]]
    if forwarded is True and not whole:
        problems.append("did not reach the origin")
    if forwarded is False and whole:
        problems.append(f"reached the origin: {whole[0]['line']!r}")
    if where and whole:
        told = where(min(whole, key=lambda e: len(e["target"])), p)
        if told is not True:
            problems.append(str(told))
    if count and len(whole) > count:
        problems.append(f"{len(whole)} requests arrived, at most {count} were sent")
    if count and first == 200 and forwarded and len(whole) != count:
        problems.append(f"{len(whole)} of {count} requests arrived")
    verdict(name, not problems, "; ".join(problems))

listening(port)  # still there
verdict(f"{len(cases)} cases later the server still answers", exchange(req().replace("{p}", "/last").replace("{h}", HOST).encode(), 2)[0] == [200])
finish()
