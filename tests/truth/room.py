"""The processes: a room with one `relatch serve` and everything that looks at it, and places in it, each with a server and
a client of its own. All of them are gone when the room is closed.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "interop"))

from harness.peers import CLIENTS, SERVERS
from harness.world import Link, Missed, World
from terminal import Terminal

# A world's own time limit is for one short story.
LONG_S = 24 * 3600


class Room(World):
    """One keeper that serves every upstream of its places."""

    def __init__(self, relatch, out):
        super().__init__(None, None, "http", out, relatch=relatch)
        self.deadline = self.started + LONG_S
        self.places, self.served, self.token = [], [], ""
        self.terminal = None

    def serve(self):
        self.served = [place.name for place in self.places if place.side == "http"]
        command = [self.relatch, "serve", *(f"{place.name}={place.upstream}" for place in self.places if place.side == "http")]
        command += ["--listen", "127.0.0.1:0", "--state-dir", str(self.folder / "keeper"), "--tell"]
        said = self.out / "relatch.stdout"
        with open(said, "w") as out:
            self.keeper = self.spawn("relatch", command, stdout=out)
        printed = self.until(lambda: "claude mcp add" in (text := said.read_text()) and text, 20, "relatch serve does not say where it listens")
        self.keeper_port = int(printed.split("/mcp", 1)[0].rsplit(":", 1)[1].split("/")[0])
        self.token = (self.folder / "keeper" / "token").read_text().strip()
        self.terminal = Terminal(self)

    def relatch_says(self, *line):
        return subprocess.run([self.relatch, *line], env=self.environment(), capture_output=True, text=True, timeout=30)

    def api(self, name):
        """What `/api/status` has of this upstream at this moment."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.keeper_port}/api/status", headers={"Relatch-Token": self.token})
        with urllib.request.urlopen(request, timeout=20) as answer:
            status = json.load(answer)
        return next(server for server in status["keepers"][0]["servers"] if server["name"] == name)

    def close(self):
        for place in self.places:
            place.close()
        if self.keeper:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.keeper.pid, signal.SIGCONT)
        super().close()
        if self.terminal:
            self.terminal.close()


class Place(World):
    """A server, perhaps something in front of it, and a client whose calls go through the room's keeper."""

    def __init__(self, room, name, server, client, side="http", behind=None):
        super().__init__(SERVERS[server], CLIENTS[client], side, room.out / name, relatch=room.relatch)
        self.deadline = self.started + LONG_S
        self.room, self.name, self.behind = room, name, behind
        self.treatment = ["--name", name, "--tell"]
        # Its client can't be asked.
        self.asleep = False
        self.link = self.door = self.noise = None
        room.places.append(self)
        if behind == "door":
            self.door = Door(self.port)
            self.upstream = f"http://127.0.0.1:{self.door.server_port}/mcp"

    def environment(self, extra=()):
        # `relatch stdio` is started by the client, and is one of the keepers of this room.
        home = self.room.folder
        more = {"XDG_RUNTIME_DIR": str(home / "run"), "XDG_STATE_HOME": str(home / "state"), "XDG_CONFIG_HOME": str(home / "config")}
        return super().environment({**more, **dict(extra)})

    def furnish(self):
        """Everything but the client, which needs the keeper."""
        if self.behind == "nginx":
            self.start_nginx()
        self.start_server()

    def attach(self):
        self.link = Link(self, "client")
        self.clients.append(self.link)
        if self.side == "stdio":
            self.link.ask("connect", command=[self.relatch, "stdio", self.upstream, *self.treatment], seconds=40)
        else:
            url = f"http://127.0.0.1:{self.room.keeper_port}/{self.name}/mcp"
            self.link.ask("connect", url=url, headers={"Relatch-Token": self.room.token}, seconds=40)
        self.link.ask("list_tools", seconds=40)
        self.use()

    def use(self, seconds=40):
        """One call of the client's; a server has to answer it."""
        said = self.link.call("echo", seconds=seconds, **{self.word: "hello"})
        if "hello" not in said:
            raise Missed(f"the echo is `{said}`")

    @property
    def word(self):
        return "text" if self.server_peer.contract else "message"

    # --- what goes wrong --------------------------------------------------------------------------------------------

    def stop_server(self):
        os.killpg(self.server.pid, signal.SIGSTOP)
        self.note(f"server stopped, pid {self.server.pid}")

    def wake_server(self):
        os.killpg(self.server.pid, signal.SIGCONT)
        self.note(f"server wakes, pid {self.server.pid}")

    def web_server(self):
        """Another program takes the port: Python's own web server, which knows no POST."""
        self.kill_server()
        self.server = self.spawn("web", [sys.executable, "-m", "http.server", str(self.port), "--bind", "127.0.0.1", "--directory", str(self.folder)])
        self.until(self.listening, 20, "the web server does not listen")

    def make_noise(self):
        """Another program takes the port that speaks no HTTP."""
        self.kill_server()
        self.noise = Noise(self.port)

    def end_noise(self):
        self.noise.close()
        self.noise = None

    def close(self):
        if self.noise:
            self.noise.close()
        if self.door:
            self.door.shutdown()
        # A stopped process takes nothing but this and SIGKILL.
        for process in self.spawned:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGCONT)
        super().close()


class Noise:
    """Greets as an SSH server does, and hangs up at the first word."""

    def __init__(self, port):
        self.listener = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                caller, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._greet, args=(caller,), daemon=True).start()

    def _greet(self, caller):
        with caller, contextlib.suppress(OSError):
            caller.settimeout(10)
            caller.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")
            caller.recv(4096)

    def close(self):
        with contextlib.suppress(OSError):
            # Wakes the thread that accepts.
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Door(ThreadingHTTPServer):
    """A reverse proxy that keeps its connections to relatch whatever happens behind it, and can ask for other credentials.

    It has no standing stream (405), so nothing but a question shows what became of the server.
    """

    daemon_threads = True

    def __init__(self, port):
        super().__init__(("127.0.0.1", 0), Passing)
        self.behind, self.revoked = port, False
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    PASSED = ("content-type", "mcp-session-id")

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(405)

    def do_POST(self):
        self.pass_on()

    def do_DELETE(self):
        self.pass_on()

    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.revoked:
            return self.answer(401, b"revoked", [("WWW-Authenticate", 'Bearer realm="truth"')])
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection", "content-length")}
        way = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=30)
        try:
            way.request(self.command, self.path, body or None, headers)
            got = way.getresponse()
            text = got.read()
        except OSError:
            return self.answer(502)
        finally:
            way.close()
        self.answer(got.status, text, [(name, value) for name, value in got.getheaders() if name.lower() in self.PASSED])
