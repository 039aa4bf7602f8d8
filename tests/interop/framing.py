"""Differential framing: thousands of generated HTTP/1.1 requests, good, odd and broken, through `examples/reverse_proxy`.

A raw origin records every byte that the proxy sends. The record is parsed again by three readers that know nothing of
each other (the origin's own strict one, Python h11, node's llhttp), which must agree on how many requests there are, what
each is, and at which byte each ends. Bodies carry requests of their own: one that arrives as a request is smuggling.

usage: framing.py [COUNT] [SEED | random]
"""

import asyncio
import hashlib
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time

import h11

from harness import HERE, NODE, finish, free_port, reverse_proxy, verdict

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 12_000
# The same requests every time, unless a seed is given: "random" for others.
SEED = random.SystemRandom().randrange(2**32) if "random" in sys.argv else int(sys.argv[2]) if len(sys.argv) > 2 else 634747742
CLIENTS = 12
DEADLINE = time.monotonic() + 110
rng = random.Random(SEED)
print(f"     seed {SEED}, {COUNT} requests")

records = []  # one bytearray a connection from the proxy


class Reader:
    """The origin's own strict reader: `feed` gives back how many requests ended."""

    def __init__(self, record):
        self.record, self.at, self.found = record, 0, []
        self.broken = None

    def advance(self):
        ended = []
        while self.broken is None and (one := self._one()) is not None:
            self.found.append(one)
            ended.append(one)
        return ended

    def _one(self):
        data = self.record
        end = data.find(b"\r\n\r\n", self.at)
        if end < 0:
            return None
        lines = bytes(data[self.at : end]).split(b"\r\n")
        try:
            method, target, version = lines[0].split(b" ")
            fields = [(n.lower(), v.strip(b" \t")) for n, colon, v in (line.partition(b":") for line in lines[1:]) if colon]
            if len(fields) != len(lines) - 1 or version != b"HTTP/1.1" or any(not n or n != n.strip() for n, _ in fields):
                raise ValueError(lines)
            codings = [v for n, v in fields if n == b"transfer-encoding"]
            lengths = [v for n, v in fields if n == b"content-length"]
            if codings and (lengths or [c.lower() for c in codings] != [b"chunked"]) or len(lengths) > 1 or lengths and not lengths[0].isdigit():
                raise ValueError(lines)
            at, body = end + 4, bytearray()
            if codings:
                while True:
                    eol = data.find(b"\r\n", at)
                    if eol < 0:
                        return None
                    size = int(bytes(data[at:eol]), 16)
                    at = eol + 2
                    if size == 0:
                        break
                    if len(data) < at + size + 2:
                        return None
                    body += data[at : at + size]
                    if data[at + size : at + size + 2] != b"\r\n":
                        raise ValueError("chunk")
                    at += size + 2
                while True:
                    eol = data.find(b"\r\n", at)
                    if eol < 0:
                        return None
                    empty, at = eol == at, eol + 2
                    if empty:
                        break
            elif lengths:
                size = int(lengths[0])
                if len(data) < at + size:
                    return None
                body += data[at : at + size]
                at += size
        except ValueError as error:
            self.broken = f"{error}"
            return None
        self.at = at
        return {"method": method.decode("latin1"), "target": target.decode("latin1"), "end": at, "body": hashlib.sha256(body).hexdigest()[:16]}


async def origin(reader, writer):
    record = bytearray()
    records.append(record)
    mine = Reader(record)
    try:
        while data := await reader.read(65536):
            record += data
            for one in mine.advance():
                # The answer says which request it is for, so that the client can see answers change places.
                body = b"" if one["method"] == "HEAD" else b"ok"
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-for: " + one["target"].split("?")[0].encode("latin1") + b"\r\n\r\n" + body)
            await writer.drain()
            if mine.broken:
                break
    except (OSError, asyncio.CancelledError):
        pass  # cancelled when the test ends
    finally:
        writer.close()


