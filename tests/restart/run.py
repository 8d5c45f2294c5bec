#!/usr/bin/env python3
"""Announced restarts of real SDK servers under a client that calls all the time: nothing fails, nothing runs twice.

`RELATCH=target/debug/relatch python3 tests/restart/run.py [--ci] [WORD…]`, WORD being part of a case's name; with `--ci` each
server is restarted twice and not five times. The peers are those of
tests/interop, which tests/interop/setup.sh installs. Servers at an address are paused, killed with SIGKILL, started and
resumed; commands are started anew by `relatch restart`. Every wait has a deadline.
"""

import json
import shutil
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "interop"), str(HERE)]

from deploy import a_deploy_by_the_script_of_the_documents, a_restart_by_the_unit_of_the_documents
from harness.peers import CLIENTS, SERVERS, relatch_path
from harness.world import Link, Missed, World

OUT = HERE / "out"
ROUNDS = 2 if "--ci" in sys.argv else 5
# Calls that are under way at a time.
AT_ONCE = 3


def expect(holds, what):
    if not holds:
        raise Missed(what)


class Stage:
    """A client that calls all the time, relatch, and a server."""

    def __init__(self, name, server, client="ts1"):
        self.world = World(SERVERS[server], CLIENTS[client], "http", OUT / name, relatch=relatch_path())
        self.world.deadline = time.monotonic() + 150
        self.link = None
        self.calls, self.going, self.caller = [], threading.Event(), None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.going.clear()
        self.world.close()

    def at_an_address(self):
        self.world.start_server()
        self.link = self.world.connect("client")

    def a_command(self, command):
        self.link = Link(self.world, "client")
        self.world.clients.append(self.link)
        line = [relatch_path(), "stdio", "--name", "up", "--", *map(str, command)]
        self.link.ask("connect", command=line, seconds=30)

    def relatch(self, *line):
        done = subprocess.run([relatch_path(), *line], env=self.world.environment(), capture_output=True, text=True, timeout=90)
        self.world.note(f"relatch {' '.join(line)}: {done.returncode} {done.stdout.strip()} {done.stderr.strip()}")
        return done.returncode, done.stdout + done.stderr

    def does(self, *line, code=0):
        got, words = self.relatch(*line)
        expect(got == code, f"`relatch {' '.join(line)}` ended with {got}: {words}")
        return words

    # --- the calls ----------------------------------------------------------------------------------------------------

    def call(self, tool="count", **args):
        key = f"k{len(self.calls)}"
        n = self.link.send("call", tool=tool, args={"key": key, **args})
        self.calls.append((key, n, time.monotonic()))
        return n

    def calls_begin(self):
        self.going.set()
        self.caller = threading.Thread(target=self._call_on, daemon=True)
        self.caller.start()

    def _call_on(self):
        under_way = []
        while self.going.is_set():
            while len(under_way) < AT_ONCE:
                # Some take their time, so that something runs when a restart is announced.
                slow = len(self.calls) % 3 == 0
                under_way.append(self.call("slow", ms=80) if slow else self.call())
            with self.link.news:
                self.link.news.wait(0.5)
                under_way = [n for n in under_way if n not in self.link.answers]

    def some_are_answered(self, how_many=8):
        """The calls go on: so many more have their answers."""
        answered = lambda: sum(n in self.link.answers for _, n, _ in list(self.calls))
        before = answered()
        self.world.until(lambda: answered() >= before + how_many, 30, f"{how_many} more calls to be answered")

    def judge(self):
        """Every call has its answer, and ran once. How many there were, and the longest wait."""
        self.going.clear()
        self.caller.join()
        for key, n, _ in self.calls:
            line = self.link.answer(n, 30)
            expect(line["ok"] and not line["result"].get("isError"), f"{key} failed: {json.dumps(line)[:500]}")
        runs = {}
        for entry in self.world.entries():
            if "key" in entry:
                runs[entry["key"]] = runs.get(entry["key"], 0) + 1
        wrong = {key: runs.get(key, 0) for key, _, _ in self.calls if runs.get(key, 0) != 1}
        expect(not wrong, f"calls that did not run once: {wrong}")
        longest = max(self.link.at[n] - sent for _, n, sent in self.calls)
        return f"{len(self.calls)} calls, each answered and run once; longest wait {longest:.2f} s"

    def servers(self):
        """The processes of the command that run."""
        found = []
        for pid in self.world.marked():
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(self.world.ledger).encode() in line and not any(part.endswith(b"relatch") for part in line[:1]):
                found.append(pid)
        return found

    def totals(self):
        return json.loads(self.relatch("status", "--json")[1])["keepers"][0]["servers"][0]


def a_server_is_killed_between_pause_and_resume(server, client):
    with Stage(f"announced-{server}-{client}", server, client) as stage:
        stage.at_an_address()
        stage.link.ask("list_tools")
        stage.calls_begin()
        for n in range(ROUNDS):
            stage.some_are_answered()
            stage.does("pause", "up", "--drain", "10s")
            before = len(stage.world.entries())
            stage.world.kill_server()
            expect(len(stage.world.entries()) == before, "something reached the server in the pause")
            stage.world.start_server(variant=1 + (n + 1) % 2)
            stage.does("resume", "up")
            stage.link.event("list_changed", 20, kind="tools") if n == 0 else None
        stage.some_are_answered()
        words = stage.judge()
        totals = stage.totals()
        expect(totals["totals"]["given_back"] == 0 and totals["totals"]["relatched"] >= ROUNDS, json.dumps(totals["totals"]))
        return words


def contract(stage, server):
    return [*SERVERS[server].command, "--port", "0", "--ledger", str(stage.world.ledger)]


