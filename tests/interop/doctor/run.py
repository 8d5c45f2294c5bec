#!/usr/bin/env python3
"""`relatch doctor` on servers that nobody here wrote: every transcript has to be the one that is kept beside this file.

Starts each server, examines it, and compares what was said with NAME.txt, times, ports and ids taken out. `--accept` writes the
transcripts anew: read the difference as the owner of that server would, at two in the morning.
"""

import argparse
import difflib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from harness.peers import CLIENTS, OLD_SERVERS, SERVERS, relatch_path
from harness.world import Missed, World

SECONDS = 60


@dataclass(frozen=True)
class Case:
    name: str
    server: str
    flags: tuple = ()
    # Whether the server is killed and started again meanwhile.
    restart: bool = False
    # Whether relatch itself is examined, in front of the server.
    front: bool = False
    exit: int = 0
    # Whether a resumed stream brings the rest depends on how much of it was out before the cut.
    race: bool = False
    # By the old transport.
    old: bool = False


CASES = (
    Case("everything", "everything", exit=1),
    Case("ts1", "ts1", exit=1),
    Case("ts1-json", "ts1", ("--json",), exit=1),
    Case("ts1-stateless", "ts1", ("--stateless",), exit=1),
    Case("ts2", "ts2", exit=1),
    Case("py1", "py1", exit=1),
    Case("py1-json", "py1", ("--json",), exit=1),
    Case("py1-stateless", "py1", ("--stateless",), exit=1),
    Case("py2", "py2"),
    Case("py2-stateless", "py2", ("--stateless", "--json")),
    Case("fastmcp", "fastmcp", exit=1),
    Case("fastmcp-stateless", "fastmcp", ("--stateless",), exit=1),
    Case("rmcp", "rmcp", race=True),
    Case("relatch", "ts1", front=True),
    Case("ts1-restart", "ts1", restart=True, exit=1),
    Case("py1-old", "py1", old=True, exit=1),
    Case("rmcp-restart", "rmcp", restart=True, race=True),
)


def normal(text, case, world):
    """The transcript without what differs from run to run."""
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text).replace(str(world.folder), "FOLDER")
    text = re.sub(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "UUID", text)
    text = re.sub(r"\b[0-9a-f]{32}\b", "HEX", text)
    text = re.sub(r"\b\d+(\.\d+)? ms\b", "N ms", text)
    text = re.sub(r"requests in \d+\.\d s", "requests in N s", text)
    text = re.sub(r"connections within \d+ s\b", "connections within N s", text)
    text = re.sub(r'"id":\d+', '"id":N', text)
    if case.race:
        text = re.sub(r"\? unknown +Events have ids; .*?\n\n", "", text, flags=re.S)
        text = re.sub(r"✓ ok +Events have ids, .*?\n", "", text)
        text = re.sub(r"\d+ unknown, \d+ ok: \d+ requests", "N unknown, N ok: N requests", text)
    # How often is asked whether a restarted server is back depends on how long it takes.
    return re.sub(r"\b\d+ requests", "N requests", text) if case.restart else text


def play(case, relatch):
    """The transcript and what is wrong with it."""
    peer = (OLD_SERVERS if case.old else SERVERS)[case.server]
    if not peer.built():
        return case, None, ["its server is not installed (tests/interop/setup.sh)"]
    world = World(peer, CLIENTS["ts1"], "http", HERE.parent / "out" / f"doctor-{case.name}", direct=True, relatch=relatch)
    wrong = []
    try:
        command, extra = peer.start(world.port, world.ledger, 1, False)
        world.server = world.spawn("server", [*command, *case.flags], extra)
        world.until(world.listening, 20, f"the server {peer.name} does not listen on {world.port}")
        again = []
        if case.restart:
            # What a supervisor does, as a command: kill, wait a moment, start.
            script = world.folder / "restart.sh"
            start = " ".join(shlex.quote(part) for part in [*command, *case.flags])
            script.write_text(f"kill -9 {world.server.pid}\nsleep 0.5\n{start} >/dev/null 2>&1 </dev/null &\n")
            again = ["--restart", f"sh {script}"]
        if case.front:
            world.start_keeper()
            world.upstream = f"http://127.0.0.1:{world.keeper_port}/up/mcp"
        said = run(world, relatch, again)
        if said.returncode != case.exit:
            wrong.append(f"exit {said.returncode} instead of {case.exit}: {said.stderr.strip()[:300]}")
        if said.stderr.strip():
            wrong.append(f"words on stderr: {said.stderr.strip()[:300]}")
        if world.entries() and any("key" in entry for entry in world.entries()):
            wrong.append("a tool was called")
        if case.name == "py2":
            wrong += same_as_json(world, relatch, said.stdout)
        return case, normal(said.stdout, case, world), wrong
    except Missed as missed:
        return case, None, [*wrong, str(missed), *world.transcript()]
    finally:
        world.close()


def run(world, relatch, more):
    command = [relatch, "doctor", world.upstream, *more]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=world.environment(), stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Missed(f"relatch doctor did not end within {SECONDS} s") from None


def same_as_json(world, relatch, text):
    """The JSON has the same findings as the words."""
    report = json.loads(run(world, relatch, ["--json"]).stdout)
    counts = report["counts"]
    summary = f"{counts['wrong']} wrong, {counts['note']} note{'' if counts['note'] == 1 else 's'}, {counts['unknown']} unknown, {counts['ok']} ok"
    wrong = [] if summary in text else [f"the JSON counts {summary}, the words don't"]
    plain = lambda words: re.sub(r"\d+", "N", " ".join(words.split()))
    wrong += [f"only in the JSON: {f['code']}" for f in report["findings"] if plain(f["said"]) not in plain(text)]
    if report["schema"] != 1 or report["ok"] is not True:
        wrong.append("the JSON does not say that the server passes")
    return wrong


def judge(case, said, wrong, accept):
    kept = HERE / f"{case.name}.txt"
    if said is not None:
        before = kept.read_text() if kept.exists() else ""
        if accept and not wrong:
            kept.write_text(said)
        elif said != before:
            wrong = [*wrong, *difflib.unified_diff(before.splitlines(), said.splitlines(), "kept", "said", lineterm="")]
    print(f"{'passed' if not wrong else 'FAILED'}  {case.name}", flush=True)
    for line in wrong:
        print(f"    {line}")
    return not wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="A,B", help=", ".join(case.name for case in CASES))
    parser.add_argument("--accept", action="store_true", help="write the transcripts anew")
    parser.add_argument("--jobs", type=int, default=5, help="servers at once")
    chosen = parser.parse_args()
    relatch = relatch_path()
    if not relatch:
        parser.error("set RELATCH to the program")
    names = chosen.only.split(",") if chosen.only else [case.name for case in CASES]
    cases = [case for case in CASES if case.name in names]
    if len(cases) != len(names):
        parser.error("no such case")
    with ThreadPoolExecutor(chosen.jobs) as pool:
        results = [judge(*played, chosen.accept) for played in pool.map(lambda case: play(case, relatch), cases)]
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
