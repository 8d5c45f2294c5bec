#!/usr/bin/env python3
"""`relatch dev`: a FastMCP server that is edited again and again under a client that calls all the time, and what goes wrong.

`RELATCH=target/debug/relatch python3 tests/dev/run.py [--edits N] [--seed N] [WORD…]`. The peers are those of tests/interop, which
tests/interop/setup.sh installs. Every call leaves a line in a ledger: none may be missing and none may be there twice. Every wait has
a deadline. The longest wait of a call is printed, not asserted.
"""

import argparse
import concurrent.futures
import contextlib
import json
import os
import pty
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "interop")]

from harness.peers import CLIENTS, SERVERS, SETUP, relatch_path
from harness.world import Link, Missed, World, free_port

OUT = HERE / "out"
FASTMCP = str(SETUP / "venv-fastmcp" / "bin" / "python")

# As its user writes it: by HTTP where there is a port, else on stdin and stdout.
SERVER = """
import asyncio, json, os, time
from fastmcp import FastMCP

mcp = FastMCP("edited", version="{version}.0.0")

def note(key):
    line = json.dumps(dict(key=key, version={version}, pid=os.getpid())) + "\\n"
    file = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, line.encode())
    os.close(file)

@mcp.tool
def version() -> str:
    return "version {version}"

@mcp.tool
def count(key: str) -> str:
    note(key)
    return key

@mcp.tool
async def slow(key: str, ms: int) -> str:
    note(key)
    await asyncio.sleep(ms / 1000)
    return key
{more}
if os.environ.get("PORT"):
    mcp.run(transport="http", host="127.0.0.1", port=int(os.environ["PORT"]), show_banner=False, log_level="warning")
else:
    mcp.run(transport="stdio", show_banner=False, log_level="warning")
"""
EXTRA = """
@mcp.tool
def extra() -> str:
    return "extra"
"""

# A server of a few lines, for what goes wrong; what it does is said by its first argument.
SMALL = """
import http.server, json, os, sys, time
VERSION = {version}
how = sys.argv[1] if len(sys.argv) > 1 else ""
if how == "exits": sys.stderr.write("no such account\\n"); sys.exit(3)
def answer(m):
    if m.get("method") == "initialize":
        return {{"protocolVersion": "2025-06-18", "capabilities": {{"tools": {{}}}}, "serverInfo": {{"name": "small", "version": str(VERSION)}}}}
    if m.get("method") == "tools/list":
        return {{"tools": [{{"name": "version", "inputSchema": {{"type": "object"}}}}]}}
    if m.get("method") == "tools/call":
        if m["params"]["name"] == "crash": os._exit(9)
        return {{"content": [{{"type": "text", "text": "version %s pid %s" % (VERSION, os.getpid())}}]}}
    return {{}}
class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        m = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({{"jsonrpc": "2.0", "id": m["id"], "result": answer(m)}}).encode() if "id" in m else b""
        self.send_response(200 if body else 202)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self): self.send_response(405); self.send_header("Content-Length", "0"); self.end_headers()
    do_DELETE = do_GET
    def log_message(self, *a): pass
print("small server", VERSION, file=sys.stderr, flush=True)
if os.environ.get("PORT"):
    http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Web).serve_forever()
for line in sys.stdin:
    m = json.loads(line)
    if "id" in m and "method" in m:
        sys.stdout.write(json.dumps({{"jsonrpc": "2.0", "id": m["id"], "result": answer(m)}}) + "\\n"); sys.stdout.flush()
"""


def expect(holds, what):
    if not holds:
        raise Missed(what)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


