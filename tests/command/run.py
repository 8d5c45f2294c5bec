#!/usr/bin/env python3
"""Servers that are commands, behind `relatch stdio -- CMD` and `relatch serve`: real SDK servers and clients, processes that are really killed.

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
import urllib.request
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
    print("usage: server --port N"); sys.stdout.flush()
    sys.stderr.write("starting\n"); sys.stderr.flush(); time.sleep(600)
if how == "floods-stderr":
    for n in range(20000): sys.stderr.write("x" * 200 + "\n")
if how == "forks-away":
    if os.fork(): os._exit(0)
    os.setsid()
    open(sys.argv[2], "a").write(f"{os.getpid()}\n")
    time.sleep(600)
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

# A server that keeps nothing per client. It writes down all that it hears, and says what it is told to.
SHARED = r"""
import json, os, sys, threading, time
heard, lock = open(sys.argv[1], "a"), threading.Lock()
def say(m):
    with lock: sys.stdout.write(json.dumps(m) + "\n"); sys.stdout.flush()
def done(id, text): say({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": text}]}})
def note(method, **params): say({"jsonrpc": "2.0", "method": method, "params": params})
barrier = threading.Barrier(2)
def call(m):
    params = m["params"]; args = params.get("arguments") or {}; token = (params.get("_meta") or {}).get("progressToken")
    if params["name"] == "together":
        # Both clients' calls are here before either is answered.
        barrier.wait(20)
        for step in range(3): note("notifications/progress", progressToken=token, progress=step, message=args["key"])
        barrier.wait(20)
    if params["name"] == "say": note(args["method"], **args["params"])
    if params["name"] == "ask": say({"jsonrpc": "2.0", "id": "mine", "method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}})
    if params["name"] == "wait": return
    if params["name"] == "env": return done(m["id"], json.dumps({"env": dict(os.environ), "cwd": os.getcwd()}))
    done(m["id"], args.get("key", str(os.getpid())))
for line in sys.stdin:
    m = json.loads(line)
    heard.write(json.dumps({"pid": os.getpid(), **m}) + "\n"); heard.flush()
    if m.get("method") == "initialize":
        say({"jsonrpc": "2.0", "id": m["id"], "result": {"protocolVersion": m["params"]["protocolVersion"], "capabilities": {"tools": {}, "logging": {}, "resources": {"subscribe": True}}, "serverInfo": {"name": "shared", "version": "1"}}})
        sys.stderr.write("listening\x1b[32m on stdin\n"); sys.stderr.flush()
    elif m.get("method") == "tools/call": threading.Thread(target=call, args=(m,), daemon=True).start()
    elif "id" in m and "method" in m: say({"jsonrpc": "2.0", "id": m["id"], "result": {}})
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

    def serve(self, toml, *more):
        """Starts `relatch serve` with this file; where it serves, without the path."""
        self.config = self.world.folder / "relatch.toml"
        self.config.write_text(toml)
        line = [relatch_path(), "serve", "--config", str(self.config), "--listen", "127.0.0.1:0", "--no-token", "--state-dir", str(self.world.folder / "keeper"), *more]
        self.serving = self.world.spawn("keeper", line, stdout=subprocess.PIPE)
        return self.serving.stdout.readline().decode().split()[1].split("/it/")[0]

    def shared(self, *more):
        """`relatch serve` with a shared server, and what that server hears."""
        script = self.world.folder / "shared.py"
        script.write_text(SHARED)
        self.hears = self.world.folder / "hears"
        return self.serve(f"[server.it]\ncommand = {json.dumps([sys.executable, str(script), str(self.hears)])}\nshared = true\n", *more)

    def heard(self, method=None):
        lines = [json.loads(line) for line in self.hears.read_text().splitlines()] if self.hears.exists() else []
        return [line for line in lines if method is None or line.get("method") == method]

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


class Raw:
    """A client of a few lines, whose ids and tokens are what they are told to be."""

    def __init__(self, url, revision="2025-06-18", capabilities=None):
        self.url, self.session, self.revision = url, None, revision
        hello = {"protocolVersion": revision, "capabilities": capabilities or {}, "clientInfo": {"name": "raw", "version": "1"}}
        self.hello = self.ask("initialize", hello, id=0)[-1]["result"]
        self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def open(self, method, body=None, accept="application/json, text/event-stream"):
        headers = {"Content-Type": "application/json", "Accept": accept}
        if self.session:
            headers |= {"Mcp-Session-Id": self.session, "MCP-Protocol-Version": self.revision}
        return urllib.request.urlopen(urllib.request.Request(self.url, body and json.dumps(body).encode(), headers, method=method), timeout=30)

    def post(self, body):
        """Every message of the answer."""
        with self.open("POST", body) as answer:
            self.session = self.session or answer.headers.get("Mcp-Session-Id")
            text = answer.read().decode()
        if answer.headers.get("Content-Type", "").startswith("text/event-stream"):
            return [json.loads(line[5:]) for line in text.splitlines() if line.startswith("data:") and line[5:].strip()]
        return [json.loads(text)] if text else []

    def ask(self, method, params, id=1):
        return self.post({"jsonrpc": "2.0", "id": id, "method": method, "params": params})

    def call(self, tool, id=1, token=None, **arguments):
        meta = {"_meta": {"progressToken": token}} if token is not None else {}
        return self.ask("tools/call", {"name": tool, "arguments": arguments, **meta}, id)

    def text(self, tool, **arguments):
        answer = self.call(tool, **arguments)[-1]
        if "result" not in answer:
            raise Missed(f"{tool}: {answer}")
        return answer["result"]["content"][0]["text"]

    def listen(self):
        """What comes by the standing stream, from now on."""
        heard, stream = [], self.open("GET", accept="text/event-stream")

        def read():
            try:
                for line in stream:
                    if line.startswith(b"data:") and line[5:].strip():
                        heard.append(json.loads(line[5:]))
            except OSError:
                pass

        threading.Thread(target=read, daemon=True).start()
        return heard


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


def refused(how, words, seconds, command=None, more=()):
    """What can't be a server says so to its client, in these words, and leaves nothing behind."""
    with Stage(f"odd-{how}", "ts1", command or []) as stage:
        if command is None:
            odd(stage, how, *more)
        n = stage.link.send("connect", command=stage.command)
        failed = stage.link.answer(n, seconds)
        text = json.dumps(failed, ensure_ascii=False)
        expect(not failed["ok"], "it connected")
        for part in words:
            expect(part in text, f"`{part}` is not said: {text}")
        stage.link.ask("close")
        left = lambda: [pid for pid in stage.world.marked() if "odd.py" in (Path(f"/proc/{pid}/cmdline").read_text() if alive(pid) else "")]
        stage.world.until(lambda: not left(), 15, "every process of it to be gone")


def what_can_not_start_says_why():
    refused("missing", ["`no-such-command` is not on `PATH`", "did not come up within 3.0 s"], 12, ["no-such-command", "--x"])
    refused("exits", ["exited with status 3; on stderr it had said `no such account`", "Run it by hand"], 12)


def one_that_says_nothing_of_use_is_given_up():
    """Both at once: each has 20 s."""
    faults = []

    def one(how, words):
        try:
            refused(how, words, 28)
        except Exception as fault:
            faults.append(f"{how}: {fault}")

    threads = [
        threading.Thread(target=one, args=pair)
        for pair in (
            ("silent", ["runs and does not answer `initialize` within 20 s"]),
            ("only-garbage", ["does not answer `initialize` within 20 s", "on stderr it has said `starting`", "on stdout it had said `usage: server --port N`, which is no message"]),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect(not faults, "; ".join(faults))


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
            stage.world.until(lambda: not alive(keeper), 5, "the keeper to end")


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


def two_real_clients_share_a_process_and_nothing_crosses(server, first, second):
    with Stage(f"shared-{server}", first, [], {"PEER_STDIO": "1"}) as stage:
        ledger = stage.world.ledger
        base = stage.serve(f"[server.it]\ncommand = {json.dumps(list(map(str, contract(server, ledger))))}\nshared = true\n")
        links = [stage.link, Link(stage.world, "other", CLIENTS[second])]
        for link in links:
            link.ask("connect", url=f"{base}/it/mcp")
        pid = server_pid(stage, ledger, "pid")
        # Both number their requests from the same number on, and want progress under the same tokens.
        asked = [(link, name, link.send("call", tool="slow", args={"key": name, "ms": 600, "steps": 4}, progress=True)) for name, link in zip("ab", links)]
        for link, name, n in asked:
            link.good(n)
            expect(len(link.seen("progress", n=n)) == 4, f"{name} hears of {len(link.seen('progress', n=n))} steps")
        texts = [(link, f"{name}-{n}", link.send("call", tool="echo", args={"text": f"{name}-{n}"})) for n in range(40) for name, link in zip("ab", links)]
        for link, text, n in texts:
            expect(text in json.dumps(link.good(n)), f"`{text}` has come back as {link.good(n)}")
        waits = [link.send("call", tool="sleep_cancellable", args={"key": f"sleep-{name}", "ms": 20000}) for name, link in zip("ab", links)]
        stage.world.until(lambda: all(f"sleep-{name}" in ledger.read_text() for name in "ab"), 10, "both calls to arrive")
        links[0].ask("cancel", of=waits[0])
        cancelled = lambda: [line["key"] for line in map(json.loads, ledger.read_text().splitlines()) if line.get("cancelled")]
        stage.world.until(cancelled, 10, "the call to be cancelled")
        uri = links[0].ask("list_resources")["resources"][0]["uri"]
        links[0].ask("subscribe", uri=uri)
        links[1].call("log", text="about b")
        links[1].call("emit")
        links[0].event("resource_updated")
        links[1].call("echo", text="and no more")
        expect(not links[1].seen("resource_updated"), "who has not subscribed hears of it")
        expect(not [e for link in links for e in link.seen("log")], "a log line has gone to a client")
        failed = links[0].answer(links[0].send("call", tool="sample", args={"prompt": "whose?"}))
        expect("sampled" not in json.dumps(failed) and not links[0].seen("sampling") and not links[1].seen("sampling"), f"{failed}")
        expect(cancelled() == ["sleep-a"], f"cancelled: {cancelled()}")
        stage.kill(pid)
        failed = links[1].answer(waits[1], 20)
        expect(not failed["ok"] and "may have run" in failed["error"]["message"], f"{failed}")
        links[0].call("count", key="after-a")
        links[1].call("count", key="after-b")
        pids = {line["pid"] for line in map(json.loads, ledger.read_text().splitlines()) if str(line.get("key")).startswith("after")}
        expect(len(pids) == 1 and pid not in pids, f"after {pid} there are {pids}")
        # What was subscribed to is subscribed to again.
        mark = links[0].mark()
        links[1].call("emit")
        links[0].event("resource_updated", since=mark)


def ids_and_tokens_that_are_the_same_do_not_meet():
    with Stage("shared-raw", "ts1", []) as stage:
        url = stage.shared() + "/it/mcp"
        clients = [Raw(url, capabilities={"sampling": {}, "roots": {}, "elicitation": {}}), Raw(url)]
        expect(len(stage.heard("initialize")) == 1, f"{len(stage.heard('initialize'))} handshakes reach the process")
        hello = stage.heard("initialize")[0]["params"]
        expect(hello["capabilities"] == {} and hello["clientInfo"]["name"] == "relatch", f"the process was told {hello}")
        for client in clients:
            expect(sorted(client.hello["capabilities"]) == ["resources", "tools"], f"the client was told {client.hello}")
        got = {}

        def call(name, client):
            got[name] = client.call("together", id=7, token="t", key=name)

        threads = [threading.Thread(target=call, args=pair) for pair in zip("ab", clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        for name in "ab":
            *steps, answer = got[name]
            expect([s["params"]["message"] for s in steps] == [name] * 3 and all(s["params"]["progressToken"] == "t" for s in steps), f"{name} heard {steps}")
            expect(answer["id"] == 7 and answer["result"]["content"][0]["text"] == name, f"{name} got {answer}")
        ids = [line["id"] for line in stage.heard() if "id" in line and "method" in line]
        expect(len(set(ids)) == len(ids), f"ids meet at the process: {ids}")

        # What is about one is for one, what is about all for all, and what nobody can tell for none.
        streams = [client.listen() for client in clients]
        clients[0].ask("resources/subscribe", {"uri": "a:/x"})
        clients[1].ask("resources/subscribe", {"uri": "a:/x"})
        clients[1].ask("resources/unsubscribe", {"uri": "a:/x"})
        expect(not stage.heard("resources/unsubscribe"), "what another one still wants was taken back")
        clients[1].call("say", method="notifications/resources/updated", params={"uri": "a:/x"})
        clients[1].call("say", method="notifications/message", params={"level": "info", "data": "about b"})
        clients[1].call("say", method="notifications/of/tomorrow", params={})
        clients[1].call("say", method="notifications/tools/list_changed", params={})
        both = lambda: all("notifications/tools/list_changed" in [m.get("method") for m in stream] for stream in streams)
        stage.world.until(both, 10, "both to hear that the tools have changed")
        expect([m["method"] for m in streams[0]] == ["notifications/resources/updated", "notifications/tools/list_changed"], f"a heard {streams[0]}")
        expect([m["method"] for m in streams[1]] == ["notifications/tools/list_changed"], f"b heard {streams[1]}")
        answer = clients[0].ask("logging/setLevel", {"level": "debug"})[-1]
        expect(answer["error"]["code"] == -32601 and "shared" in answer["error"]["message"], f"{answer}")

        # What the server asks has nobody to answer it.
        clients[0].call("ask")
        refused = stage.world.until(lambda: [line for line in stage.heard() if line.get("id") == "mine"], 10, "an answer to the server")
        expect(refused[0]["error"]["code"] == -32601 and "shared by several clients" in refused[0]["error"]["message"], f"{refused}")

        # A client that leaves takes back what is its own, and the process ends with the last.
        pid = int(clients[1].text("pid"))
        waiting = threading.Thread(target=lambda: clients[0].call("wait", id=9), daemon=True)
        waiting.start()
        stage.world.until(lambda: [line for line in stage.heard("tools/call") if line["params"]["name"] == "wait"], 10, "the call to arrive")
        clients[0].open("DELETE").close()
        stage.world.until(lambda: stage.heard("notifications/cancelled") and stage.heard("resources/unsubscribe"), 10, "the process to hear that a client has left")
        expect(int(clients[1].text("pid")) == pid, "another process answers")
        clients[1].open("DELETE").close()
        stage.world.until(lambda: not alive(pid), 10, "the process to end with its last session")
        expect(int(Raw(url).text("pid")) != pid, "a dead process answers")


def a_shared_process_that_ends_is_followed_by_one():
    with Stage("shared-killed", "ts1", []) as stage:
        base = stage.shared()
        clients = [Raw(f"{base}/it/mcp") for _ in range(8)]
        streams = [client.listen() for client in clients[:4]]
        for round in range(3):
            pids = {int(client.text("pid")) for client in clients}
            expect(len(pids) == 1, f"{len(pids)} processes")
            if round < 2:
                stage.kill(pids.pop())
            else:
                stage.relatch("reconnect", "it")
            old = pids
            threads = [threading.Thread(target=client.text, args=("pid",)) for client in clients]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
        stage.world.until(lambda: {int(client.text("pid")) for client in clients}.isdisjoint(old), 20, "another process after `reconnect`")
        stage.world.until(lambda: not any(map(alive, old)), 10, "the former process to end")
        born = {line["pid"] for line in stage.heard("initialize")}
        expect(len(born) == 4 and len(stage.heard("initialize")) == 4, f"{len(born)} processes were started")
        expect(len(streams) == 4, "streams")
        running = [pid for pid in born if alive(pid)]
        expect(len(running) == 1, f"{running} run")
        stage.serving.terminate()
        stage.world.until(lambda: not any(map(alive, born)), 10, "the process to end with its keeper")


def a_shared_process_that_hangs_gets_no_new_session():
    with Stage("shared-hangs", "ts1", []) as stage:
        url = stage.shared() + "/it/mcp"
        first = Raw(url)
        pid = int(first.text("pid"))
        os.kill(pid, signal.SIGSTOP)
        # Bound to one that answers: the old one has answered `initialize` once, which is no evidence now.
        second = Raw(url)
        other = int(second.text("pid"))
        expect(other != pid, "the process that hangs answers")
        expect(int(first.text("pid")) == other, "who was at the process that hangs has not gone on to the other one")
        stage.world.until(lambda: not alive(pid), 15, "the process that hangs to be ended")


def the_environment_and_the_folder_are_what_was_said():
    with Stage("env", "ts1", [], {"RELATCH_TEST_TAKEN": "taken"}) as stage:
        script, hears, sub = stage.world.folder / "shared.py", stage.world.folder / "hears", stage.world.folder / "sub"
        script.write_text(SHARED)
        sub.mkdir()
        command = [sys.executable, str(script), str(hears)]
        stage.command[2:] = ["--env", "GIVEN=g-${RELATCH_TEST_TAKEN}", "--env", "RELATCH_TEST_TAKEN", "--inherit-env", "PATH", "--cwd", str(sub), "--name", "it", "--", *command]
        stage.connect()
        seen = json.loads(stage.link.call("env"))
        expect(seen["cwd"] == str(sub), seen["cwd"])
        known = {name: value for name, value in seen["env"].items() if name not in ("LC_CTYPE", "PWD", "OLDPWD", "_", "SHLVL")}
        expect(sorted(known) == ["GIVEN", "PATH", "RELATCH_TEST_TAKEN"] and known["GIVEN"] == "g-taken", f"{known}")
        failed = subprocess.run([*stage.command[:2], "--env", "NO_SUCH_VARIABLE", "--", "true"], capture_output=True, text=True, timeout=10)
        expect(failed.returncode == 2 and "NO_SUCH_VARIABLE" in failed.stderr, failed.stderr)

        (stage.world.folder / "key").write_text("s3cret-of-file\n")
        toml = lambda mode, cwd: f'[server.it]\ncommand = {json.dumps(command)}\nenv = {{ KEY = "${{file:key}}", PLAIN = "s3cret-plain", MODE = "{mode}" }}\ncwd = "{cwd}"\nhold = "2s"\n'
        url = stage.serve(toml("one", "sub")) + "/it/mcp"
        client = Raw(url)
        first = json.loads(client.text("env"))
        expect(first["env"]["KEY"] == "s3cret-of-file" and first["env"]["MODE"] == "one" and first["cwd"] == str(sub), f"{first}")
        pid = int(client.text("pid"))
        stage.config.write_text(toml("two", "."))
        told = stage.relatch("reload")
        expect("env, cwd" in told, told)
        second = json.loads(client.text("env"))
        expect(second["env"]["MODE"] == "two" and second["cwd"] == str(stage.world.folder), f"{second}")
        stage.world.until(lambda: not alive(pid), 10, "the process of the former environment to end")
        shown = stage.relatch("config", "show", "--config", str(stage.config)) + stage.relatch("status", "it") + stage.relatch("status", "--json") + stage.relatch("log", "it")
        expect("env.KEY = \"${file:key}\"" in shown and "s3cret" not in shown, shown)
        stage.config.write_text(toml("three", "no-such-folder"))
        stage.relatch("reload")
        answer = client.call("pid")[-1]
        expect("there is no folder" in json.dumps(answer) and "no-such-folder" in json.dumps(answer), f"{answer}")
        more = stage.world.folder / "more.toml"
        stage.relatch("add", "x", "--config", str(more), "--env", "A=b", "--env", "HOME", "--cwd", "sub", "--inherit-env", "PATH,HOME", "--shared", "--", "true")
        expect('env = { A = "b", HOME = "${HOME}" }' in more.read_text() and "shared = true" in more.read_text(), more.read_text())


def what_it_says_on_stderr_is_in_status():
    with Stage("stderr", "ts1", []) as stage:
        client = Raw(stage.shared() + "/it/mcp")
        stderr = lambda: json.loads(stage.relatch("status", "--json"))["keepers"][0]["servers"][0]["stderr"]
        stage.world.until(lambda: stderr() == ["listening on stdin"], 10, "its last words")
        expect("stderr        listening" in stage.relatch("status", "it"), stage.relatch("status", "it"))
        # What a shared process says may be about another client, so a client is not told of it.
        pid = int(client.text("pid"))
        n = threading.Thread(target=lambda: setattr(client, "last", client.call("wait")[-1]), daemon=True)
        n.start()
        stage.world.until(lambda: [line for line in stage.heard("tools/call") if line["params"]["name"] == "wait"], 10, "the call to arrive")
        stage.kill(pid)
        n.join(20)
        expect("signal 9" in json.dumps(client.last) and "listening" not in json.dumps(client.last), f"{client.last}")
    with Stage("stderr-bad", "ts1", []) as stage:
        odd(stage, "exits")
        n = stage.link.send("connect", command=stage.command)
        stage.world.until(lambda: "stderr        no such account" in stage.relatch("status", "it"), 10, "its last words in status")
        stage.link.answer(n, 20)


def one_that_goes_on_in_the_background_is_ended_and_named():
    refused("forks-away", ["exited with status 0 and went on in the background"], 12, more=["/dev/null"])


def a_program_that_is_adopted_for_serve_keeps_its_environment():
    with Stage("adopted-served", "ts1", []) as stage:
        script, hears = stage.world.folder / "shared.py", stage.world.folder / "hears"
        script.write_text(SHARED)
        home = stage.world.folder / "home"
        files = {
            home / ".cursor/mcp.json": json.dumps({"mcpServers": {"Notes": {"command": sys.executable, "args": [str(script), str(hears)], "env": {"KEY": "s3cret"}, "cwd": str(home)}, "Mine": {"command": "x", "env": {"KEY": "${env:KEY}"}}, "Here": {"command": "./x"}}}, indent="\t") + "\n",
            home / ".claude.json": json.dumps({"mcpServers": {"files": {"type": "stdio", "command": sys.executable, "args": [str(script), str(hears)]}}}, indent=2),
            home / ".codex/config.toml": "\n".join([
                "# mine", "[mcp_servers.tables]", f'command = "{sys.executable}"', f'args = ["{script}", "{hears}"]', "",
                "[mcp_servers.tables.env]", 'KEY = "s3cret ${x"', 'MORE = "m" # why', "",
            ]),
        }
        for file, text in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o600)
        environment = stage.world.environment() | {"HOME": str(home)}
        for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            environment.pop(name, None)

        def relatch(*line):
            done = subprocess.run([relatch_path(), *line], env=environment, cwd=home, capture_output=True, text=True, timeout=20)
            expect(done.returncode == 0, f"{line}: {done.stdout}{done.stderr}")
            return done.stdout + done.stderr

        told = relatch("adopt", "--programs", "--via", "serve", "--yes")
        expect("s3cret" not in told, told)
        expect("has a variable that Cursor fills in" in told and "relative to the folder" in told, told)
        toml = home / ".config/relatch/relatch.toml"
        expect('env = { KEY = "s3cret $${x", MORE = "m" }' in toml.read_text() and f'cwd = "{home}"' in toml.read_text(), toml.read_text())
        line = [relatch_path(), "serve", "--listen", "127.0.0.1:0"]
        keeper = subprocess.Popen(line, env=environment, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        stage.world.spawned.append(keeper)
        base = keeper.stdout.readline().decode().split()[1].rsplit("/", 2)[0]
        entry = json.loads((home / ".cursor/mcp.json").read_text())["mcpServers"]["Notes"]
        expect(sorted(entry) == ["headers", "url"], f"{entry}")
        stage.link.ask("connect", url=f"{base}/notes/mcp", headers=entry["headers"])
        seen = json.loads(stage.link.call("env"))
        expect(seen["env"]["KEY"] == "s3cret" and seen["cwd"] == str(home), f"{seen}")
        claude = json.loads((home / ".claude.json").read_text())["mcpServers"]["files"]
        expect(claude["type"] == "http" and claude["url"].endswith("/files/mcp") and "args" not in claude, f"{claude}")
        relatch("release", "--yes")
        for file, text in files.items():
            expect(file.read_text() == text, f"released: {file.read_text()}")
        expect("[server" not in toml.read_text(), toml.read_text())


def main():
    if not relatch_path():
        sys.exit("command: set RELATCH=/path/to/relatch")
    shutil.rmtree(OUT, ignore_errors=True)
    cases = [
        *[(a_killed_server_is_not_noticed, pair) for pair in (("ts1", "ts1"), ("py1", "py1"), ("fastmcp", "rmcp"), ("ts1", "py2"), ("py1", "ts2"))],
        (both_ways, ("ts1", "ts1")),
        (both_ways, ("py1", "ts1")),
        (everything_is_served, ("py1",)),
        (two_real_clients_share_a_process_and_nothing_crosses, ("ts1", "ts1", "ts1")),
        (two_real_clients_share_a_process_and_nothing_crosses, ("py1", "py1", "ts2")),
        *[(case, ()) for case in (
            what_can_not_start_says_why, one_that_says_nothing_of_use_is_given_up, noise_on_stdout_and_stderr_is_passed_over, one_that_dies_young_rests,
            a_command_of_the_file_is_served_to_many, an_adopted_program_is_kept_alive_and_released,
            ids_and_tokens_that_are_the_same_do_not_meet, a_shared_process_that_ends_is_followed_by_one, a_shared_process_that_hangs_gets_no_new_session,
            the_environment_and_the_folder_are_what_was_said, what_it_says_on_stderr_is_in_status,
            one_that_goes_on_in_the_background_is_ended_and_named, a_program_that_is_adopted_for_serve_keeps_its_environment,
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