# Starts the server in its own place, unless the file says that it is broken.
WRAPPER = """import os, sys
if os.path.exists(sys.argv[1]):
    sys.exit("SyntaxError: an edit that went wrong")
os.environ["PEER_STDIO"] = "1"
os.execv(sys.argv[2], sys.argv[2:])
"""


def wrapped(stage, server):
    script = stage.world.folder / "start.py"
    script.write_text(WRAPPER)
    return [sys.executable, script, stage.world.folder / "broken", *contract(stage, server)]


def a_command_is_started_anew_under_load(server, client):
    with Stage(f"restart-{server}-{client}", server, client) as stage:
        stage.a_command(wrapped(stage, server))
        stage.calls_begin()
        for _ in range(ROUNDS):
            stage.some_are_answered()
            words = stage.does("restart", "up", "--drain", "10s")
            expect("1 session in a new process" in words, words)
        stage.some_are_answered()
        words = stage.judge()
        pids = {entry["pid"] for entry in stage.world.entries()}
        expect(len(pids) == ROUNDS + 1, f"calls ran in {len(pids)} processes")
        stage.world.until(lambda: len(stage.servers()) == 1, 10, f"old processes to end: {stage.servers()}")
        return words


def a_command_is_stopped_first_under_load(server):
    with Stage(f"stop-first-{server}", server) as stage:
        stage.a_command(wrapped(stage, server))
        stage.calls_begin()
        for _ in range(2):
            stage.some_are_answered()
            stage.does("restart", "up", "--stop-first")
        stage.some_are_answered()
        return stage.judge()


def a_command_that_is_broken_leaves_the_old_one_in_use(server):
    with Stage(f"broken-{server}", server) as stage:
        stage.a_command(wrapped(stage, server))
        stage.calls_begin()
        stage.some_are_answered()
        broken = stage.world.folder / "broken"
        broken.touch()
        words = stage.does("restart", "up", code=1)
        expect("1 session in the old process, which stays in use" in words and "SyntaxError: an edit that went wrong" in words, words)
        stage.some_are_answered()
        status = stage.does("status", "up")
        expect("✓ healthy" in status and "the old one goes on" in status, status)
        expect(len({entry["pid"] for entry in stage.world.entries()}) == 1, "calls ran in another process")
        broken.unlink()
        stage.does("restart", "up")
        expect("the old one goes on" not in stage.does("status", "up"), "the trouble stands though it is over")
        stage.some_are_answered()
        return stage.judge()


def a_pause_that_nobody_ends_runs_out(server):
    with Stage(f"runs-out-{server}", server) as stage:
        stage.at_an_address()
        stage.calls_begin()
        stage.some_are_answered()
        stage.does("pause", "up", "--drain", "2s", "--for", "4s")
        stage.world.kill_server()
        stage.world.start_server()
        stage.some_are_answered()
        words = stage.judge()
        log = stage.relatch("log", "up")[1]
        expect("by itself: nobody resumed it in time" in log, log)
        return words


def a_call_that_outlasts_the_drain_is_said_to_run_and_goes_on(server):
    with Stage(f"drain-{server}", server) as stage:
        stage.at_an_address()
        n = stage.link.send("call", tool="slow", args={"key": "long", "ms": 4000, "steps": 0})
        stage.world.until(lambda: stage.world.executions("long"), 10, "the call to arrive")
        words = stage.does("pause", "up", "--drain", "300ms", code=1)
        expect("1 call still runs after" in words, words)
        later = stage.link.send("call", tool="count", args={"key": "later"})
        expect("took 4000 ms" in json.dumps(stage.link.answer(n)), "the call that ran has another answer")
        words = stage.does("pause", "up")
        expect("no call runs" in words, words)
        expect(not stage.world.executions("later"), "a call went out in the pause")
        stage.does("resume", "up")
        stage.link.good(later)
        expect(len(stage.world.executions("later")) == 1 and len(stage.world.executions("long")) == 1, "not once each")
        return "answered after the drain's end"


def main():
    if not relatch_path():
        sys.exit("restart: set RELATCH=/path/to/relatch")
    shutil.rmtree(OUT, ignore_errors=True)
    cases = [
        *[(a_server_is_killed_between_pause_and_resume, pair) for pair in (("ts1", "ts1"), ("py1", "py1"), ("fastmcp", "ts1"))],
        *[(a_command_is_started_anew_under_load, pair) for pair in (("ts1", "py1"), ("py1", "ts1"), ("fastmcp", "ts1"))],
        (a_command_is_stopped_first_under_load, ("ts1",)),
        (a_command_that_is_broken_leaves_the_old_one_in_use, ("py1",)),
        (a_pause_that_nobody_ends_runs_out, ("ts1",)),
        (a_call_that_outlasts_the_drain_is_said_to_run_and_goes_on, ("ts1",)),
        (a_deploy_by_the_script_of_the_documents, (Stage,)),
        (a_restart_by_the_unit_of_the_documents, (Stage,)),
    ]
    only = [word for word in sys.argv[1:] if word != "--ci"]
    failed = passed = 0
    for case, arguments in cases:
        name = " ".join([case.__name__.replace("_", " "), *[part for part in arguments if isinstance(part, str)]])
        if only and not any(word in name for word in only):
            continue
        began = time.monotonic()
        try:
            words = case(*arguments)
            passed += 1
            print(f"passed  {name} ({time.monotonic() - began:.1f} s): {words}", flush=True)
        except Exception as fault:
            failed += 1
            print(f"FAILED  {name}: {fault}", flush=True)
            if not isinstance(fault, Missed):
                traceback.print_exc()
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
