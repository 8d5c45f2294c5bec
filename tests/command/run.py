#!/usr/bin/env python3
"""Servers that are commands, behind `relatch stdio -- CMD`: real SDK servers and clients, processes that are really killed.

`RELATCH=target/debug/relatch python3 tests/command/run.py`. The peers are those of tests/interop, which
tests/interop/setup.sh installs; servers that behave badly are a few lines of Python here. Every wait has a deadline.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "interop")]

from harness.peers import CLIENTS, EVERYTHING, NODE, SERVERS, relatch_path
from harness.world import Link, Missed, World

OUT = HERE / "out"

# A server of a few lines; what it does badly is said by its first argument.
ODD = r"""
import json, os, signal, subprocess, sys, time
how = sys.argv[1]
def say(m): sys.stdout.write(json.dumps(m) + "\n"); sys.stdout.flush()
if how == "exits": sys.stderr.write("no such account\n"); sys.exit(3)
if how == "silent": time.sleep(600)
if how == "garbage": print("Server starting ..."); print("ready on stdio"); sys.stdout.flush()
if how == "only-garbage":
    print("usage: server --port N"); sys.stdout.flush(); time.sleep(600)
if how == "floods-stderr":
    for n in range(20000): sys.stderr.write("x" * 200 + "\n")
