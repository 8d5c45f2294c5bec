#!/usr/bin/env python3
"""Clients that start before their server, by real SDKs: with a copy of what the server said earlier, and without.

`RELATCH=target/debug/relatch python3 tests/late/run.py [WORD …]`. The peers are those of tests/interop, which
tests/interop/setup.sh installs. Every wait has a deadline.
"""

import json
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "interop")]

from harness.peers import CLIENTS, SERVERS, relatch_path
from harness.world import Link, Missed, World

OUT = HERE / "out"
# A client that is answered from a copy is connected within this, whatever its own start takes.
AT_ONCE = 8


def expect(holds, what):
    if not holds:
        raise Missed(what)


class Stage:
    """A server's place, clients one after the other, and relatch before it."""

    def __init__(self, name, server, client, side, treatment=()):
        self.world = World(SERVERS[server], CLIENTS[client], side, OUT / name, relatch=relatch_path())
        self.world.deadline = time.monotonic() + 90
        self.world.treatment = list(treatment)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.world.close()

    def relatch(self, *line):
        done = subprocess.run([relatch_path(), *line], env=self.world.environment(), capture_output=True, text=True, timeout=20)
        return done.stdout + done.stderr

    def servers(self):
        said = self.relatch("status", "--json")
        # Where nobody runs, that is said in words.
        keepers = json.loads(said)["keepers"] if said.startswith("{") else []
        return [server for keeper in keepers for server in keeper["servers"]]

    def journal(self):
        text = self.relatch("log", "--json")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def kept(self):
        """Whether a copy with a list of tools is on the disk."""
        for path in self.world.folder.rglob("copies.sqlite"):
            try:
                with closing(sqlite3.connect(path, timeout=5)) as store:
                    return store.execute("SELECT count(*) FROM copies WHERE copy LIKE '%tools/list%'").fetchone()[0] > 0
            except sqlite3.OperationalError:
                # It is being made.
                return False
        return False

    def leaves(self, link, kept=True):
        """The client goes, and on stdio its relatch with it; some clients kill it at once."""
        if kept:
            self.world.until(self.kept, 10, "the copy to be written")
        link.close()
        if self.world.side == "stdio":
            self.world.until(lambda: not self.servers(), 10, "the client's relatch to end")

    def waiting(self):
        return any(session["open"] for server in self.servers() for session in server["sessions"])


def names(link):
    return sorted(tool["name"] for tool in link.ask("list_tools")["tools"])


def comes_first(server, client, side, variant):
    """A client with a copy connects at once, has its tools, and its call waits for the server; what changed is told."""
    with Stage(f"first-{server}-{client}-{side}-{variant}", server, client, side) as stage:
        world = stage.world
        world.start_server()
        link = world.connect("before")
        before = names(link)
        link.call("echo", text="there")
        stage.leaves(link)
        world.kill_server()
        if side == "http":
            # A keeper that has been started anew knows nothing but what it reads.
            world.kill_keeper()
            world.start_keeper()

        began = time.monotonic()
        link = world.connect("late")
        took = time.monotonic() - began
        expect(took < AT_ONCE, f"it took {took:.1f} s to connect")
        since = link.mark()
        expect(names(link) == before, f"the copy has other tools: {names(link)} and {before}")
        [seen] = stage.servers()
        expect(seen["health"] != "healthy", f"called healthy by a copy: {seen}")
        expect(seen["server"] is None, f"a server is named that is not there: {seen['server']}")
        late = [session for session in seen["sessions"] if session["copy"]]
        expect(len(late) == 1 and late[0]["state"] == "late", f"the session is not marked: {seen['sessions']}")
        story = stage.relatch("status", seen["name"])
        expect("a client was answered from a copy of 20" in story, f"status says nothing of the copy: {story}")

        n = link.send("call", tool="echo", args={"text": "waited"})
        world.until(stage.waiting, 10, "the call to wait")
        world.start_server(variant=variant)
        expect("waited" in json.dumps(link.good(n, 20)), "the call was answered with something else")
        if variant == 1:
            # Only then it is certain that nothing will be told. The lists are asked for beside the call, and where that was the
            # last to be answered, they were ahead of it or are long over.
            answered = time.monotonic()
            world.until(lambda: compared(stage) or time.monotonic() - answered > 3, 10, "the lists to be compared")
            expect(not link.seen("list_changed", since), "told of changes that there are none")
            expect(names(link) == before, "the server has other tools than before")
        else:
            link.event("list_changed", 20, since, kind="tools")
            expect("extra" in names(link), "the new tool is not listed")
            expect("extra" in link.call("extra"), "the new tool does not answer")
        [seen] = stage.servers()
        expect(seen["health"] == "healthy" and seen["server"]["version"] == f"{variant}.0.0", f"{seen}")
        late = [session for session in seen["sessions"] if session["copy"] or session["state"] == "late"]
        expect(not late, f"the session is still marked: {late}")
        told = stage.journal()
        copied = [entry for entry in told if entry["what"] == "from-copy"]
        expect({"initialize", "tools/list"} <= {entry["subject"] for entry in copied}, f"{copied}")
        expect(all("a copy of 20" in entry["detail"] for entry in copied), f"{copied}")
        [latched] = [entry for entry in told if entry["what"] == "latched"]
        if variant == 2:
            expect("1.0.0 → " in latched["detail"] and "2.0.0" in latched["detail"], f"{latched}")
            expect(any("+extra" in (entry["detail"] or "") for entry in told if entry["what"] == "list-changed"), f"{told}")
        expect(seen["totals"]["relatched"] == 0, "a first session is none in place of another")


