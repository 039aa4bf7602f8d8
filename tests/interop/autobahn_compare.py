"""The Autobahn suite against an echo server, direct and through the proxies: the same verdict in every case.

usage: autobahn_compare.py DIR [CASE ...]   cases as the suite names them ("1.*", "7.7.1"); without any, all 517

DIR keeps the suite and what was found: a run that was ended goes on where it stood, group of cases by group. What was found through a
proxy counts only for the very program that it was found with. AUTOBAHN_JOBS runs that many at a time (default: one a processor),
AUTOBAHN_FRESH=1 forgets what earlier runs have found. A case whose verdict differs is run again by itself, direct and through, twice at most,
because the suite judges by time too; such cases are named.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

from harness import HERE, NODE, TOKEN, Proxy, finish, free_port, listening, reverse_proxy, start, stop, stop_all, text, verdict

# Groups of a few minutes at most; the long ones first, so that none is left over at the end.
HEAVY = [f"12.{i}.*" for i in range(1, 6)] + [f"13.{i}.*" for i in range(1, 8)] + [f"9.{i}.*" for i in range(1, 9)]
GROUPS = [*HEAVY, "6.*", *[f"{i}.*" for i in (1, 2, 3, 4, 5, 7, 10)]]
CASES = 517
GROUP_SECONDS = 3000
PASSES = ("OK", "INFORMATIONAL", "NON-STRICT")

home = pathlib.Path(sys.argv[1]).resolve()
groups = sys.argv[2:] or GROUPS
subprocess.run([HERE / "autobahn_setup.sh", home], check=True, timeout=900)
version = (home / "wstest").read_bytes() + b"".join((HERE / name).read_bytes() for name in ("autobahn-echo.mjs", "package-lock.json"))


def key(*programs):
    """Names the state under test: the suite, the echo server, and the program between them."""
    found = hashlib.sha256(version)
    for program in programs:
        with open(program, "rb") as f:
            found.update(hashlib.file_digest(f, "sha256").digest())
    return found.hexdigest()[:16]


def echo():
    """An echo server of an agent's own: it is what the suite waits for, and it uses one processor."""
    port = free_port()
    listening(port, start([NODE, str(HERE / "autobahn-echo.mjs"), str(port)]))
    return port


agents = {"direct": (f"ws://127.0.0.1:{echo()}", key())}
if binary := os.environ.get("REVERSE_PROXY_BIN"):
    agents["reverse_proxy"] = (f"ws://127.0.0.1:{reverse_proxy(echo())[0]}", key(binary))
if os.environ.get("PROXY_BIN"):
    port = echo()
    url = f"ws://127.0.0.1:{Proxy([port]).port}/proxy/ws://127.0.0.1:{port}/?proxy_token={TOKEN}"
    agents["mcp_proxy"] = (url, key(os.environ["PROXY_BIN"]))
if len(agents) == 1:
    sys.exit("neither REVERSE_PROXY_BIN nor PROXY_BIN is set: there is nothing to compare with")

kept = home / "verdicts"
if os.environ.get("AUTOBAHN_FRESH"):
    shutil.rmtree(kept, ignore_errors=True)
ran = set()
scratch = tempfile.TemporaryDirectory(prefix="autobahn-")


def wstest(agent, cases):
    """Runs the suite once; the verdict and the way of closing, by case."""
    out = pathlib.Path(tempfile.mkdtemp(dir=scratch.name))
    spec = out / "spec.json"
    spec.write_text(json.dumps({
        "outdir": str(out / "reports"), "servers": [{"agent": agent, "url": agents[agent][0]}], "cases": cases, "exclude-cases": [],
        "exclude-agent-cases": {}, "options": {"failByDrop": False},
    }))
    child = start([str(home / "wstest"), "-m", "fuzzingclient", "-s", str(spec)], cwd=str(out))
    try:
        child.wait(GROUP_SECONDS)
        index = json.loads((out / "reports/index.json").read_text())[agent]
    except (subprocess.TimeoutExpired, OSError, KeyError) as error:
        raise RuntimeError(f"{agent} {cases}: {type(error).__name__}: {text(child)[-1500:]}") from error
    finally:
        stop(child)
        shutil.rmtree(out, ignore_errors=True)
    return {case: [r["behavior"], r["behaviorClose"]] for case, r in index.items()}


def group(agent, cases):
    """The verdicts of one group: those on file, or else those of a run."""
    file = kept / f"{agent}-{agents[agent][1]}" / (re.sub(r"[^0-9.]", "x", cases) + ".json")
    if file.exists():
        return agent, cases, json.loads(file.read_text()), None
    ran.add((agent, cases))
    begun = time.monotonic()
    try:
        found = wstest(agent, [cases])
    except RuntimeError as error:
        return agent, cases, {}, str(error)
    seconds = time.monotonic() - begun
    print(f"     {agent:14} {cases:8} {len(found):4} cases {seconds:6.0f} s", flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(found))
    part.rename(file)
    return agent, cases, found, None


results, broken = {agent: {} for agent in agents}, []
with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("AUTOBAHN_JOBS") or os.cpu_count() or 1)) as pool:
    try:
        for agent, cases, found, error in pool.map(lambda job: group(*job), [(a, g) for g in groups for a in agents]):
            results[agent].update(found)
            if error:
                broken.append(error)
    except BaseException:
        # Ended from outside. The pool waits for its threads, and they for their children.
        stop_all()
        raise
if known := sum(1 for a in agents for g in groups if (a, g) not in ran):
    print(f"     {known} of {len(groups) * len(agents)} groups are known from an earlier run of the same programs", flush=True)
verdict("every group of cases ran to its end", not broken, broken)

direct = results.pop("direct")
good = sum(1 for behaviour, _ in direct.values() if behaviour in PASSES)
if not sys.argv[2:]:
    verdict(f"direct: all {CASES} cases of the suite were run", len(direct) == CASES, len(direct))
failing = {name: v for name, v in direct.items() if v[0] not in PASSES}
verdict(f"direct: {good} of {len(direct)} cases pass", direct and good >= len(direct) - 5, failing)
for agent, through in results.items():
    again = []
    for _ in range(2):
        differ = sorted(name for name in direct.keys() | through.keys() if direct.get(name) != through.get(name))
        if not differ:
            break
        again += [f"{name} ({direct.get(name)} {through.get(name)})" for name in differ]
        for name in differ:
            try:
                direct.update(wstest("direct", [name]))
                through.update(wstest(agent, [name]))
            except RuntimeError as error:
                print(error, flush=True)
    if again:
        print(f"     {agent}: run again by themselves: {' '.join(again)}", flush=True)
    differ = {n: (direct.get(n), through.get(n)) for n in direct.keys() | through.keys() if direct.get(n) != through.get(n)}
    same = len(direct.keys() & through.keys()) - len(differ)
    verdict(f"{agent}: the verdicts of all {len(direct)} cases are those of direct", direct and not differ, f"{same} are the same; {differ}")
finish()
