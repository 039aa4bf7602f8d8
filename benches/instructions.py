#!/usr/bin/env python3
"""How many instructions the bundled server spends on a request, user space, all threads: the same on a busy machine as on a quiet one.

usage: instructions.py [--bin FILE] [--requests N] [--connections N] [--tokens N] [--targets N] [--rules N] [--keep FILE]

Needs valgrind. Without --bin the release build is used, and made if it is missing. Everything is on: token, both rate limits,
concurrency, target from the path, guard, scopes, sessions, limits, browser rules, audit to a file, metrics. The load is a JSON-RPC call
of some 300 bytes, answered by 1 KiB of JSON. Two runs of different length are subtracted, so that the start does not count.
--tokens, --targets and --rules make the tables large, and the requests go through them in turn. --keep leaves the profile
of the longer run in FILE, for callgrind_annotate.
"""

import argparse
import hashlib
import json
import os
import pathlib
import re
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BODY = json.dumps(
    {"jsonrpc": "2.0", "id": 17, "method": "tools/call", "params": {"name": "search", "arguments": {"query": "x" * 170, "limit": 5}}}
).encode()
PAYLOAD = json.dumps({"jsonrpc": "2.0", "id": 17, "result": {"content": [{"type": "text", "text": "y" * 940}]}}).encode()
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
    b"date: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\n" % len(PAYLOAD)
) + PAYLOAD


def targets(count):
    """Listens on that many loopback ports and answers every request there."""
    chosen, ports = selectors.DefaultSelector(), []
    for _ in range(count):
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        listener.setblocking(False)
        chosen.register(listener, selectors.EVENT_READ, None)
        ports.append(listener.getsockname()[1])

    def run():
        while True:
            for event, _ in chosen.select():
                if event.data is None:
                    conn, _ = event.fileobj.accept()
                    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    chosen.register(conn, selectors.EVENT_READ, bytearray())
                    continue
                try:
                    data = event.fileobj.recv(65536)
                except OSError:
                    data = b""
                if not data:
                    chosen.unregister(event.fileobj)
                    event.fileobj.close()
                    continue
                seen = event.data
                seen += data
                while (end := seen.find(b"\r\n\r\n")) >= 0:
                    length = re.search(rb"content-length: (\d+)", bytes(seen[:end]), re.I)
                    whole = end + 4 + (int(length[1]) if length else 0)
                    if len(seen) < whole:
                        break
                    del seen[:whole]
                    event.fileobj.sendall(ANSWER)

    threading.Thread(target=run, daemon=True).start()
    return ports


def configuration(args, ports, home, port):
    secrets = [hashlib.sha256(b"bench %d" % n).hexdigest() for n in range(args.tokens)]
    tokens = "".join(
        f'[[token]]\nid = "t{n}"\nsha256 = "{hashlib.sha256(s.encode()).hexdigest()}"\n' for n, s in enumerate(secrets)
    )
    denied = ", ".join(f'"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}/32"' for n in range(args.rules // 2))
    names = ", ".join(f'"h{n}.example"' for n in range(args.rules - args.rules // 2))
    exception = ", ".join(str(p) for p in ports)
    path = home / "proxy.toml"
    path.write_text(
        f"""listen = "127.0.0.1:{port}"
[rate_limit]
per_client = "10000000/s"
per_token = "10000000/s"
probes = "off"
[limits]
connections = {args.connections + 64}
request_head_timeout = "10m"
connection_idle_timeout = "10m"
in_flight = {args.connections + 64}
per_token = {args.connections + 64}
[audit]
path = "{home / 'audit.jsonl'}"
[metrics]
listen = "127.0.0.1:0"
[egress]
deny_cidrs = [{denied}]
deny_hosts = [{names}]
[[egress.exception]]
cidrs = ["127.0.0.1/32"]
ports = [{exception}]
{tokens}"""
    )
    return path, secrets


def load(port, ports, secrets, connections, requests):
    """Sends the requests: one on each connection, and when all of these are answered the next."""
    open_ = []
    for _ in range(connections):
        s = socket.create_connection(("127.0.0.1", port), timeout=60)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        open_.append(s)
    sent = 0
    while sent < requests:
        round_ = open_[: requests - sent]
        for i, s in enumerate(round_):
            n = sent + i
            s.sendall(
                b"POST /proxy/http://127.0.0.1:%d/mcp HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nX-Proxy-Token: %s\r\n"
                b"Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\nContent-Length: %d\r\n\r\n"
                % (ports[n % len(ports)], port, secrets[n % len(secrets)].encode(), len(BODY))
                + BODY
            )
        for s in round_:
            got = b""
            while not got.endswith(PAYLOAD[-8:]):
                piece = s.recv(65536)
                if not piece or not (got or piece.startswith(b"HTTP/1.1 200 ")):
                    sys.exit(f"not answered as expected: {(got + piece)[:300]!r}")
                got += piece
        sent += len(round_)
    for s in open_:
        s.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def listens(proxy, port):
    """Waits until the server takes connections; whether it does."""
    for _ in range(600):
        if proxy.poll() is not None:
            return False
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return True
        except OSError:
            time.sleep(0.2)
    return False


def count(args, ports, requests, out):
    with tempfile.TemporaryDirectory() as home:
        port = free_port()
        path, secrets = configuration(args, ports, pathlib.Path(home), port)
        profile = pathlib.Path(out or pathlib.Path(home) / "callgrind.out")
        log = pathlib.Path(home) / "log"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", args.bin, "--config", str(path)]
        with open(log, "wb") as sink:
            proxy = subprocess.Popen(command, stdout=sink, stderr=sink, cwd=home)
        try:
            if not listens(proxy, port):
                sys.exit(log.read_text())
            load(port, ports, secrets, args.connections, requests)
        finally:
            proxy.terminate()
            proxy.wait(120)
        found = re.search(r"Collected : (\d+)", log.read_text())
        return int(found[1]) if found else sys.exit(log.read_text())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--targets", type=int, default=1)
    parser.add_argument("--rules", type=int, default=0)
    parser.add_argument("--keep")
    args = parser.parse_args()
    if not shutil.which("valgrind"):
        sys.exit("valgrind is not installed")
    if not args.bin:
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        args.bin = str(target / "release/examples/mcp_proxy")
        if not pathlib.Path(args.bin).exists():
            subprocess.run(["cargo", "build", "--quiet", "--release", "--example", "mcp_proxy"], cwd=ROOT, check=True)
    args.bin = str(pathlib.Path(args.bin).resolve())
    ports = targets(args.targets)
    # Every token, target and connection has been seen once before the part that counts.
    warm = max(400, 2 * args.tokens if args.tokens <= 2000 else 400, 2 * args.targets, 2 * args.connections)
    short = count(args, ports, warm, None)
    long = count(args, ports, warm + args.requests, args.keep)
    print(
        f"instructions a request: {(long - short) / args.requests:,.0f} "
        f"({args.requests} requests, {args.connections} connections, {args.tokens} tokens, {args.targets} targets, {args.rules} rules)"
    )


if __name__ == "__main__":
    main()
