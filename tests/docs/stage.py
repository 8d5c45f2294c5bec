"""Where one page is played: a home folder of its own, real servers behind the addresses that the page names, keepers and
clients as the page starts them, and stand-ins for programs that belong to others (a client, a service manager).

The ports of the documents are mapped to free ones; 7332 is the page's `relatch serve`, the others are MCP servers.
"""

import http.client
import json
import os
import pty
import random
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from pages import Wrong

SERVERS = {8761: "gmail", 8931: "files"}
KEEPER = 7332
ADDRESS = re.compile(r"\b(?:127\.0\.0\.1|localhost|0\.0\.0\.0):(\d{4,5})\b")
LONGEST = 60
# These only write down how they were called.
STAND_INS = ["claude", "codex", "gemini", "code", "launchctl", "loginctl", "journalctl", "docker", "brew", "sudo", "notify-send", "xdg-open", "open"]

RECORD = """#!/bin/sh
exec {python} {me} record {folder} "$(basename "$0")" "$@"
"""
SYSTEMCTL = """#!/bin/sh
case "$*" in *restart*-mcp*) exec {python} {me} restart {folder} "$(echo "$*" | sed 's/.* \\([a-z]*\\)-mcp.*/\\1/')";; esac
exec {python} {me} record {folder} systemctl "$@"
"""
# Whatever server `npx` is to run, an installed one speaks in its place.
NPX = """#!/bin/sh
exec {setup}/bin/node {setup}/node_modules/@modelcontextprotocol/server-everything/dist/index.js stdio
"""
# What `cargo run … -- ARGS` runs is what was built.
CARGO = """#!/bin/sh
while [ $# -gt 0 ]; do [ "$1" = "--" ] && shift && exec relatch "$@"; shift; done
"""


_taken, _taking = set(), threading.Lock()


def free_port():
    """Below the ephemeral range, so that no client's socket takes it while its server is away."""
    with _taking:
        while True:
            port = random.randint(18000, 31000)
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            if port not in _taken:
                _taken.add(port)
                return port


def until(condition, seconds, what):
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise Wrong(what() if callable(what) else what)
        time.sleep(0.02)
    return value


