"""The Autobahn suite against one echo server, direct and through the proxies: the same verdict in every case.

usage: autobahn_compare.py DIR [CASE ...]   DIR keeps the suite between runs; cases as the suite names them ("1.*", "7.7.1")
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from harness import HERE, NODE, TOKEN, Proxy, finish, free_port, listening, reverse_proxy, start, text, verdict

home = pathlib.Path(sys.argv[1])
cases = sys.argv[2:] or ["*"]
subprocess.run([HERE / "autobahn_setup.sh", home], check=True, timeout=900)

echo_port = free_port()
listening(echo_port, start([NODE, str(HERE / "autobahn-echo.mjs"), str(echo_port)]))
agents = {"direct": f"ws://127.0.0.1:{echo_port}"}
if os.environ.get("REVERSE_PROXY_BIN"):
    agents["reverse_proxy"] = f"ws://127.0.0.1:{reverse_proxy(echo_port)[0]}"
proxy = Proxy([echo_port])
if not proxy.direct:
    agents["mcp_proxy"] = f"ws://127.0.0.1:{proxy.port}/proxy/ws://127.0.0.1:{echo_port}/?proxy_token={TOKEN}"

scratch = tempfile.TemporaryDirectory(prefix="autobahn-")
out = pathlib.Path(scratch.name)
running = []
for agent, url in agents.items():
    spec = out / f"{agent}.json"
    spec.write_text(json.dumps({
        "outdir": str(out / agent), "servers": [{"agent": agent, "url": url}], "cases": cases, "exclude-cases": [], "exclude-agent-cases": {},
        "options": {"failByDrop": False},
    }))
    running.append(start([str(home / "wstest"), "-m", "fuzzingclient", "-s", str(spec)], cwd=str(out)))
for child in running:
    child.wait(5000)
    if child.returncode:
        print(text(child)[-2000:])
results = {agent: json.loads((out / agent / "index.json").read_text())[agent] for agent in agents}
direct = results.pop("direct")
good = sum(1 for r in direct.values() if r["behavior"] in ("OK", "INFORMATIONAL", "NON-STRICT"))
verdict(f"direct: {good} of {len(direct)} cases pass", good >= len(direct) - 5, {n: r["behavior"] for n, r in direct.items() if r["behavior"] == "FAILED"})
for agent, through in results.items():
    differ = {
        name: (r["behavior"], r["behaviorClose"], through.get(name, {}).get("behavior"), through.get(name, {}).get("behaviorClose"))
        for name, r in direct.items()
        if (r["behavior"], r["behaviorClose"]) != (through.get(name, {}).get("behavior"), through.get(name, {}).get("behaviorClose"))
    }
    verdict(f"{agent}: the verdicts of all {len(direct)} cases are those of direct", not differ, differ)
finish()