class Stage:
    """A folder with a server that is edited, `relatch dev` in front of it, and a client."""

    def __init__(self, name, client="py1", seconds=120):
        self.world = World(SERVERS["fastmcp"], CLIENTS[client], "http", OUT / name, relatch=relatch_path())
        self.world.deadline = time.monotonic() + seconds
        self.code = self.world.folder / "code"
        self.code.mkdir()
        self.file = self.code / "server.py"
        self.ledger = self.world.folder / "ledger.jsonl"
        self.said = []
        self.dev = None
        self.saves = 0

    def save(self, text):
        """As editors do: in place, or beside and moved."""
        self.saves += 1
        if self.saves % 2:
            self.file.write_text(text)
        else:
            other = self.code / ".server.py.tmp"
            other.write_text(text)
            other.rename(self.file)

    def small(self, version):
        self.save(SMALL.format(version=version))

    def command(self, *options, run=()):
        words = [relatch_path(), "dev", "--name", "it", "--watch", str(self.code), *map(str, options)]
        return [*words, "--", *map(str, run)]

    def start(self, *options, run=(), extra=()):
        """Starts `relatch dev` and reads what it says."""
        listen = [] if "--listen" in options else ["--listen", "127.0.0.1:0"]
        words = self.command(*listen, "--no-token", *options, run=run)
        self.dev = self.world.spawn("dev", words, {"LEDGER": str(self.ledger), **dict(extra)}, stdout=subprocess.PIPE)
        threading.Thread(target=self._read, args=(self.dev.stdout,), daemon=True).start()
        return self

    def _read(self, pipe):
        with open(self.world.out / "dev.stdout", "a") as copy:
            for raw in pipe:
                line = raw.decode(errors="replace").rstrip("\n")
                copy.write(line + "\n")
                copy.flush()
                self.said.append(line)

    def heard(self, *words, seconds=30, since=0):
        """Waits for a line with all these words, and returns it."""

        def found():
            return next((line for line in self.said[since:] if all(word in line for word in words)), None)

        return self.world.until(found, seconds, f"`{'`, `'.join(words)}` is not said: {self.said[-6:]}")

    def url(self):
        return self.world.until(lambda: next((line for line in self.said if line.startswith("http")), None), 20, "no address is said")

    def connect(self):
        link = Link(self.world, "client")
        self.world.clients.append(link)
        link.ask("connect", url=self.url(), seconds=25)
        return link

    def server_pids(self):
        """Processes of the server, without those that stand guard."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if str(self.file).encode() in words and b"guard" not in words and b"dev" not in words and alive(entry.name):
                        found.append(int(entry.name))
        return found

    def quit(self, seconds=20):
        self.dev.send_signal(signal.SIGTERM)
        code = self.dev.wait(self.world.left(seconds))
        expect(code == 0, f"it ended with {code}")
        self.world.until(lambda: not self.server_pids(), 10, f"{self.server_pids()} outlive relatch")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.world.close()


class Load:
    """Calls all the time, in three lanes, one after the other in each; two of them take a while each."""

    LANES = (("count", {}), ("slow", {"ms": 120}), ("slow", {"ms": 40}))

    def __init__(self, link, name):
        self.link, self.name = link, name
        self.over, self.calls, self.faults = threading.Event(), [], []
        self.lanes = [threading.Thread(target=self._lane, args=(lane,), daemon=True) for lane in range(len(self.LANES))]
        for lane in self.lanes:
            lane.start()

    def _lane(self, lane):
        tool, args = self.LANES[lane]
        n = 0
        while not self.over.is_set():
            n += 1
            key, began = f"{self.name}-{lane}-{n}", time.monotonic()
            try:
                text = self.link.call(tool, seconds=60, key=key, **args)
                expect(text == key, f"{key} got {text}")
                self.calls.append((key, time.monotonic() - began))
            except Missed as fault:
                self.faults.append(f"{key}: {fault}")
                return
            time.sleep(0.01)

    def end(self):
        self.over.set()
        for lane in self.lanes:
            lane.join(70)
        expect(not any(lane.is_alive() for lane in self.lanes), "a call is not answered")


def judge(stage, load):
    """Nothing lost and nothing twice; how many calls, and the longest wait."""
    expect(not load.faults, f"{len(load.faults)} calls failed: {load.faults[:3]}")
    ran = {}
    for line in stage.ledger.read_text().splitlines():
        key = json.loads(line)["key"]
        ran[key] = ran.get(key, 0) + 1
    twice = [key for key, times in ran.items() if times > 1]
    lost = [key for key, _ in load.calls if key not in ran]
    strange = set(ran) - {key for key, _ in load.calls}
    expect(not twice, f"ran twice: {twice[:5]}")
    expect(not lost, f"answered and never ran: {lost[:5]}")
    expect(not strange, f"ran and were not answered: {sorted(strange)[:5]}")
    waits = sorted(wait for _, wait in load.calls)
    return f"{len(waits)} calls, longest wait {waits[-1]:.2f} s, median {waits[len(waits) // 2] * 1000:.0f} ms"


def edits_are_not_noticed(mode, edits, seed):
    rng = random.Random(seed)
    port = free_port()
    options = {
        "stdio": ([], {}),
        "picked": (["--url", "http://127.0.0.1:{port}/mcp"], {}),
        "fixed": (["--url", f"http://127.0.0.1:{port}/mcp"], {"PORT": str(port)}),
    }[mode]
    with Stage(f"edits-{mode}", seconds=90 + 14 * edits) as stage:
        stage.save(SERVER.format(version=0, more=""))
        stage.start(*options[0], run=[FASTMCP, stage.file], extra=options[1])
        stage.heard("is up", seconds=60)
        link = stage.connect()
        has = lambda: any(tool["name"] == "extra" for tool in link.ask("list_tools")["tools"])
        expect(not has(), "a tool is there that nobody wrote")
        load = Load(link, mode)
        extra = seen = False
        broken = told = 0

        def live(version):
            stage.world.until(lambda: link.call("version", seconds=60) == f"version {version}", 60, f"version {version} is not there")

        mark = link.mark()
        for version in range(1, edits + 1):
            kind = "tool" if version == 2 else rng.choice(["change", "change", "syntax", "import", "tool"])
            last = version == edits
            if kind == "tool":
                extra = not extra
            text = SERVER.format(version=version, more=EXTRA if extra else "")
            if not last and kind in ("syntax", "import"):
                broken += 1
                text += "syntax (\n" if kind == "syntax" else "import no_such_module\n"
                stage.save(text)
            else:
                stage.save(text)
                if last or version == 2 or rng.random() < 0.3:
                    live(version)
                    if extra != seen:
                        seen, told = extra, told + 1
                        link.event("list_changed", 20, mark, kind="tools")
                        mark = link.mark()
                        expect(has() == extra, "the list of tools is an old one")
            time.sleep(rng.uniform(0.02, 0.4))
        live(edits)
        load.end()
        words = judge(stage, load)
        ups = sum(" is up" in line for line in stage.said)
        words += f"; {edits} edits, {broken} broken, {ups} starts that came up, tools changed {told} times"
        stage.quit()
        return words


def a_client_starts_it_on_stdio():
    with Stage("stdio-client") as stage:
        stage.small(1)
        link = Link(stage.world, "client")
        stage.world.clients.append(link)
        link.ask("connect", command=stage.command("--stdio", run=[sys.executable, stage.file]), seconds=25)
        expect("version 1" in link.call("version"), "it is not version 1")
        before = stage.server_pids()
        stage.small(2)
        stage.world.until(lambda: "version 2" in link.call("version"), 20, "version 2 is not there")
        stage.world.until(lambda: not set(before) & set(stage.server_pids()), 10, "the old process lives on")
        link.ask("close")
        stage.world.until(lambda: not stage.server_pids(), 10, "the server outlives its client")


def a_build_goes_first_and_its_failure_changes_nothing():
    with Stage("build") as stage:
        made = stage.code / "out"
        made.mkdir()
        stage.small(1)
        # What it writes lies among the sources, and is no reason for another build.
        build = f"echo compiling; ! grep -q 'version = broken' {stage.file} || {{ echo 'error: broken'; exit 3; }}; cp {stage.file} {made}/app.py; date +%N > {made}/stamp"
        stage.start("--build", build, run=[sys.executable, made / "app.py"])
        stage.heard("is up")
        link = stage.connect()
        expect("version 1" in link.call("version"), "it is not version 1")
        stage.heard("taken for what the build writes")
        stage.small(2)
        stage.world.until(lambda: "version 2" in link.call("version"), 30, "version 2 is not there")
        since = len(stage.said)
        stage.save(SMALL.format(version=3) + "# version = broken\n")
        line = stage.heard("the build failed", since=since)
        expect("status 3" in line and "error: broken" in line and "the former one goes on" in line, line)
        expect("version 2" in link.call("version"), "the former server does not go on")
        stage.small(4)
        stage.world.until(lambda: "version 4" in link.call("version"), 30, "version 4 is not there")
        builds = sum("building" in line for line in stage.said)
        expect(builds <= 8, f"the build goes round in circles: {builds}")
        stage.quit()


def a_crash_is_started_again(mode):
    with Stage(f"crash-{mode}") as stage:
        stage.small(1)
        options = ["--url", "http://127.0.0.1:{port}/mcp"] if mode == "picked" else []
        stage.start(*options, run=[sys.executable, stage.file])
        stage.heard("is up")
        link = stage.connect()
        for _ in range(2):
            since = len(stage.said)
            expect("version 1" in link.call("version"), "no answer")
            failed = link.answer(link.send("call", tool="crash", args={}), 20)
            expect(not failed["ok"] and failed["error"]["data"]["relatch"]["executed"] == "unknown", json.dumps(failed))
            stage.heard("exited with status 9", since=since)
            expect("version 1" in link.call("version"), "it is not started again")
        stage.quit()


def a_running_call_may_finish_and_no_longer_than_the_drain():
    with Stage("drain") as stage:
        stage.save(SERVER.format(version=0, more=""))
        stage.start("--drain", "3s", run=[FASTMCP, stage.file])
        link = stage.connect()
        link.call("version", seconds=40)
        short = link.send("call", tool="slow", args={"key": "short", "ms": 1500})
        stage.world.until(lambda: stage.ledger.exists() and "short" in stage.ledger.read_text(), 10, "the call to arrive")
        stage.save(SERVER.format(version=1, more=""))
        stage.world.until(lambda: link.call("version", seconds=40) == "version 1", 40, "version 1 is not there")
        link.good(short)
        long = link.send("call", tool="slow", args={"key": "long", "ms": 600000})
        stage.world.until(lambda: "long" in stage.ledger.read_text(), 10, "the call to arrive")
        stage.save(SERVER.format(version=2, more=""))
        # In its server's own words, or in relatch's.
        failed = link.answer(long, 60)
        expect(not failed["ok"], json.dumps(failed)[:400])
        stage.heard("1 call was not over after 3.00 s")
        stage.quit()


def nothing_outlives_it(mode):
    with Stage(f"killed-{mode}") as stage:
        stage.small(1)
        options = ["--url", "http://127.0.0.1:{port}/mcp"] if mode == "picked" else []
        stage.start(*options, run=[sys.executable, stage.file])
        stage.heard("is up")
        stage.connect().call("version")
        expect(stage.server_pids(), "no server runs")
        os.kill(stage.dev.pid, signal.SIGKILL)
        stage.world.until(lambda: not stage.server_pids(), 10, f"{stage.server_pids()} outlive relatch")


def sessions_outlive_it():
    with Stage("again") as stage:
        stage.small(1)
        port = free_port()
        options = ["--url", "http://127.0.0.1:{port}/mcp", "--state-dir", stage.world.folder / "kept"]
        listen = ["--listen", f"127.0.0.1:{port}", "--no-token", *options]
        for round in (1, 2):
            words = stage.command(*listen, run=[sys.executable, stage.file])
            stage.dev = stage.world.spawn("dev", words, {}, stdout=subprocess.PIPE)
            threading.Thread(target=stage._read, args=(stage.dev.stdout,), daemon=True).start()
            stage.heard("is up", since=len(stage.said) if round == 2 else 0)
            if round == 1:
                link = stage.connect()
            expect("version 1" in link.call("version", seconds=30), "no answer")
            stage.quit()


def said_and_ended(name, words, *options, run, small=True, extra=(), lines=None, status=2, out=False):
    """It says all these words within a bound: as an error that ends it, or in a line while it goes on."""
    with Stage(name) as stage:
        if small:
            stage.small(1)
        stage.start(*options, run=[word if word != "SERVER" else stage.file for word in run], extra=extra)
        if lines:
            stage.heard(*words, seconds=45)
            expect(stage.dev.poll() is None, "it has ended")
            stage.quit()
            return
        code = stage.dev.wait(stage.world.left(20))
        text = (stage.world.out / "dev.stderr").read_text()
        expect(code == status and all(word in text for word in words), f"{code}: {text}")


def what_can_not_be_is_named():
    python = sys.executable
    url = ["--url", "http://127.0.0.1:{port}/mcp"]
    said_and_ended("bad-command", ["The server can't be started", "`no-such-server` is not on `PATH`"], run=["no-such-server"])
    said_and_ended("bad-watch", ["There is no `no/such` to watch"], "--watch", "no/such", run=["sh"])
    said_and_ended("bad-url", ["is not on this machine"], "--url", "http://mcp.example.com/mcp", run=["sh"])
    said_and_ended("bad-build", ["the build failed", "its command is not there", "no-such-tool"], "--build", "no-such-tool all", run=[python, "SERVER"], lines=True)
    for name, options in (("exits", []), ("exits-web", url)):
        words = ["the new server does not come up", "exited with status 3", "no such account", "wait for the next change"]
        said_and_ended(f"bad-{name}", words, *options, run=[python, "SERVER", "exits"], lines=True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = [f"another program listens at `127.0.0.1:{port}` already"]
        said_and_ended("bad-port", words, "--url", f"http://127.0.0.1:{port}/mcp", run=[python, "SERVER"], lines=True)
        words = [f"relatch can't listen on `127.0.0.1:{port}`"]
        said_and_ended("bad-listen", words, "--listen", f"127.0.0.1:{port}", run=[python, "SERVER"], status=1)
    path = ["it answers `initialize` with HTTP 501"]
    said_and_ended("bad-path", path, "--url", "http://127.0.0.1:{port}/nothing", run=[python, "-m", "http.server", "{port}", "--bind", "127.0.0.1"], lines=True)


def one_that_never_listens_is_given_up():
    words = ["nothing listens at", "after 30 s", "the variable `PORT`"]
    said_and_ended("bad-silent", words, "--url", "http://127.0.0.1:{port}/mcp", run=["sleep", "600"], lines=True)


def the_view_has_log_health_and_calls_and_obeys_its_keys():
    with Stage("view") as stage:
        stage.small(1)
        words = stage.command("--listen", "127.0.0.1:0", "--no-token", run=[sys.executable, stage.file])
        ours, theirs = pty.openpty()
        import fcntl
        import struct
        import termios

        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
        stage.dev = stage.world.spawn("dev", words, {"TERM": "xterm-256color", "NO_COLOR": "1"}, stdin=theirs, stdout=theirs)
        os.close(theirs)
        drawn = []

        def read():
            with contextlib.suppress(OSError):
                while more := os.read(ours, 65536):
                    drawn.append(more.decode(errors="replace"))

        threading.Thread(target=read, daemon=True).start()
        # Blanks are jumped over, and colours are none: what is left are the words.
        text = lambda: re.sub(r"(\x1b\[[?0-9;]*[A-Za-z]|\s)+", " ", "".join(drawn))
        seen = lambda words, since=0: stage.world.until(lambda: words in text()[since:], 20, f"`{words}` is not on the screen")
        seen("relatch dev it")
        seen("── calls 0")
        seen("is up, in")
        stage.said.append(next(word for word in text().split() if word.startswith("http://127.0.0.1:") and word.endswith("/it/mcp")))
        stage.connect().call("version")
        seen("✓ healthy")
        seen("small server 1")
        since = len(text())
        os.write(ours, b"r")
        seen("asked to start", since)
        os.write(ours, b"q")
        code = stage.dev.wait(stage.world.left(20))
        expect(code == 0 and "\x1b[?1049l" in "".join(drawn), f"it ended with {code}, or keeps the terminal")
        stage.world.until(lambda: not stage.server_pids(), 10, "the server outlives relatch")


def main():
    if not relatch_path():
        sys.exit("dev: set RELATCH=/path/to/relatch")
    parser = argparse.ArgumentParser()
    parser.add_argument("--edits", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("only", nargs="*")
    asked = parser.parse_args()
    shutil.rmtree(OUT, ignore_errors=True)
    # Those that measure have the machine to themselves; the others wait most of the time.
    alone = [(edits_are_not_noticed, (mode, asked.edits, asked.seed)) for mode in ("stdio", "picked", "fixed")]
    beside = [
        (one_that_never_listens_is_given_up, ()),
        (a_client_starts_it_on_stdio, ()),
        (a_build_goes_first_and_its_failure_changes_nothing, ()),
        (a_crash_is_started_again, ("stdio",)),
        (a_crash_is_started_again, ("picked",)),
        (a_running_call_may_finish_and_no_longer_than_the_drain, ()),
        (nothing_outlives_it, ("stdio",)),
        (nothing_outlives_it, ("picked",)),
        (sessions_outlive_it, ()),
        (what_can_not_be_is_named, ()),
        (the_view_has_log_health_and_calls_and_obeys_its_keys, ()),
    ]

    def play(case, arguments):
        """Whether it passed; none where it was not asked for."""
        name = " ".join([case.__name__.replace("_", " "), *map(str, arguments[:1])])
        if asked.only and not any(word in name for word in asked.only):
            return None
        began = time.monotonic()
        try:
            words = case(*arguments)
        except Exception as fault:
            print(f"FAILED  {name}: {fault}", flush=True)
            if not isinstance(fault, Missed):
                traceback.print_exc()
            return False
        print(f"passed  {name} ({time.monotonic() - began:.1f} s){': ' + words if words else ''}", flush=True)
        return True

    outcomes = [play(*case) for case in alone]
    with concurrent.futures.ThreadPoolExecutor(max_workers=3) as pool:
        outcomes += pool.map(lambda case: play(*case), beside)
    passed, failed = outcomes.count(True), outcomes.count(False)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
