"""The processes of one story: a server, relatch, a client (or two), nginx; killed for real, and all gone at the end.

Decides nothing about right and wrong: cases.py does. Every wait here has a deadline, and the reason why it waited is in its error.
"""

import json
import os
import queue
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from pathlib import Path

from .front import Front

MARK = "RELATCH_INTEROP_STORY"
PROTOCOL_LINE = re.compile(r"http://127\.0\.0\.1:(\d+)/([\w-]+)/mcp")


class Missed(Exception):
    """Something that the case waits for did not come, or came wrong."""


_ports_taken = set()
_ports_lock = threading.Lock()


def free_port():
    """A port that nothing listens on, below the ephemeral range so that no client socket takes it during a downtime."""
    with _ports_lock:
        while True:
            port = random.randint(18000, 31000)
            if port in _ports_taken:
                continue
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            _ports_taken.add(port)
            return port


def tail(path, lines=15):
    try:
        return Path(path).read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


class World:
    def __init__(self, server, client, side, out, direct=False, relatch=None):
        self.server_peer, self.client_peer, self.side = server, client, side
        self.direct, self.relatch = direct, relatch
        self.mark = uuid.uuid4().hex
        self.folder = Path(tempfile.mkdtemp(prefix="relatch-it-"))
        self.out = Path(out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.ledger = self.folder / "ledger.jsonl"
        self.port = free_port()
        # A world without a server of its own has its address all the same.
        self.upstream = f"http://127.0.0.1:{self.port}{server.path if server else '/mcp'}"
        self.server = self.keeper = self.nginx = self.front = None
        self.keeper_port = self.nginx_port = 0
        # More options for `relatch stdio` and `relatch serve`.
        self.treatment = []
        self.clients, self.spawned, self.log = [], [], []
        self.started = time.monotonic()
        self.deadline = self.started + 60
        (self.folder / "run").mkdir(mode=0o700)
        (self.folder / "state").mkdir()

    # --- time -------------------------------------------------------------------------------------------------------

    def note(self, words):
        self.log.append(f"{time.monotonic() - self.started:7.2f}  {words}")

    def left(self, seconds):
        return max(0.0, min(seconds, self.deadline - time.monotonic()))

    def until(self, condition, seconds, what):
        """Waits for a true value of `condition()`."""
        end = time.monotonic() + self.left(seconds)
        while True:
            if value := condition():
                return value
            if time.monotonic() > end:
                raise Missed(f"{what} (waited {seconds} s)")
            time.sleep(0.02)

    def downtime(self, seconds):
        """The server stays away: not a wait for something, the story itself."""
        self.note(f"away for {seconds} s")
        time.sleep(self.left(seconds))

    # --- processes --------------------------------------------------------------------------------------------------

    def environment(self, extra=()):
        return {
            **os.environ,
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "PYTHONUNBUFFERED": "1",
            "FASTMCP_CHECK_FOR_UPDATES": "off",
            MARK: self.mark,
            **dict(extra),
        }

    def spawn(self, name, command, extra=(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL):
        with open(self.out / f"{name}.stderr", "ab") as errors:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=errors,
                env=self.environment(extra),
                cwd=self.folder,
                start_new_session=True,
            )
        self.spawned.append(process)
        return process

    def start_server(self, variant=1, json=False):
        command, extra = self.server_peer.start(self.port, self.ledger, variant, json)
        self.server = self.spawn("server", command, extra)
        self.note(f"server started, pid {self.server.pid}, port {self.port}, variant {variant}")
        self.until(self.listening, 20, f"the server {self.server_peer.name} does not listen on {self.port}")
        return self.server.pid

    def listening(self):
        if self.server.poll() is not None:
            raise Missed(f"the server ended by itself with {self.server.returncode}")
        try:
            socket.create_connection(("127.0.0.1", self.port), 0.5).close()
            return True
        except OSError:
            return False

    def kill_server(self):
        self.note(f"server killed, pid {self.server.pid}")
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait(5)

    def restart_server(self, variant=1, json=False):
        self.kill_server()
        return self.start_server(variant, json)

    def start_keeper(self):
        """`relatch serve` in front of the server; the same port again when it was started before."""
        name = "up"
        command = [self.relatch, "serve", f"{name}={self.upstream}"]
        command += ["--listen", f"127.0.0.1:{self.keeper_port}", "--no-token", "--state-dir", str(self.folder / "keeper")]
        command += self.treatment
        self.keeper = self.spawn("relatch", command, stdout=subprocess.PIPE)
        lines = queue.Queue()
        threading.Thread(target=self._copy_lines, args=(self.keeper.stdout, lines, "relatch.stdout"), daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=self.left(10))
            except queue.Empty:
                raise Missed("relatch serve did not say where it listens within 10 s") from None
            if line is None:
                raise Missed(f"relatch serve ended before it listened: {' | '.join(tail(self.out / 'relatch.stderr', 4))}")
            if (found := PROTOCOL_LINE.search(line)) and found[2] == name:
                self.keeper_port = int(found[1])
                self.note(f"relatch serves on {self.keeper_port}, pid {self.keeper.pid}")
                return found[0]

    def _copy_lines(self, pipe, lines, name):
        with open(self.out / name, "a") as copy:
            for raw in pipe:
                line = raw.decode(errors="replace")
                copy.write(line)
                copy.flush()
                lines.put(line)
        lines.put(None)

    def kill_keeper(self):
        self.note(f"relatch killed, pid {self.keeper.pid}")
        os.killpg(self.keeper.pid, signal.SIGKILL)
        self.keeper.wait(5)

    def start_nginx(self, wants=None):
        """nginx in front of the server; what is behind it stays `self.port`. The same port again when it ran before.

        With `wants`, only requests with this `Authorization` reach the server.
        """
        gate = f'if ($http_authorization != "{wants}") {{ return 401; }}' if wants else ""
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        front = self.nginx_port = self.nginx_port or free_port()
        root = self.folder / "nginx"
        root.mkdir(exist_ok=True)
        user = "user root;" if os.getuid() == 0 else ""
        kept = "".join(f"{kind}_temp_path {root}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (root / "nginx.conf").write_text(
            f"""{user}
daemon off; pid {root}/pid; worker_processes 1; error_log stderr warn;
events {{ worker_connections 64; }}
http {{
  access_log {self.out}/nginx.access;
  {kept}
  server {{
    listen 127.0.0.1:{front};
    location / {{
      {gate}
      proxy_pass http://127.0.0.1:{self.port};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_buffering off;
      proxy_read_timeout 1h;
    }}
  }}
}}
"""
        )
        self.nginx = self.spawn("nginx", [program, "-p", str(root), "-c", str(root / "nginx.conf"), "-e", "stderr"])
        self.upstream = f"http://127.0.0.1:{front}{self.server_peer.path}"

        def answers():
            try:
                socket.create_connection(("127.0.0.1", front), 0.5).close()
                return True
            except OSError:
                return False

        self.until(answers, 5, "nginx does not listen")
        self.note(f"nginx on {front}, in front of {self.port}")

    def start_front(self):
        """A way to relatch that can be cut."""
        if not self.keeper:
            self.start_keeper()
        self.front = Front(self.keeper_port)
        self.note(f"a way that can be cut on {self.front.port}")

    def reload_nginx(self):
        before = self.children(self.nginx.pid)
        os.kill(self.nginx.pid, signal.SIGHUP)
        self.until(lambda: self.children(self.nginx.pid) - before, 5, "nginx did not start a new worker")
        self.note("nginx reloaded")

    @staticmethod
    def children(pid):
        return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    def connect(self, name="client"):
        """A new client, connected the way this side asks for."""
        link = Link(self, name)
        self.clients.append(link)
        if self.direct:
            link.ask("connect", url=self.upstream, era="legacy", seconds=20)
        elif self.side == "stdio":
            link.ask("connect", command=[self.relatch, "stdio", self.upstream, *self.treatment], seconds=20)
        else:
            url = f"http://127.0.0.1:{self.keeper_port}/up/mcp" if self.keeper else self.start_keeper()
            if self.front:
                url = url.replace(f":{self.keeper_port}/", f":{self.front.port}/")
            link.ask("connect", url=url, seconds=20)
        return link

    # --- the ledger -------------------------------------------------------------------------------------------------

    def entries(self):
        try:
            return [json.loads(line) for line in self.ledger.read_text().splitlines()]
        except FileNotFoundError:
            return []

    def executions(self, key):
        return [entry for entry in self.entries() if entry.get("key") == key and not entry.get("cancelled")]

    # --- the end ----------------------------------------------------------------------------------------------------

    def transcript(self):
        lines = [*self.log]
        for name in sorted(self.out.glob("*.stderr")):
            if said := tail(name):
                lines += [f"--- {name.name}", *said]
        return lines

    def close(self):
        for link in self.clients:
            link.close()
        if self.front:
            self.front.close()
        for process in self.spawned:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        for process in self.spawned:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                pass
        # An SDK may start the stdio command in a session of its own; our mark in its environment finds it.
        for pid in self.marked():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(self.folder, ignore_errors=True)

    def marked(self):
        sign = f"{MARK}={self.mark}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if sign in (entry / "environ").read_bytes().split(b"\0"):
                        yield int(entry.name)
                except OSError:
                    continue


class Link:
    """A client process and the conversation with it."""

    def __init__(self, world, name, peer=None):
        self.world, self.name = world, name
        command = list((peer or world.client_peer).command)
        self.process = world.spawn(name, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.answers, self.events = {}, []
        # When each answer came.
        self.at = {}
        self.news = threading.Condition()
        self.writing = threading.Lock()
        self.gone = False
        self.n = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for raw in self.process.stdout:
            try:
                line = json.loads(raw)
            except ValueError:
                continue
            with self.news:
                if "event" in line:
                    self.events.append(line)
                    self.world.note(f"{self.name} event {raw[:300].decode(errors='replace').strip()}")
                else:
                    self.answers[line.get("n")] = line
                    self.at[line.get("n")] = time.monotonic()
                    # The raw text: an answer may be longer than anybody wants to write down again.
                    self.world.note(f"{self.name} answer {raw[:400].decode(errors='replace').strip()}")
                self.news.notify_all()
        with self.news:
            self.gone = True
            self.news.notify_all()

    def send(self, op, **details):
        """Sends a command and returns its number, without waiting."""
        with self.writing:
            self.n += 1
            line = {"n": self.n, "op": op, **{key: value for key, value in details.items() if value is not None}}
            self.world.note(f"{self.name} sends {json.dumps(line)[:200]}")
            try:
                self.process.stdin.write(json.dumps(line).encode() + b"\n")
                self.process.stdin.flush()
            except OSError:
                raise Missed(f"the client process {self.name} has ended") from None
            return self.n

    def answer(self, n, seconds=20):
        """The whole answer line, whether it went well or not."""
        end = time.monotonic() + self.world.left(seconds)
        with self.news:
            while n not in self.answers:
                wait = end - time.monotonic()
                if self.gone:
                    raise Missed(f"the client process {self.name} ended without answering command {n}")
                if wait <= 0:
                    raise Missed(f"no answer to command {n} within {seconds} s")
                self.news.wait(wait)
            return self.answers[n]

    def answered(self, n):
        with self.news:
            return self.answers.get(n)

    def ask(self, op, seconds=20, **details):
        return self.good(self.send(op, **details), seconds)

    def good(self, n, seconds=20):
        line = self.answer(n, seconds)
        if not line["ok"]:
            raise Missed(f"command {n} failed: {json.dumps(line['error'])[:400]}")
        return line.get("result") or {}

    def call(self, tool, seconds=20, progress=None, **args):
        return text_of(self.ask("call", tool=tool, args=args, progress=progress, seconds=seconds))

    def mark(self):
        with self.news:
            return len(self.events)

    def event(self, name, seconds=10, since=0, **wanted):
        """The first event after `since` with this name and these values."""
        end = time.monotonic() + self.world.left(seconds)
        with self.news:
            while True:
                for event in self.events[since:]:
                    if event["event"] == name and all(event.get(key) == value for key, value in wanted.items()):
                        return event
                wait = end - time.monotonic()
                if wait <= 0 or self.gone:
                    raise Missed(f"no event {name} {wanted or ''} within {seconds} s")
                self.news.wait(wait)

    def seen(self, name, since=0, **wanted):
        with self.news:
            return [e for e in self.events[since:] if e["event"] == name and all(e.get(k) == v for k, v in wanted.items())]

    def close(self):
        try:
            self.process.stdin.close()
            self.process.wait(2)
        except (OSError, subprocess.TimeoutExpired):
            pass


def text_of(result):
    """The text of a tool result that is no error."""
    said = " ".join(part.get("text", "") for part in result.get("content", []))
    if result.get("isError"):
        raise Missed(f"the tool reported an error: {said[:300]}")
    return said
