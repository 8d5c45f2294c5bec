#!/usr/bin/env python3
"""`relatch serve` as a service manager sees it: readiness, the watchdog, a socket that is handed over, SIGTERM.

`RELATCH=/path/to/relatch python3 tests/service/run.py`. This program plays the manager's part of `sd_notify(3)` and
`sd_listen_fds(3)`; where `systemd-analyze` is there, it reads the units that `relatch service install` writes.
"""

import json
import os
import plistlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

RELATCH = os.environ.get("RELATCH") or sys.exit("service: set RELATCH=/path/to/relatch")
DEADLINE = 20


class Server(BaseHTTPRequestHandler):
    """A small MCP server whose tool takes as long as the test wants."""

    protocol_version = "HTTP/1.1"
    came, go = threading.Event(), threading.Event()

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", *headers):
        self.send_response(status)
        for name, value in (("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(405)

    def do_DELETE(self):
        self.answer(200)

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "id" not in message:
            return self.answer(202)
        result = {}
        if message["method"] == "initialize":
            result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "slow", "version": "1"}}
        if message["method"] == "tools/call":
            Server.came.set()
            Server.go.wait(DEADLINE)
            result = {"content": [{"type": "text", "text": "finished"}]}
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
        self.answer(200, body, ("Content-Type", "application/json"), ("Mcp-Session-Id", "s1"))


class Manager:
    """The service manager's side of one keeper."""

    def __init__(self, home, upstream, hand_over=None, watchdog_ms=None):
        self.home, self.heard = Path(home), []
        self.notes = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notes.bind(f"{home}/notify")
        self.env = os.environ | {"HOME": home, "XDG_STATE_HOME": home, "RELATCH_RUNTIME_DIR": f"{home}/run", "NOTIFY_SOCKET": f"{home}/notify"}
        for name in ("LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC", "WATCHDOG_PID", "INVOCATION_ID"):
            self.env.pop(name, None)
        if watchdog_ms:
            self.env["WATCHDOG_USEC"] = str(watchdog_ms * 1000)
        command = [RELATCH, "serve", f"slow={upstream}", "--listen", "127.0.0.1:0"]
        if hand_over:
            # The process id that `LISTEN_PID` has to name is known only in the new process.
            command = ["sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&0 </dev/null', "sh", *command]
        self.process = subprocess.Popen(
            command, env=self.env, stdin=hand_over or subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.first = None

    def hears(self, word):
        """Waits for a datagram that has this line; what else comes is kept."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            if word in self.heard:
                self.heard.remove(word)
                return
            if select.select([self.notes], [], [], 0.1)[0]:
                self.heard += self.notes.recv(4096).decode().splitlines()
        sys.exit(f"service: `{word}` was never said; heard {self.heard}")

    def address(self):
        if self.first is None:
            self.first = self.process.stdout.readline().split()[1]
        return self.first

    def token(self):
        return (self.home / "relatch/token").read_text().strip()

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.notes.close()


def must(holds, words):
    if not holds:
        sys.exit(f"service: {words}")


def post(manager, message, session=None):
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Relatch-Token": manager.token()}
    if session:
        headers["Mcp-Session-Id"] = session
    request = urllib.request.Request(manager.address(), json.dumps({"jsonrpc": "2.0"} | message).encode(), headers)
    with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
        return answer.headers["Mcp-Session-Id"], answer.read().decode()


def initialize(manager):
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    session, _ = post(manager, {"id": 1, "method": "initialize", "params": params})
    post(manager, {"method": "notifications/initialized"}, session)
    return session


def ready_and_watched(home, upstream):
    manager = Manager(home, upstream, watchdog_ms=300)
    try:
        manager.hears("READY=1")
        initialize(manager)
        for _ in range(5):
            manager.hears("WATCHDOG=1")
        manager.process.send_signal(signal.SIGTERM)
        manager.hears("STOPPING=1")
        out, _ = manager.process.communicate(timeout=DEADLINE)
        must(manager.process.returncode == 0, f"it ended with {manager.process.returncode}")
        must(manager.token() not in out, "a token went into the manager's log")
    finally:
        manager.end()


def a_stopped_keeper_shows_no_life(home, upstream):
    manager = Manager(home, upstream, watchdog_ms=300)
    try:
        manager.hears("READY=1")
        manager.hears("WATCHDOG=1")
        manager.process.send_signal(signal.SIGSTOP)
        while select.select([manager.notes], [], [], 0.5)[0]:
            manager.notes.recv(4096)
        must(not select.select([manager.notes], [], [], 0.6)[0], "a stopped process showed signs of life")
    finally:
        manager.process.send_signal(signal.SIGCONT)
        manager.end()


def handed_over(home, upstream):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        manager = Manager(home, upstream, hand_over=listening)
        try:
            manager.hears("READY=1")
            must(manager.address() == f"http://127.0.0.1:{port}/slow/mcp", f"it listens at {manager.address()}")
            initialize(manager)
        finally:
            manager.end()


def running_calls_finish(home, upstream):
    manager = Manager(home, upstream)
    try:
        manager.hears("READY=1")
        session = initialize(manager)
        got = []
        call = {"id": 2, "method": "tools/call", "params": {"name": "slow", "arguments": {}}}
        calling = threading.Thread(target=lambda: got.append(post(manager, call, session)[1]))
        calling.start()
        must(Server.came.wait(DEADLINE), "the call never came")
        manager.process.send_signal(signal.SIGTERM)
        manager.hears("STOPPING=1")
        must(manager.process.poll() is None, "it ended under a running call")
        Server.go.set()
        calling.join(DEADLINE)
        must(got and "finished" in got[0], f"the call got {got}")
        must(manager.process.wait(DEADLINE) == 0, "it did not end well")
    finally:
        Server.go.set()
        manager.end()


def units_are_read(home, upstream):
    env = os.environ | {"HOME": home, "XDG_STATE_HOME": home, "XDG_CONFIG_HOME": f"{home}/config"}
    install = [RELATCH, "service", "install", "--no-start"]
    done = subprocess.run([*install, "--manager", "systemd", "--socket", "--", f"slow={upstream}?a=1%2"], env=env, capture_output=True, text=True)
    must(done.returncode == 0, done.stderr)
    units = sorted(Path(home, "config/systemd/user").iterdir())
    must([unit.name for unit in units] == ["relatch.service", "relatch.socket"], f"{units}")
    if shutil.which("systemd-analyze"):
        # As system units: their syntax is the same, and the user's own manager need not run.
        done = subprocess.run(["systemd-analyze", "verify", *map(str, units)], env=env, capture_output=True, text=True)
        must(done.returncode == 0 and "relatch" not in done.stderr, done.stderr)
    done = subprocess.run([*install, "--manager", "launchd", "--", f"slow={upstream}?a=1&b=2"], env=env, capture_output=True, text=True)
    must(done.returncode == 0, done.stderr)
    plist = plistlib.loads(Path(home, "Library/LaunchAgents/dev.relatch.serve.plist").read_bytes())
    must(plist["ProgramArguments"][1:] == ["serve", f"slow={upstream}?a=1&b=2"], f"{plist}")


def main():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    upstream = f"http://127.0.0.1:{server.server_port}/mcp"
    cases = [ready_and_watched, a_stopped_keeper_shows_no_life, handed_over, running_calls_finish, units_are_read]
    for case in cases:
        with tempfile.TemporaryDirectory() as home:
            case(home, upstream)
        print("passed ", case.__name__.replace("_", " "), flush=True)
    print(f"{len(cases)} passed, 0 failed")


if __name__ == "__main__":
    main()