def compared(stage):
    """Whether every latch has closed its gap: the server was asked for its tools by relatch itself after the client came."""
    [seen] = stage.servers()
    return seen["last_success"] and seen["last_success"]["method"] != "tools/call"


def waits_without_a_copy(server, client, side):
    """Without a copy the handshake is held until the server is there."""
    with Stage(f"none-{server}-{client}-{side}", server, client, side) as stage:
        world = stage.world
        with ThreadPoolExecutor() as pool:
            connecting = pool.submit(world.connect, "early")
            world.until(lambda: any(entry["what"] == "held" for entry in stage.journal()), 15, "the handshake to be held")
            world.downtime(3)
            expect(not connecting.done(), "it connected to nobody")
            world.start_server()
            link = connecting.result(20)
        expect("hello" in link.call("echo", text="hello"), "no echo")
        expect(not any(entry["what"] == "from-copy" for entry in stage.journal()), "there was a copy after all")


def keeps_none_where_none_is_wanted(side):
    """`--no-copies`: what the server said is not kept, and nobody is answered from it."""
    with Stage(f"no-copies-{side}", "ts1", "ts1", side, ["--no-copies"]) as stage:
        world = stage.world
        world.start_server()
        link = world.connect("before")
        names(link)
        stage.leaves(link, kept=False)
        kept = [path for path in world.folder.rglob("copies.sqlite")]
        expect(not kept, f"something is kept: {kept}")
        world.kill_server()
        with ThreadPoolExecutor() as pool:
            connecting = pool.submit(world.connect, "late")
            world.until(lambda: any(entry["what"] == "held" for entry in stage.journal()), 15, "the handshake to be held")
            world.start_server()
            connecting.result(20)


def several_at_once():
    """Four relatch of four clients start at once before the server, read the same copies and write them again."""
    with Stage("several", "ts1", "ts1", "stdio") as stage:
        world = stage.world
        world.start_server()
        link = world.connect("before")
        before = names(link)
        stage.leaves(link)
        world.kill_server()
        with ThreadPoolExecutor() as pool:
            links = list(pool.map(lambda n: world.connect(f"late-{n}"), range(4)))
            expect(all(tools == before for tools in pool.map(names, links)), "not all have their tools")
            world.start_server()
            for n, said in enumerate(pool.map(lambda link: link.call("echo", text="one"), links)):
                expect("one" in said, f"client {n}: {said}")


