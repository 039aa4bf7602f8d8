#!/usr/bin/env python3
"""Writes examples/mcp_proxy/layout.ld: the functions that a request passes, in the order in which it passes them, and those of the start.

usage: layout.py [--bin FILE]

Needs valgrind and binutils. The order is taken from a trace of the release build under the load of instructions.py. What the compiler
appends to a name to tell its versions apart is left out, so the list outlives small changes and other compilers; a name that is gone
matches nothing and does no harm. To be run anew when much has changed.
"""

import argparse
import bisect
import collections
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading

import instructions

REQUESTS = 150
# Enough lines for some thirty requests.
TAIL = 3_000_000
# A name with more versions than that is not worth its room.
VERSIONS = 50
# Valgrind's processor has no SHA instructions; nearly every real one goes here instead.
INSTEAD = "sha2567x86_sha8compress"
HASH = re.compile(r"17h[0-9a-f]{16}E.*$")


def trace(binary, home):
    """Where the instructions lie, relative to the program's start: each once, as they first ran, and the last ones that ran."""
    args = argparse.Namespace(tokens=1, rules=0, connections=4)
    ports = instructions.targets(1)
    port = instructions.free_port()
    path, secrets = instructions.configuration(args, ports, home, port)
    read, write = os.pipe()
    # On one processor, as the server is then of one thread.
    command = ["taskset", "-c", "0", "valgrind", "--tool=lackey", "--trace-mem=yes", f"--log-fd={write}", binary, "--config", str(path)]
    proxy = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    begun, lines = {}, collections.deque(maxlen=TAIL)

    def collect():
        with os.fdopen(read, "rb", 1 << 20) as source:
            for line in source:
                if line.startswith(b"I "):
                    begun.setdefault(line[3:].split(b",")[0], None)
                    lines.append(line)

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        if not instructions.listens(proxy, port):
            sys.exit("the server did not start")
        maps = pathlib.Path(f"/proc/{proxy.pid}/maps").read_text().splitlines()
        start = min(int(line.split("-")[0], 16) for line in maps if line.endswith(binary))
        instructions.load(port, ports, secrets, 1, REQUESTS)
    finally:
        proxy.kill()
        proxy.wait()
        collector.join()
    at = lambda text: int(text, 16) - start
    return [at(text) for text in begun], [at(line[3:].split(b",")[0]) for line in lines]


def symbols(binary):
    listing = subprocess.run(["nm", "--defined-only", binary], capture_output=True, text=True, check=True).stdout
    found = (line.split(" ", 2) for line in listing.splitlines())
    return sorted((int(entry[0], 16), entry[2]) for entry in found if len(entry) == 3 and entry[1] in "tTwW")


def main():
    parser = argparse.ArgumentParser()
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", instructions.ROOT / "target"))
    parser.add_argument("--bin", default=str(target / "release/examples/mcp_proxy"))
    binary = str(pathlib.Path(parser.parse_args().bin).resolve())
    table = symbols(binary)
    starts = [start for start, _ in table]
    with tempfile.TemporaryDirectory() as home:
        begun, steady = trace(binary, pathlib.Path(home))

    def passed(addresses):
        """The functions, each as often as it was entered or gone back to, in the order of their first appearance."""
        seen, last = collections.Counter(), None
        for address in addresses:
            # Libraries lie elsewhere.
            if 0 <= address < starts[-1] and (index := bisect.bisect_right(starts, address) - 1) != last:
                seen[index] += 1
                last = index
        return seen

    pattern = lambda name: HASH.sub("17h*", name)
    versions = collections.Counter(pattern(name) for _, name in table)
    names = lambda indices: dict.fromkeys(pattern(table[i][1]) for i in indices)
    seen = passed(steady)
    usual = max(8, max(seen.values()) // 100)
    # Names of many versions, most of which no request passes, stand behind the others.
    passed_otherwise = (i for i, (_, name) in enumerate(table) if INSTEAD in name)
    hot = names([*(i for i, count in seen.items() if count >= usual), *passed_otherwise])
    hot = [name for name in hot if versions[name] < VERSIONS]
    hot.sort(key=lambda name: versions[name] > 4)
    # Here a page that is read for nothing costs more than a crowd: one stray function brings sixteen pages with it.
    once = sorted((name for name in names(passed(begun)) if name not in hot), key=lambda name: versions[name] > 4)
    section = lambda title, order: f"  {title} :\n  {{\n" + "".join(f"    *(.text.{name})\n" for name in order) + "  }\n"
    script = (
        "/* What a request passes, side by side, and then what the start passes, so that no page is read for a part of it alone.\n"
        "   Made by benches/layout.py; build.rs hands it to the linker. */\n"
        f"SECTIONS\n{{\n{section('.text.hot', hot)}{section('.text.startup', once)}}}\nINSERT BEFORE .text;\n"
    )
    (instructions.ROOT / "examples/mcp_proxy/layout.ld").write_text(script)
    print(f"{len(hot) + len(once)} names")


if __name__ == "__main__":
    main()