# The generator. A connection carries a few requests; after one that must be refused nothing is expected of the rest.
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"]
HIDDEN = "GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n"


def text(n):
    kind = rng.random()
    if kind < 0.3:
        return (HIDDEN * (n // len(HIDDEN) + 1))[:n] if n >= len(HIDDEN) else HIDDEN[:n]
    if kind < 0.5:
        return ("0\r\n\r\n" + HIDDEN * (n // len(HIDDEN) + 1))[:n]
    return "".join(rng.choice("abc \r\n0:;\t\x00\xff") for _ in range(n))


def chunked(body, odd):
    out, rest = "", body
    while rest:
        n = rng.randint(1, max(1, min(len(rest), rng.choice([1, 7, 60, 2000]))))
        size = format(n, rng.choice(["x", "X"]))
        if odd and rng.random() < 0.4:
            size = "0" * rng.randint(1, 3) + size
        extension = rng.choice(["", "", ";a=b", ';a="b c"', ";name"]) if odd else ""
        out += f"{size}{extension}\r\n{rest[:n]}\r\n"
        rest = rest[n:]
    trailer = rng.choice(["", "", "X-Sum: 1\r\n", "X-A: b\r\nX-B: c\r\n"]) if odd else ""
    return out + "0\r\n" + trailer + "\r\n"


def request(number, odd):
    method = rng.choice(METHODS)
    target = f"/r-{number}" + rng.choice(["", "?", "?a=b&c=%20", "/%2f/x;y"])
    fields = [rng.choice(["Host", "host", "HOST"]) + ": " + HOST]
    body, has_body = "", method in ("POST", "PUT", "PATCH") or rng.random() < 0.15
    framing = rng.choice(["length", "chunked"]) if has_body else "none"
    if framing != "none":
        body = text(rng.choice([0, 1, 5, 40, 300, 3000, 20_000 if rng.random() < 0.1 else 10]))
    pads = ["", " ", "  ", "\t"] if odd else [" "]
    if framing == "length":
        digits = ("0" * rng.randint(1, 4) if odd and rng.random() < 0.3 else "") + str(len(body))
        fields.append(rng.choice(["Content-Length", "content-length"]) + ":" + rng.choice(pads) + digits + rng.choice(["", " "] if odd else [""]))
    elif framing == "chunked":
        fields.append("Transfer-Encoding:" + rng.choice(pads) + (rng.choice(["chunked", "Chunked", "CHUNKED"]) if odd else "chunked"))
    for _ in range(rng.randint(0, 4)):
        fields.append(rng.choice(["X-A: b", "Accept: */*", "Cookie: a=b; c=d", "User-Agent: framing", "X-Empty:", "X-Long: " + "y" * 500]))
    if odd:
        fields += rng.sample([
            "Connection: keep-alive", "Connection: X-A", "Connection: X-A, Content-Type", "Keep-Alive: timeout=5", "TE: trailers", "TE: gzip, trailers",
            "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAAP__", "Proxy-Connection: keep-alive", "X-High: \xff\xfe",
            "Transfer_Encoding: chunked", "Content_Length: 3", "X-Colon: a:b", "Trailer: X-Sum", "Max-Forwards: 3", "X-Forwarded-For: 1.2.3.4",
        ], rng.randint(1, 3))
        if rng.random() < 0.1:
            target = f"http://{HOST}{target}"
    head = fields[:1] + rng.sample(fields[1:], len(fields) - 1) if rng.random() < 0.5 else fields
    raw = f"{method} {target} HTTP/1.1\r\n" + "".join(f + "\r\n" for f in head) + "\r\n"
    raw += chunked(body, odd) if framing == "chunked" else body
    return raw, {"number": number, "method": method, "body": hashlib.sha256(body.encode("latin1")).hexdigest()[:16]}


refused = {}  # number -> the start of a request that must not arrive


def broken(number):
    """A request that must not pass, with a hidden one behind it."""
    head = lambda *fields, line="POST {p} HTTP/1.1": line.replace("{p}", f"/bad-{number}") + f"\r\nHost: {HOST}\r\n" + "".join(f + "\r\n" for f in fields) + "\r\n"
    te, whole = "Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"
    raw = rng.choice([
        lambda: head("Content-Length: 6", "Content-Length: 5") + "hello!",
        lambda: head(f"Content-Length: {rng.choice(['+5', '-5', '0x5', '5 5', '', '5,6', '5;', '1e1', '99999999999999999999', '5_0'])}") + "hello",
        lambda: head("Transfer-Encoding: " + rng.choice(["identity", "xchunked", "chunked, gzip", "chunked, chunked", "chunked;a", ",", '"chunked"', "\x0bchunked"])) + whole,
        lambda: head(te, te) + whole,
        lambda: head("Transfer-Encoding : chunked") + whole,
        lambda: head("Content-Length : 5") + "hello",
        lambda: head("Content-Length: 6", te) + "0\r\n\r\n",
        lambda: head(te, "Content-Length: 5") + whole,
        lambda: head(te) + rng.choice(["0x5", "+5", "-5", " 5", "5_", "", "g", "10000000000000005"]) + "\r\nhello\r\n0\r\n\r\n",
        lambda: head(te) + rng.choice(["5\nhello\r\n0\r\n\r\n", "5\rhello\r\n0\r\n\r\n", "5\r\nhello\n0\r\n\r\n", "5;a\nb\r\nhello\r\n0\r\n\r\n", "5\r\nhello0\r\n\r\n", "3\r\nhello\r\n0\r\n\r\n"]),
        lambda: head(te) + "5\r\nhello\r\n0\r\nX-Sum\r\n\r\n",
        lambda: head("X-A : b"),
        lambda: head(": b"),
        lambda: head("X-A: b\0"),
        lambda: head("X-A: b\rc"),
        lambda: head(" folded"),
        lambda: head("Host: other"),
        lambda: head(line="GET {p} x HTTP/1.1"),
        lambda: head(line="GET\t{p} HTTP/1.1"),
        lambda: head(line="GET {p}\0 HTTP/1.1"),
        lambda: head(line="GET {p}"),
        lambda: head(te, line="POST {p} HTTP/1.0") + whole,
    ])()
    # A length beside a coding may be ignored; then the connection ends with the answer, and what follows is never read.
    if not ("Content-Length" in raw and te in raw):
        refused[number] = raw
    # A second Host is refused too, but it leaves no doubt where the request ends: the next one may be served.
    return raw if "Host: other" in raw else raw + HIDDEN


def mutated(number):
    """A good request with one to three bytes changed, added or taken away: nothing is expected but agreement."""
    raw, _ = request(number, rng.random() < 0.5)
    raw = raw.replace("/hidden", "/inner!").replace(f"/r-{number}", f"/m-{number}")
    data = list(raw)
    start = raw.index(" ") + 1  # the method stays: node's parser knows a fixed list of them
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(start, len(data))
        what = rng.random()
        if what < 0.5:
            data[at] = rng.choice("\r\n \t\0:;,0123456789abcdefxX+-_/\x7f\xff\x0b")
        elif what < 0.75:
            data.insert(at, rng.choice("\r\n \t:;,05\x00"))
        else:
            del data[at]
        if not data:
            return "\r\n"
    return "".join(data)


def connection(first):
    """One connection's bytes: up to eight requests. Returns (bytes, what must arrive, how many were generated)."""
    raw, must, n = "", [], 0
    for n in range(1, rng.randint(1, 8) + 1):
        draw = rng.random()
        if draw < 0.55:
            one, truth = request(first + n, False)
        elif draw < 0.80:
            one, truth = request(first + n, True)
        elif draw < 0.92:
            return raw + mutated(first + n), must, n, False
        else:
            return raw + broken(first + n), must, n, False
        raw += one
        must.append(truth)
    return raw, must, n, True


expected, answered, wrong_order, smuggled = {}, 0, [], []


async def client(work):
    global answered
    while True:
        try:
            raw, must, n, clean = work.pop()
        except IndexError:
            return
        if time.monotonic() > DEADLINE:
            return
        for truth in must:
            expected[truth["number"]] = truth
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            work.append((raw, must, n, clean))
            return  # the checks below say that the proxy has gone
        got = bytearray()
        data = raw.encode("latin1")
        try:
            cut = rng.randrange(len(data)) if rng.random() < 0.5 else len(data)
            writer.write(data[:cut])
            if cut < len(data):
                await writer.drain()
                await asyncio.sleep(0)
                writer.write(data[cut:])
            wanted = len(must)
            # After a broken one the proxy answers and closes, or waits for a body that will not come.
            patience = 5.0 if clean else 0.25
            finals = 0
            while True:
                left = wanted - finals
                try:
                    piece = await asyncio.wait_for(reader.read(65536), patience if left <= 0 else 5.0)
                except TimeoutError:
                    break
                if not piece:
                    break
                got += piece
                finals = got.count(b"HTTP/1.1 ")
                if clean and finals >= wanted and got.endswith((b"ok", b"\r\n\r\n")):
                    break
        except OSError:
            pass
        finally:
            writer.close()
        if b"x-for: /hidden" in got:
            smuggled.append(raw[-330:])
        order = [int(t) for t in re.findall(rb"x-for: (?:http://[^/]*)?/r-(\d+)", bytes(got))]
        if order != sorted(order) or len(order) != len(set(order)):
            wrong_order.append(order)
        answered += len(order)


def by_h11(data):
    found, base, rest = [], 0, bytes(data)
    conn = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    conn.receive_data(rest)
    method = target = None
    body = hashlib.sha256()
    while True:
        try:
            event = conn.next_event()
        except h11.RemoteProtocolError as error:
            found.append({"error": str(error)})
            return found
        if event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
            return found
        if event is h11.PAUSED:
            return found
        if isinstance(event, h11.Request):
            method, target, body = event.method.decode(), event.target.decode("latin1"), hashlib.sha256()
        elif isinstance(event, h11.Data):
            body.update(event.data)
        elif isinstance(event, h11.EndOfMessage):
            left = conn.trailing_data[0]
            found.append({"method": method, "target": target, "end": len(data) - len(left), "body": body.hexdigest()[:16]})
            conn = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
            if not left:
                return found
            conn.receive_data(left)


def by_node(readers):
    """node's parser knows a fixed list of methods; a request with another (a changed byte can make one) is cut out for it."""
    known = set(json.loads(subprocess.run([NODE, "-p", "JSON.stringify(require('http').METHODS)"], capture_output=True, check=True).stdout))
    pieces = []  # (record, offset, bytes)
    for index, reader in enumerate(readers):
        at = begin = 0
        for one in reader.found:
            if one["method"] not in known:
                pieces.append((index, begin, records[index][begin:at]))
                begin = one["end"]
            at = one["end"]
        pieces.append((index, begin, records[index][begin:]))
    results = [[one for one in reader.found if one["method"] not in known] for reader in readers]
    for (index, offset, _), found in zip(pieces, run_node([p for _, _, p in pieces]), strict=True):
        results[index] += [{**one, "end": one["end"] + offset} if "end" in one else one for one in found]
    return [sorted(found, key=lambda one: one.get("end", len(records[i]) + 1)) for i, found in enumerate(results)]


def run_node(pieces):
    with tempfile.NamedTemporaryFile(suffix=".json") as f:
        f.write(json.dumps([bytes(r).decode("latin1") for r in pieces]).encode())
        f.flush()
        out = subprocess.run([NODE, "--no-deprecation", str(HERE / "framing-node.mjs"), f.name], capture_output=True, timeout=100, check=False)
    if out.returncode:
        raise RuntimeError(out.stderr.decode()[-2000:])
    return json.loads(out.stdout)


async def main():
    global port, HOST
    upstream_port = free_port()
    server = await asyncio.start_server(origin, "127.0.0.1", upstream_port, limit=1 << 20)
    port, child = await asyncio.to_thread(reverse_proxy, upstream_port)
    HOST = f"127.0.0.1:{port}"
    work, made = [], 0
    while made < COUNT:
        one = connection(made)
        work.append(one)
        made += one[2]
    work.reverse()
    connections = len(work)
    begun = time.monotonic()
    await asyncio.gather(*(client(work) for _ in range(CLIENTS)))
    seconds = time.monotonic() - begun
    verdict(f"{made} generated requests on {connections} connections were sent in {seconds:.0f} s", not work, f"{len(work)} connections left at the deadline")
    alive = child is None or child.poll() is None
    verdict("the proxy is still running", alive)
    await asyncio.sleep(0.3)
    server.close()


if not os.environ.get("REVERSE_PROXY_BIN"):
    print("REVERSE_PROXY_BIN must name the built example reverse_proxy")
    sys.exit(2)
asyncio.run(main())

own = []
for record in records:
    reader = Reader(record)
    reader.advance()
    own.append(reader)
total = sum(len(r.found) for r in own)
verdict(f"{total} requests arrived on {len(records)} connections, and the strict reader follows them all", total > COUNT // 2 and not [r for r in own if r.broken], next((r.broken for r in own if r.broken), f"only {total}"))
disagree = []
node = by_node(own)
for record, reader, theirs in zip(records, own, node, strict=True):
    third = by_h11(record)
    if not reader.found == third == theirs:
        disagree.append((reader.found, third, theirs, bytes(record)))
why = ""
if disagree:
    a, b, c, raw = disagree[0]
    at = next((i for i in range(max(map(len, (a, b, c)))) if len({json.dumps(x[i]) if i < len(x) else "-" for x in (a, b, c)}) > 1), 0)
    why = f"{len(disagree)} connections; first: own {a[at:at+1]} h11 {b[at:at+1]} node {c[at:at+1]} in {raw[a[at-1]['end'] if at else 0:][:300]!r}"
verdict("the strict reader, h11 and node agree on every request, its body and the byte where it ends", not disagree, why)
arrived = {}
hidden = []
for reader in own:
    for one in reader.found:
        if "/hidden" in one["target"]:
            hidden.append(one)
        name = one["target"].rpartition("/r-")[2] if "/r-" in one["target"] else None
        if name:
            digits = "".join(itertools.takewhile(str.isdigit, name))
            arrived.setdefault(int(digits), []).append(one)
verdict("no request hidden in a body or behind a broken request arrived", not hidden, f"{len(hidden)} arrived, by {smuggled[:3]}")
accepted = [refused[int(m[1])] for r in own for one in r.found if (m := re.search(r"/bad-(\d+)", one["target"])) and int(m[1]) in refused]
verdict(f"none of {len(refused)} broken requests arrived", not accepted, f"{len(accepted)}: {accepted[:3]}")
twice = {n: v for n, v in arrived.items() if len(v) > 1}
verdict("no request arrived twice", not twice, list(twice.items())[:2])
changed = [(t, arrived[n][0]) for n, t in expected.items() if n in arrived and (arrived[n][0]["body"], arrived[n][0]["method"]) != (t["body"], t["method"])]
verdict("every request that arrived has the method and the body that were sent", not changed, changed[:2])
missing = [t for n, t in expected.items() if n not in arrived]
verdict(f"{len(expected) - len(missing)} of {len(expected)} well formed requests arrived", len(missing) <= len(expected) // 10, f"{len(missing)} missing, first {missing[:3]}")
verdict("answers come in the order of their requests", not wrong_order, wrong_order[:2])
finish()