SERVER = """#!{python}
import json, sys
def say(m): sys.stdout.write(json.dumps(m) + "\\n"); sys.stdout.flush()
for line in sys.stdin:
    m = json.loads(line)
    if "id" not in m or "method" not in m: continue
    result = {{}}
    if m["method"] == "initialize":
        result = {{"protocolVersion": "2025-06-18", "capabilities": {{"tools": {{}}}}, "serverInfo": {{"name": "late", "version": "{version}"}}}}
    if m["method"] == "tools/list":
        result = {{"tools": [{{"name": "{tool}", "inputSchema": {{"type": "object"}}}}]}}
    if m["method"] == "tools/call":
        result = {{"content": [{{"type": "text", "text": "{version}"}}]}}
    say({{"jsonrpc": "2.0", "id": m["id"], "result": result}})
"""


def a_command_that_does_not_start_yet(how, client):
    """A command that is not there, or ends at once, is late like any server."""
    with Stage(f"command-{how}-{client}", "ts1", client, "stdio") as stage:
        world = stage.world
        program = world.folder / "server"

        def put(text):
            aside = world.folder / "aside"
            aside.write_text(text)
            aside.chmod(aside.stat().st_mode | stat.S_IXUSR)
            aside.rename(program)

        def connect(name):
            link = Link(world, name)
            world.clients.append(link)
            link.ask("connect", command=[relatch_path(), "stdio", "--name", "it", "--", str(program)], seconds=20)
            return link

        put(SERVER.format(python=sys.executable, version="1.0.0", tool="old"))
        link = connect("before")
        expect(names(link) == ["old"], "the server has other tools")
        stage.leaves(link)
        if how == "missing":
            program.unlink()
        else:
            put("#!/bin/sh\necho 'not built yet' >&2\nexit 3\n")
        began = time.monotonic()
        link = connect("late")
        expect(time.monotonic() - began < AT_ONCE, "it did not connect at once")
        since = link.mark()
        expect(names(link) == ["old"], "the copy is not given out")
        n = link.send("call", tool="old", args={})
        world.until(stage.waiting, 10, "the call to wait")
        put(SERVER.format(python=sys.executable, version="2.0.0", tool="new"))
        expect("2.0.0" in json.dumps(link.good(n, 20)), "the call was not answered by the server that came")
        link.event("list_changed", 20, since, kind="tools")
        expect(names(link) == ["new"], "the new tool is not listed")


def main():
    if not relatch_path():
        sys.exit("late: set RELATCH=/path/to/relatch")
    shutil.rmtree(OUT, ignore_errors=True)
    cases = [
        *[(comes_first, (*pair, "stdio", variant)) for pair, variant in (
            (("ts1", "ts1"), 1), (("py1", "py1"), 2), (("fastmcp", "rmcp"), 2), (("ts1", "py2"), 1), (("py1", "ts2"), 2))],
        *[(comes_first, (*pair, "http", variant)) for pair, variant in (
            (("py1", "ts1"), 2), (("fastmcp", "py1"), 1), (("ts1", "rmcp"), 1), (("py1", "py2"), 2), (("ts1", "ts2"), 2))],
        (waits_without_a_copy, ("ts1", "py1", "stdio")),
        (waits_without_a_copy, ("py1", "ts1", "http")),
        (keeps_none_where_none_is_wanted, ("stdio",)),
        (several_at_once, ()),
        (a_command_that_does_not_start_yet, ("missing", "ts1")),
        (a_command_that_does_not_start_yet, ("ends", "py1")),
    ]
    only = sys.argv[1:]

    def play(one):
        case, arguments = one
        name = " ".join([case.__name__.replace("_", " "), *map(str, arguments)])
        if only and not any(word in name for word in only):
            return None
        began = time.monotonic()
        try:
            case(*arguments)
        except Exception as fault:
            print(f"FAILED  {name}: {fault}", flush=True)
            if not isinstance(fault, Missed):
                traceback.print_exc()
            return False
        print(f"passed  {name} ({time.monotonic() - began:.1f} s)", flush=True)
        return True

    # Most of a story is the start of its processes.
    with ThreadPoolExecutor(2) as pool:
        played = [good for good in pool.map(play, cases) if good is not None]
    print(f"{played.count(True)} passed, {played.count(False)} failed")
    sys.exit(0 if played and all(played) else 1)


if __name__ == "__main__":
    main()