def listens(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def in_group(group):
    """Whether anything of a process group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def begin_server(folder, name, port):
    process = subprocess.Popen(
        [os.environ["RELATCH"], "drill-server", "--port", str(port), "--ledger", str(folder / f"{name}.ledger")],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )
    (folder / f"{name}.server").write_text(json.dumps({"pid": process.pid, "port": port}))
    until(lambda: listens(port), 20, f"the server `{name}` does not begin to listen")
    return process


def end_server(folder, name):
    running = json.loads((folder / f"{name}.server").read_text())
    try:
        os.kill(running["pid"], signal.SIGKILL)
    except ProcessLookupError:
        pass
    until(lambda: not listens(running["port"]), 10, f"the server `{name}` does not end")
    return running["port"]


class Stage:
    INITIALIZE = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "a-reader", "version": "1"}}

    def __enter__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="relatch-docs-"))
        self.home, self.bin = self.folder / "home", self.folder / "bin"
        for folder in (self.home, self.bin, self.folder / "run"):
            folder.mkdir(mode=0o700)
        self.relatch = str(Path(os.environ["RELATCH"]).resolve())
        (self.bin / "relatch").symlink_to(self.relatch)
        words = {"python": shlex.quote(sys.executable), "me": shlex.quote(str(Path(__file__).resolve())), "folder": shlex.quote(str(self.folder))}
        texts = {name: RECORD for name in STAND_INS} | {"systemctl": SYSTEMCTL, "cargo": CARGO, "npx": NPX}
        if not shutil.which("jq"):
            texts["jq"] = "#!/bin/sh\nexec cat\n"
        for name, text in texts.items():
            setup = shlex.quote(str(Path(__file__).resolve().parents[1] / "interop/.setup"))
            text = text.replace("{setup}", setup)
            (self.bin / name).write_text(text.replace("{python}", words["python"]).replace("{me}", words["me"]).replace("{folder}", words["folder"]))
            (self.bin / name).chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if name in ("LANG", "LC_ALL", "TMPDIR")}
        self.environment = kept | {
            "HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.folder / "run"), "PATH": f"{self.bin}:/usr/sbin:/usr/bin:/sbin:/bin",
            "RELATCH": self.relatch, "TERM": "xterm", "GMAIL_TOKEN": "a-token", "TICKETS_KEY": "a-key", "LINEAR_TOKEN": "another",
        }
        self.ports, self.keeper, self.processes = {}, None, []
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            self.end(process)
        for running in self.folder.glob("*.server"):
            end_server(self.folder, running.name.removesuffix(".server"))
        shutil.rmtree(self.folder, ignore_errors=True)

    def end(self, process):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # --- names of the documents, and what stands for them here ---------------------------------------------------------------

    def port(self, written):
        if written not in self.ports:
            self.ports[written] = free_port()
            if written in SERVERS:
                self.processes.append(begin_server(self.folder, SERVERS[written], self.ports[written]))
        return self.ports[written]

    def real(self, text):
        # What takes minutes is tried in seconds.
        text = text.replace("--idle 10m", "--idle 1s")
        own = set(self.ports.values())
        text = ADDRESS.sub(
            lambda match: match.group() if int(match.group(1)) in own else f"127.0.0.1:{self.port(int(match.group(1)))}", text
        )
        return re.sub(r"\bTOKEN\b", lambda _: self.token(), text) if re.search(r"\bTOKEN\b", text) else text

    def token(self):
        file = self.home / ".local/state/relatch/token"
        if not file.exists():
            raise Wrong("the page asks for the token before it has started `relatch serve`")
        return file.read_text().strip()

    def direct(self, direction):
        if direction == "start-keeper":
            self.serve("relatch serve gmail=http://127.0.0.1:8761/mcp")
            return
        if direction == "cursor-has-gmail":
            (self.home / ".cursor").mkdir()
            (self.home / ".cursor/mcp.json").write_text(self.real('{"mcpServers": {"gmail": {"url": "http://127.0.0.1:8761/mcp"}}}'))
            return
        what, name = direction.split()
        written = next(port for port, known in SERVERS.items() if known == name)
        port = self.port(written)
        if what == "kill":
            end_server(self.folder, name)
        elif what == "start":
            self.processes.append(begin_server(self.folder, name, port))
        elif what == "attach":
            process = self.spawn(f"relatch stdio http://127.0.0.1:{port}/mcp --name {name}", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.talk(process)
        else:
            raise Wrong(f"`{direction}` is no direction")

    # --- what a page starts --------------------------------------------------------------------------------------------------

    def spawn(self, command, **pipes):
        errors = open(self.folder / f"{len(self.processes)}.stderr", "w+b")
        pipes = {"stdin": subprocess.DEVNULL, "stdout": errors} | pipes
        process = subprocess.Popen(["bash", "-c", command], env=self.environment, cwd=self.home, stderr=errors, start_new_session=True, **pipes)
        process.errors = Path(errors.name)
        errors.close()
        self.processes.append(process)
        return process

    def listening(self, command):
        """Where it listens by default may be taken on this machine."""
        if "--listen" in command:
            return command
        return command.replace("relatch serve", f"relatch serve --listen 127.0.0.1:{KEEPER}")

    def serve(self, command):
        if self.keeper:
            self.end(self.keeper)
        command = self.real(self.listening(command))
        self.keeper = self.spawn(command)

        def begun():
            said = self.keeper.errors.read_text()
            if self.keeper.poll() is not None:
                raise Wrong(f"`{command}` ended with {self.keeper.returncode}: {said}")
            return said if "The page is at" in said else None

        return until(begun, 20, f"`{command}` does not begin to serve")

    def look_on(self, command):
        """A command that goes on until it is ended, on a terminal: it says something, and ends when told to."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(["bash", "-c", self.real(command)], env=self.environment, cwd=self.home, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        self.processes.append(process)
        said = b""
        end = time.monotonic() + 15
        try:
            while not said and time.monotonic() < end and process.poll() is None:
                if select.select([ours], [], [], 0.1)[0]:
                    said += os.read(ours, 65536)
            if not said:
                raise Wrong("it says nothing")
            os.write(ours, b"q")
            # As a terminal does it: to the shell and to what it has started.
            os.killpg(process.pid, signal.SIGINT)
            while process.poll() is None and time.monotonic() < end:
                if select.select([ours], [], [], 0.05)[0]:
                    said += os.read(ours, 65536)
        except OSError:
            process.wait(timeout=10)
        finally:
            os.close(ours)
        if process.poll() is None:
            raise Wrong("it does not end when it is told to")
        until(lambda: not in_group(process.pid), 10, "what it has started does not end")
        # A shell that ends takes its terminal along.
        if process.returncode not in (0, 1, 130, -signal.SIGINT, -signal.SIGHUP):
            raise Wrong(f"it ended with {process.returncode}: {said.decode(errors='replace')}")
        return said.decode(errors="replace")

    def asked(self, command, may, expected):
        command = self.real(command)
        end = time.monotonic() + 12
        while True:
            done = subprocess.run(["bash", "-o", "pipefail", "-c", command], env=self.environment, cwd=self.home, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=LONGEST)
            said = done.stdout + done.stderr
            try:
                if done.returncode not in may:
                    raise Wrong(f"ended with {done.returncode}\n{said}")
                return self.like(said, expected)
            except Wrong:
                # A question may be asked before what it is about has happened.
                if not expected or time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def like(self, said, expected):
        """The lines stand there in their order; `…` stands for anything, a run of blanks for any other."""
        lines = [re.sub(r"\s+", " ", line).strip() for line in said.splitlines()]
        at = 0
        for line in expected:
            wanted = re.sub(r"\s+", " ", self.real(line)).strip()
            pattern = ".*".join(re.escape(part) for part in wanted.split("…"))
            while at < len(lines) and not re.fullmatch(pattern, lines[at]):
                at += 1
            if at == len(lines):
                raise Wrong(f"it does not print `{line}` (here: `{wanted}`), but:\n{said}")
            at += 1

    # --- clients -------------------------------------------------------------------------------------------------------------

    def recorded_clients(self):
        """What a client was told to start or to call since this was last asked."""
        record, found = self.folder / "record", []
        if not record.exists():
            return []
        for line in record.read_text().splitlines():
            program, *words = json.loads(line)
            if program in ("claude", "codex", "gemini") and words[:2] == ["mcp", "add"]:
                urls = [word for word in words if word.startswith("http:")]
                if "--" in words:
                    found.append(shlex.join(words[words.index("--") + 1 :]))
                elif urls:
                    headers = [words[at + 1] for at, word in enumerate(words[:-1]) if word in ("--header", "-H")]
                    found.append(shlex.join(["http", urls[0], *headers]))
        record.unlink()
        return found

    def play_client(self, how):
        """Does what a client does that was configured so: opens a session and asks for the tools."""
        words = shlex.split(self.real(how))
        if words[0] == "http":
            self.over_http(words[1], dict(header.split(": ", 1) for header in words[2:]))
            return ""
        if words[0] != "relatch":
            raise Wrong(f"`{words[0]}` is not relatch")
        ours = any("127.0.0.1" in word for word in words) or "--" in words
        if not ours:
            at = words.index("--") if "--" in words else len(words)
            done = subprocess.run([self.relatch, *words[1:at], "--help"], capture_output=True, text=True, timeout=20)
            if done.returncode:
                raise Wrong(done.stderr)
            return ""
        process = self.spawn(shlex.join(words), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.talk(process)
        process.stdin.close()
        try:
            code = process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            raise Wrong("it does not end when its client does") from None
        if code:
            raise Wrong(f"it ended with {code}: {process.errors.read_text()}")
        return process.errors.read_text()

    def talk(self, process):
        def answer(number, method, params):
            message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
            end = time.monotonic() + 20
            while time.monotonic() < end and select.select([process.stdout], [], [], 20)[0]:
                line = process.stdout.readline()
                if not line:
                    break
                read = json.loads(line)
                if read.get("id") == number and "method" not in read:
                    if "result" not in read:
                        raise Wrong(f"`{method}` is answered with {line.decode()}")
                    return read["result"]
            raise Wrong(f"`{method}` is not answered: {process.errors.read_text()}")

        answer(1, "initialize", self.INITIALIZE)
        process.stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        if not answer(2, "tools/list", {})["tools"]:
            raise Wrong("the server's tools do not come through")

    def over_http(self, url, headers):
        place = urlsplit(url)
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **headers}

        def ask(number, method, params):
            connection = http.client.HTTPConnection(place.hostname, place.port, timeout=20)
            connection.request("POST", place.path, body=json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}), headers=headers)
            response = connection.getresponse()
            text = response.read().decode()
            connection.close()
            if response.status != 200 or '"result"' not in text:
                raise Wrong(f"`{method}` at {url} is answered with {response.status}: {text}")
            return response, text

        response, _ = ask(1, "initialize", self.INITIALIZE)
        headers["Mcp-Session-Id"] = response.getheader("Mcp-Session-Id", "")
        if '"tools"' not in ask(2, "tools/list", {})[1]:
            raise Wrong("the server's tools do not come through")

    def configuration(self, text):
        """A `relatch.toml` of the documents has no fault."""
        folder = self.folder / "configuration"
        folder.mkdir(exist_ok=True)
        (folder / "relatch.toml").write_text(self.real(text))
        for name in re.findall(r"\$\{file:([\w.]+)\}", text):
            (folder / name).write_text("a-key\n")
            (folder / name).chmod(0o600)
        self.asked(f"relatch config check --config {shlex.quote(str(folder / 'relatch.toml'))}", [0], [])

    # --- nginx ---------------------------------------------------------------------------------------------------------------

    def nginx(self, text):
        """The block in a real nginx, with a client that goes through it."""
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        if not Path(program).exists():
            raise Wrong("nginx is not installed: `bash tests/interop/setup.sh`")
        root = self.folder / f"nginx-{len(self.processes)}"
        root.mkdir()
        front = int(re.search(r"listen\s+127\.0\.0\.1:(\d+)", text).group(1))
        keeper = f":{KEEPER}" in text
        listen, text = self.port(front), self.real(text)
        kept = "".join(f"{kind}_temp_path {root}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        user = "user root;" if os.getuid() == 0 else ""
        (root / "nginx.conf").write_text(
            f"{user}\ndaemon off; pid {root}/pid; worker_processes 1; error_log stderr warn;\nevents {{ worker_connections 64; }}\n"
            f"http {{\naccess_log off;\n{kept}{text}\n}}\n"
        )
        process = self.spawn(shlex.join([program, "-e", "stderr", "-p", str(root), "-c", str(root / "nginx.conf")]))

        def begun():
            if process.poll() is not None:
                raise Wrong(f"nginx ended: {process.errors.read_text()}")
            return listens(listen)

        until(begun, 10, "nginx does not begin to listen")
        if keeper:
            self.over_http(f"http://127.0.0.1:{listen}/gmail/mcp", {"Relatch-Token": self.token()})
        else:
            self.play_client(f"relatch stdio http://127.0.0.1:{listen}/mcp")


def main():
    what, folder, *rest = sys.argv[1:]
    folder = Path(folder)
    if what == "record":
        with open(folder / "record", "a") as record:
            record.write(json.dumps(rest) + "\n")
    elif what == "restart":
        begin_server(folder, rest[0], end_server(folder, rest[0]))


if __name__ == "__main__":
    main()