child = subprocess.Popen(["sleep", "600"]) if how == "has-children" else None
if child: open(sys.argv[2], "a").write(f"{os.getpid()} {child.pid}\n")
if how == "deaf": signal.signal(signal.SIGTERM, signal.SIG_IGN)
calls = 0
for line in sys.stdin:
    m = json.loads(line)
    if m.get("method") == "initialize":
        say({"jsonrpc": "2.0", "id": m["id"], "result": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": how, "version": "1"}}})
        if how == "dies-young": sys.exit(1)
    elif m.get("method") == "tools/call":
        calls += 1
        say({"jsonrpc": "2.0", "id": m["id"], "result": {"content": [{"type": "text", "text": f"{os.getpid()}"}]}})
    elif m.get("method") == "tools/list":
        say({"jsonrpc": "2.0", "id": m["id"], "result": {"tools": [{"name": "pid", "inputSchema": {"type": "object"}}]}})
    elif "id" in m and "method" in m:
        say({"jsonrpc": "2.0", "id": m["id"], "result": {}})
if how == "deaf": time.sleep(600)
"""


def expect(holds, what):
    if not holds:
        raise Missed(what)


def alive(pid):
    """Whether a thread of a process is left: one of a process that dies may still read, when its first is a corpse already."""
    try:
        threads = [task.joinpath("stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
        return any(stat.rsplit(")", 1)[1].split()[0] not in "ZX" for stat in threads)
    except ProcessLookupError:
        return True
    except OSError:
        return Path(f"/proc/{pid}").exists()


class Stage:
    """A client, relatch in front of a command, and a folder."""

    def __init__(self, name, client, command, env=None):
        self.world = World(SERVERS["ts1"], CLIENTS[client], "stdio", OUT / name, relatch=relatch_path())
        self.world.deadline = time.monotonic() + 90
        os.environ.update(env or {})
        self.env = env or {}
        self.link = Link(self.world, "client")
        self.command = [relatch_path(), "stdio", "--name", "it", "--", *map(str, command)]

    def connect(self, seconds=20):
        return self.link.ask("connect", command=self.command, seconds=seconds)

    def relatch(self, *line):
        done = subprocess.run([relatch_path(), *line], env=self.world.environment(), capture_output=True, text=True, timeout=20)
        return done.stdout + done.stderr

    def kill(self, pid):
        """Kills a server and waits for its death: one that dies may have read what it will never do."""
        os.kill(pid, signal.SIGKILL)
        self.world.until(lambda: not alive(pid), 10, f"{pid} to be dead")

    def keeper(self):
        """The process id of the keeper."""
        return json.loads(self.relatch("status", "--json"))["keepers"][0]["pid"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in self.env:
            os.environ.pop(name, None)
        self.world.close()


def contract(server, ledger):
    return [*SERVERS[server].command, "--port", "0", "--ledger", str(ledger), "--variant", "1"]


def server_pid(stage, ledger, key):
    stage.link.call("count", key=key)
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    return next(line["pid"] for line in lines if line.get("key") == key)


def a_killed_server_is_not_noticed(server, client):
    with Stage(f"killed-{server}-{client}", client, [], {"PEER_STDIO": "1"}) as stage:
        ledger = stage.world.ledger
        stage.command += contract(server, ledger)
        stage.connect()
        pids = []
        for n in range(3):
            pids.append(server_pid(stage, ledger, f"before-{n}"))
            stage.kill(pids[-1])
            expect("after" in stage.link.call("echo", text=f"after-{n}"), "the echo is none")
        expect(len(set(pids)) == 3, f"it is not another process each time: {pids}")
        # A call that was under way may have run, and is not run again.
        n = stage.link.send("call", tool="slow", args={"key": "under-way", "ms": 30000, "steps": 0})
        stage.world.until(lambda: "under-way" in ledger.read_text(), 10, "the call to arrive")
        pid = next(json.loads(line)["pid"] for line in ledger.read_text().splitlines() if "under-way" in line)
        os.kill(pid, signal.SIGKILL)
        failed = stage.link.answer(n, 10)
        expect(not failed["ok"] and "may have run" in failed["error"]["message"], f"{failed}")
        stage.link.call("echo", text="and on")
        expect(ledger.read_text().count("under-way") == 1, "a call ran twice")
        log = stage.relatch("log", "it")
        expect("relatched" in log and "signal 9" in log, f"the journal says: {log}")


def both_ways(server, client):
    with Stage(f"both-ways-{server}-{client}", client, [], {"PEER_STDIO": "1"}) as stage:
        stage.command += contract(server, stage.world.ledger)
        stage.connect()
        n = stage.link.send("call", tool="slow", args={"key": "s", "ms": 300, "steps": 3}, progress=True)
        stage.link.good(n)
        expect(len(stage.link.seen("progress", n=n)) >= 2, "progress does not come through")
        expect("sampled: hello" in stage.link.call("sample", prompt="hello"), "sampling does not come through")
        expect("relatch" in stage.link.call("elicit", message="who?"), "elicitation does not come through")
        stage.kill(server_pid(stage, stage.world.ledger, "k"))
        expect("sampled: again" in stage.link.call("sample", prompt="again"), "sampling does not come through after a restart")


def everything_is_served(client):
    with Stage(f"everything-{client}", client, [NODE, EVERYTHING, "stdio"]) as stage:
        stage.connect()
        expect("hi" in stage.link.call("echo", message="hi"), "no echo")
        expect(len(stage.link.ask("list_tools")["tools"]) > 5, "few tools")
        expect(stage.link.ask("list_resources")["resources"], "no resources")
        status = stage.relatch("status", "it")
        expect("✓ healthy" in status and "server-everything/dist/index.js stdio" in status and "mcp-servers/everything" in status, status)


def odd(stage, how, *more):
    script = stage.world.folder / "odd.py"
    script.write_text(ODD)
    stage.command += [sys.executable, str(script), how, *map(str, more)]


def refused(how, words, seconds, command=None):
    with Stage(f"odd-{how}", "ts1", command or []) as stage:
        if command is None:
            odd(stage, how)
        n = stage.link.send("connect", command=stage.command)
        failed = stage.link.answer(n, seconds)
        text = json.dumps(failed, ensure_ascii=False)
        expect(not failed["ok"], "it connected")
        for part in words:
            expect(part in text, f"`{part}` is not said: {text}")


def what_can_not_start_says_why():
    refused("missing", ["`no-such-command` is not on `PATH`", "did not come up within 3.0 s"], 12, ["no-such-command", "--x"])
    refused("exits", ["exited with status 3; on stderr it had said `no such account`", "Run it by hand"], 12)


def one_that_says_nothing_is_given_up():
    refused("silent", ["does not answer `initialize`"], 28)


def noise_on_stdout_and_stderr_is_passed_over():
    for how in ("garbage", "floods-stderr"):
        with Stage(f"odd-{how}", "py1", []) as stage:
            odd(stage, how)
            stage.connect()
            stage.link.call("pid")


def one_that_dies_young_rests():
    with Stage("odd-dies-young", "ts1", []) as stage:
        odd(stage, "dies-young")
        stage.connect()
        codes = []
        for _ in range(4):
            failed = stage.link.answer(stage.link.send("call", tool="pid", args={}), 60)
            expect(not failed["ok"] and failed["error"]["data"]["relatch"]["executed"] == "no", json.dumps(failed))
            codes.append(failed["error"]["data"]["relatch"]["code"])
        expect(codes[0] == "command-failed" and codes[-1] == "session-flapping", f"{codes}")
        status = stage.relatch("status", "it")
        expect("New sessions die as soon as they are opened" in status, status)


def nothing_outlives_relatch():
    for how, ending in (("has-children", signal.SIGKILL), ("has-children", signal.SIGTERM), ("deaf", signal.SIGTERM)):
        with Stage(f"orphans-{how}-{ending.name}", "ts1", []) as stage:
            born = stage.world.folder / "born"
            odd(stage, how, born)
            stage.connect()
            pids = [int(stage.link.call("pid"))]
            if born.exists():
                pids += [int(pid) for pid in born.read_text().split()]
            keeper = stage.keeper()
            os.kill(keeper, ending)
            stage.world.until(lambda: not any(map(alive, pids)), 10, f"{pids} to end after {ending.name}")
            expect(not alive(keeper), "the keeper lives on")


def a_client_that_leaves_takes_its_server_along():
    with Stage("leaves", "ts1", []) as stage:
        odd(stage, "plain")
        stage.connect()
        pid = int(stage.link.call("pid"))
        stage.link.ask("close")
        stage.world.until(lambda: not alive(pid), 10, "the server to end with its client")


def reconnect_starts_another_process():
    with Stage("reconnect", "ts1", []) as stage:
        odd(stage, "plain")
        stage.connect()
        first = stage.link.call("pid")
        stage.relatch("reconnect", "it")
        stage.world.until(lambda: stage.link.call("pid") != first, 10, "another process")
        stage.world.until(lambda: not alive(int(first)), 10, "the first process to end")


def a_command_of_the_file_is_served_to_many():
    with Stage("served", "ts1", []) as stage:
        script = stage.world.folder / "odd.py"
        script.write_text(ODD)
        config = stage.world.folder / "relatch.toml"
        stage.relatch("add", "odd", "--config", str(config), "--", sys.executable, str(script), "plain")
        expect("command = [" in config.read_text(), config.read_text())
        line = [relatch_path(), "serve", "--config", str(config), "--listen", "127.0.0.1:0", "--no-token", "--state-dir", str(stage.world.folder / "keeper")]
        keeper = stage.world.spawn("keeper", line, stdout=subprocess.PIPE)
        url = keeper.stdout.readline().decode().split()[1]
        other = Link(stage.world, "other")
        pids = set()
        for link in (stage.link, other):
            link.ask("connect", url=url)
            pids.add(int(link.call("pid")))
        expect(len(pids) == 2, f"two clients share a process: {pids}")
        first = int(stage.link.call("pid"))
        stage.kill(first)
        expect(int(stage.link.call("pid")) not in pids, "the killed process answers")
        expect(int(other.call("pid")) in pids - {first}, "the other client has lost its process")
        keeper.terminate()
        stage.world.until(lambda: not any(map(alive, pids)), 10, "the processes to end with their keeper")


def an_adopted_program_is_kept_alive_and_released():
    with Stage("adopted", "ts1", []) as stage:
        odd(stage, "plain")
        program = stage.command[stage.command.index("--") + 1:]
        home = stage.world.folder / "home"
        file = home / ".cursor/mcp.json"
        file.parent.mkdir(parents=True)
        before = json.dumps({"mcpServers": {"Odd One": {"command": program[0], "args": program[1:], "env": {"A": "b"}}}}, indent="\t") + "\n"
        file.write_text(before)
        environment = stage.world.environment() | {"HOME": str(home)}
        for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            environment.pop(name, None)

        def relatch(*line):
            done = subprocess.run([relatch_path(), *line], env=environment, cwd=home, capture_output=True, text=True, timeout=20)
            expect(done.returncode == 0, f"{line}: {done.stdout}{done.stderr}")

        relatch("adopt", "--programs", "--yes")
        entry = json.loads(file.read_text())["mcpServers"]["Odd One"]
        stage.command = [entry["command"], *entry["args"]]
        stage.connect()
        first = int(stage.link.call("pid"))
        stage.kill(first)
        expect(int(stage.link.call("pid")) != first, "the killed process answers")
        relatch("release", "--yes")
        expect(file.read_text() == before, f"released: {file.read_text()}")


def main():
    if not relatch_path():
        sys.exit("command: set RELATCH=/path/to/relatch")
    shutil.rmtree(OUT, ignore_errors=True)
    cases = [
        *[(a_killed_server_is_not_noticed, pair) for pair in (("ts1", "ts1"), ("py1", "py1"), ("fastmcp", "rmcp"), ("ts1", "py2"), ("py1", "ts2"))],
        (both_ways, ("ts1", "ts1")),
        (both_ways, ("py1", "ts1")),
        (everything_is_served, ("py1",)),
        *[(case, ()) for case in (
            what_can_not_start_says_why, one_that_says_nothing_is_given_up, noise_on_stdout_and_stderr_is_passed_over, one_that_dies_young_rests,
            a_command_of_the_file_is_served_to_many, an_adopted_program_is_kept_alive_and_released,
            nothing_outlives_relatch, a_client_that_leaves_takes_its_server_along, reconnect_starts_another_process,
        )],
    ]
    only = sys.argv[1:]
    failed = passed = 0
    for case, arguments in cases:
        name = " ".join([case.__name__.replace("_", " "), *arguments])
        if only and not any(word in name for word in only):
            continue
        began = time.monotonic()
        try:
            case(*arguments)
            passed += 1
            print(f"passed  {name} ({time.monotonic() - began:.1f} s)", flush=True)
        except Exception as fault:
            failed += 1
            print(f"FAILED  {name}: {fault}", flush=True)
            if not isinstance(fault, Missed):
                traceback.print_exc()
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
