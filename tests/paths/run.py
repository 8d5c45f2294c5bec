#!/usr/bin/env python3
"""Every way to a server, with real SDK servers and clients: unix sockets, private authorities and client certificates, proxies,
names that move, IPv6, and a server whose network is gone without a word.

`RELATCH=target/debug/relatch python3 tests/paths/run.py [WORD …]`. The peers are those of tests/interop, which tests/interop/setup.sh
installs, with nginx, tinyproxy and nss_wrapper (names without root). The last story needs root and `ip netns`, and says so where
it is left out. Every wait has a deadline.
"""

import glob
import json
import os
import queue
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

from harness.peers import CLIENTS, SERVERS, SETUP, PEERS, relatch_path
from harness.world import Link, Missed, World, free_port

OUT = HERE / "out"
NAME = "mcp.relatch.test"
SECRET = "s3cret-of-the-proxy"


def expect(holds, what):
    if not holds:
        raise Missed(what)


class Stage:
    """A server, whatever stands before it, relatch, a client and a folder."""

    def __init__(self, story, server="ts1", client="ts1", seconds=90):
        self.world = World(SERVERS[server], CLIENTS[client], "stdio", OUT / story, relatch=relatch_path())
        self.world.deadline = time.monotonic() + seconds
        self.folder = self.world.folder
        self.link = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        (self.world.out / "story.log").write_text("\n".join(self.world.transcript()))
        self.world.close()

    def connect(self, *line, env=(), name="client", client=None):
        """A client that starts `relatch stdio LINE…`."""
        self.link = Link(self.world, name, client)
        command = ["env", *env, relatch_path(), "stdio", "--name", "it", *map(str, line)]
        return self.link.answer(self.link.send("connect", command=command), 30)

    def connected(self, *line, **more):
        answer = self.connect(*line, **more)
        expect(answer["ok"], f"no connection: {json.dumps(answer)[:600]}")
        return self.link

    def refused(self, words, *line, **more):
        """What a client hears that can't be connected."""
        answer = self.connect(*line, **more)
        said = json.dumps(answer)
        status = self.relatch("status")
        for word in words:
            expect(not answer["ok"] and (word in said or word in status), f"`{word}` is not in {said} or {status}")
        expect(SECRET not in said + status, f"a secret is shown: {said} {status}")
        self.link.close()
        return said

    def relatch(self, *line):
        done = subprocess.run([relatch_path(), *line], env=self.world.environment(), capture_output=True, text=True, timeout=20)
        return done.stdout + done.stderr

    def echo(self, text):
        expect(text in self.link.call("echo", text=text), f"no echo of {text}")

    def once(self, key):
        self.link.call("count", key=key)
        expect(len(self.world.executions(key)) == 1, f"`{key}` ran {len(self.world.executions(key))} times")

    def nginx(self, name, listen, extra="", to=None, root=None):
        """nginx at `listen`, before the server unless `extra` says otherwise."""
        root = self.folder / name
        root.mkdir(exist_ok=True)
        user = "user root;" if os.getuid() == 0 else ""
        kept = "".join(f"{kind}_temp_path {root}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        where = extra if "location" in extra else extra + f"""
    location / {{
      proxy_pass http://127.0.0.1:{to or self.world.port}; proxy_http_version 1.1; proxy_buffering off; proxy_read_timeout 1h;
      proxy_set_header Connection ""; proxy_set_header Host 127.0.0.1:{to or self.world.port};
    }}"""
        (root / "nginx.conf").write_text(
            f"""{user} daemon off; pid {root}/pid; worker_processes 1; error_log stderr warn;
events {{ worker_connections 64; }}
http {{ access_log off; {kept}
  server {{ listen {listen};
    {where}
  }}
}}
"""
        )
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        return [program, "-p", str(root), "-c", str(root / "nginx.conf"), "-e", "stderr"]

    def start(self, name, command, at):
        process = self.world.spawn(name, command)

        def answers():
            expect(process.poll() is None, f"{name} has ended with {process.poll()}")
            try:
                socket.create_connection(at, 0.5).close()
                return True
            except OSError:
                return False

        self.world.until(answers, 10, f"{name} to listen at {at}")
        return process

    def end(self, process):
        """Kills a server, and waits for the death of all of it: a part that dies later may take what it will never do."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)
        self.world.until(lambda: all(state(pid) in "ZX" for pid in members(process.pid)), 5, "a killed server to be gone")

    def serve(self, *line, env=()):
        """`relatch serve` with these options; its address of the server."""
        command = ["env", *env, relatch_path(), "serve", "--no-token", "--state-dir", str(self.folder / "keeper"), *map(str, line)]
        keeper = self.world.spawn("relatch", command, stdout=subprocess.PIPE)
        lines = queue.Queue()

        def read():
            for raw in keeper.stdout:
                lines.put(raw.decode())

        threading.Thread(target=read, daemon=True).start()
        try:
            return keeper, lines.get(timeout=10).split()[1]
        except (queue.Empty, IndexError):
            errors = (self.world.out / "relatch.stderr").read_text()
            raise Missed(f"relatch serve did not say where it listens: {errors}") from None


class Authority:
    """A certificate authority of one's own, by openssl."""

    def __init__(self, folder, name):
        self.folder = folder / name
        self.folder.mkdir()
        self.pem, self.key = self.folder / "ca.pem", self.folder / "ca.key"
        self.run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", f"/CN={name}",
                 "-keyout", self.key, "-out", self.pem, "-addext", "basicConstraints=critical,CA:TRUE")

    def run(self, *line):
        done = subprocess.run(["openssl", *map(str, line)], capture_output=True, text=True, cwd=self.folder)
        expect(done.returncode == 0, f"openssl {line}: {done.stderr}")

    def signs(self, file, names, days=30):
        cert, key, asked, about = (self.folder / f"{file}.{end}" for end in ("pem", "key", "csr", "ext"))
        self.run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={file}", "-keyout", key, "-out", asked)
        about.write_text(f"subjectAltName={names}\nbasicConstraints=CA:FALSE\n")
        self.run("x509", "-req", "-in", asked, "-CA", self.pem, "-CAkey", self.key, "-CAcreateserial", "-days", days, "-extfile", about, "-out", cert)
        return cert, key


def names(folder, **addresses):
    """The environment of a program for which these names exist."""
    found = glob.glob("/usr/lib/*/libnss_wrapper.so") + glob.glob("/usr/lib/libnss_wrapper.so")
    expect(found, "nss_wrapper is missing: run tests/interop/setup.sh")
    hosts = folder / "hosts"
    write_names(hosts, addresses)
    return hosts, [f"LD_PRELOAD={found[0]}", f"NSS_WRAPPER_HOSTS={hosts}"]


def write_names(hosts, addresses):
    # In one step: nobody reads half of it.
    new = hosts.with_suffix(".new")
    new.write_text("".join(f"{address} {name}\n" for name, address in addresses.items()))
    new.replace(hosts)


def members(group):
    """The processes of a group."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if int(entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()[2]) == group:
                    yield entry.name
            except OSError:
                continue


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "X"


# --- stories --------------------------------------------------------------------------------------------------------


def a_server_at_a_unix_socket(server, client):
    with Stage(f"socket-{server}-{client}", server, client) as stage:
        path = stage.folder / "mcp.sock"
        peer = SERVERS[server].command
        command = [peer[0], str(HERE / "at_socket.py"), str(path), peer[1], "--port", "0", "--ledger", str(stage.world.ledger), "--variant", "1"]

        def start():
            process = stage.world.spawn("server", command)

            def answers():
                with socket.socket(socket.AF_UNIX) as probe:
                    return probe.connect_ex(str(path)) == 0

            stage.world.until(answers, 20, "the server to listen at its socket")
            return process

        running = start()
        stage.connected(f"unix:{path}")
        stage.once("before")
        for turn in range(2):
            stage.end(running)
            held = stage.link.send("call", tool="count", args={"key": f"held-{turn}"})
            running = start()
            stage.link.good(held, 30)
            expect(len(stage.world.executions(f"held-{turn}")) == 1, "the call did not run once")
        status = stage.relatch("status", "it")
        expect(f"unix:{path}" in status and "healthy" in status, status)
        stage.end(running)
        path.unlink()
        # A call that nobody answers keeps the story going: the truth about it is what counts.
        stage.link.send("call", tool="echo", args={"text": "x"})
        stage.world.until(lambda: "no socket is there" in stage.relatch("status", "it"), 10, "the missing socket to be named")


def a_private_authority_and_a_client_certificate(client):
    with Stage(f"mutual-{client}", "ts1", client) as stage:
        ours, others = Authority(stage.folder, "ours"), Authority(stage.folder, "others")
        cert, key = ours.signs("server", "DNS:localhost,IP:127.0.0.1")
        mine, my_key = ours.signs("relatch", "DNS:relatch")
        foreign, foreign_key = others.signs("relatch", "DNS:relatch")
        # In use: files that will be replaced while everything runs.
        use = {name: stage.folder / name for name in ("ca.pem", "server.pem", "server.key", "relatch.pem", "relatch.key")}
        for source, name in ((ours.pem, "ca.pem"), (cert, "server.pem"), (key, "server.key"), (mine, "relatch.pem"), (my_key, "relatch.key")):
            shutil.copy(source, use[name])
        port = free_port()
        extra = f"ssl_certificate {use['server.pem']}; ssl_certificate_key {use['server.key']}; ssl_client_certificate {use['ca.pem']}; ssl_verify_client on;"
        command = stage.nginx("nginx", f"127.0.0.1:{port} ssl", extra)
        front = stage.start("nginx", command, ("127.0.0.1", port))
        stage.world.start_server()
        url = f"https://localhost:{port}/mcp"
        shows = ["--cert", use["relatch.pem"], "--key", use["relatch.key"]]
        stage.refused(["certificate-refused", "vouched for by nobody"], url, name="unknown-issuer")
        stage.refused(["certificate-refused", "wants a client certificate"], url, "--ca", use["ca.pem"], name="no-certificate")
        stage.refused(["certificate-refused", "refuses the client certificate"], url, "--ca", use["ca.pem"], "--cert", foreign, "--key", foreign_key, name="foreign")
        stage.connected(url, "--ca", use["ca.pem"], *shows)
        stage.once("before")
        stage.world.restart_server()
        stage.once("after")
        # All of it is renewed, by another authority, and the server restarts with it.
        cert, key = others.signs("server", "DNS:localhost")
        for source, name in ((others.pem, "ca.pem"), (cert, "server.pem"), (key, "server.key"), (foreign, "relatch.pem"), (foreign_key, "relatch.key")):
            shutil.copy(source, use[name])
        stage.end(front)
        stage.start("nginx", command, ("127.0.0.1", port))
        stage.world.restart_server()
        stage.once("renewed")


def what_is_wrong_with_certificates_is_said_at_once():
    with Stage("files") as stage:
        ours, others = Authority(stage.folder, "ours"), Authority(stage.folder, "others")
        cert, _ = ours.signs("relatch", "DNS:relatch")
        _, key = others.signs("other", "DNS:relatch")
        url = "https://localhost:9/mcp"
        for words, line in (
            ("it is not there", [url, "--ca", "/nowhere/ca.pem"]),
            ("holds no certificate", [url, "--ca", key]),
            ("does not fit the certificate", [url, "--cert", cert, "--key", key]),
            ("holds no private key", [url, "--cert", cert]),
            ("speaks no TLS", ["http://localhost:9/mcp", "--ca", cert]),
            ("is reached straight", [url, "--proxy", "http://proxy:1"]),
            ("not to `socks5://`", [url, "--proxy", f"socks5://me:{SECRET}@proxy:1"]),
            ("begins with `/`", ["unix:mcp.sock"]),
        ):
            said = stage.relatch("stdio", *map(str, line))
            expect(words in said and SECRET not in said, f"{line}: {said}")
        # In the file, with the secrets of the proxy's address.
        config = stage.folder / "relatch.toml"
        config.write_text(
            f'[server.a]\nurl = "https://mcp.example.com/mcp"\nca = "ours/ca.pem"\ncert = "ours/relatch.pem"\nkey = "ours/relatch.key"\n'
            f'proxy = "http://me:{SECRET}@proxy.example.com:3128"\n'
        )
        shown = stage.relatch("config", "show", "--config", str(config))
        expect('proxy = "http://proxy.example.com:3128"' in shown and str(ours.pem) in shown, shown)
        said = stage.relatch("config", "check", "--config", str(config))
        expect("nothing wrong" in said and "warning" not in said, said)
        config.write_text(config.read_text().replace("relatch.key", "relatch.pem"))
        said = stage.relatch("config", "check", "--config", str(config))
        expect("warning" in said and "holds no private key" in said and "nothing wrong" in said, said)
        for json_too in ((), ("--json",)):
            expect(SECRET not in stage.relatch("config", "show", *json_too, "--config", str(config)), "a secret is shown")


def a_proxy_on_the_way(client):
    with Stage(f"proxy-{client}", "ts1", client) as stage:
        ours = Authority(stage.folder, "ours")
        cert, key = ours.signs("server", f"DNS:{NAME}")
        port, proxy = free_port(), free_port()
        front = stage.nginx("nginx", f"127.0.0.1:{port} ssl", f"ssl_certificate {cert}; ssl_certificate_key {key};")
        stage.start("nginx", front, ("127.0.0.1", port))
        stage.world.start_server()
        # Only the proxy knows the name.
        _, known = names(stage.folder, **{NAME: "127.0.0.1"})
        log = stage.world.out / "tinyproxy.log"
        conf = stage.folder / "tinyproxy.conf"
        conf.write_text(
            f'Port {proxy}\nListen 127.0.0.1\nTimeout 600\nLogFile "{log}"\nLogLevel Connect\nMaxClients 50\nAllow 127.0.0.1\n'
            f"BasicAuth me {SECRET}\nConnectPort {port}\n"
        )
        command = ["env", *known, shutil.which("tinyproxy") or "/usr/bin/tinyproxy", "-d", "-c", str(conf)]
        running = stage.start("tinyproxy", command, ("127.0.0.1", proxy))
        url = f"https://{NAME}:{port}/mcp"
        shown, at = f"http://127.0.0.1:{proxy}", f"{NAME}:{port}"
        by = [f"HTTPS_PROXY=http://me:{SECRET}@127.0.0.1:{proxy}"]
        stage.refused(["proxy-refused", f"`{shown}`", "wants credentials (407)", at], url, "--ca", ours.pem, "--proxy", shown, name="no-credentials")
        stage.refused(["unknown-host"], url, "--ca", ours.pem, "--proxy", "none", name="straight", env=by)
        other = f"http://{NAME}:{stage.world.port}/mcp"
        stage.refused(["proxy-refused", "does not allow connections", f"{NAME}:{stage.world.port}"], other, "--proxy", f"http://me:{SECRET}@127.0.0.1:{proxy}", name="forbidden")
        stage.connected(url, "--ca", ours.pem, env=by)
        stage.once("before")
        stage.world.restart_server()
        stage.once("after")
        # The proxy is away: calls wait for it.
        stage.end(running)
        held = stage.link.send("call", tool="count", args={"key": "held"})
        stage.world.until(lambda: "gives no way to" in stage.relatch("status", "it"), 15, "the absent proxy to be named")
        expect(SECRET not in stage.relatch("status", "--json") + stage.relatch("log"), "a secret is shown")
        stage.start("tinyproxy", command, ("127.0.0.1", proxy))
        stage.link.good(held, 40)
        expect(len(stage.world.executions("held")) == 1, "the held call did not run once")
        expect(f"CONNECT {NAME}:{port}" in log.read_text(), "nothing went through the proxy")


def a_name_that_moves():
    with Stage("moves", "ts1", "py1") as stage:
        port = free_port()
        hosts, known = names(stage.folder, **{NAME: "127.0.0.2"})
        stage.world.start_server()
        old = stage.start("old", stage.nginx("old", f"127.0.0.2:{port}"), ("127.0.0.2", port))
        stage.connected(f"http://{NAME}:{port}/mcp", env=known)
        stage.once("old")
        # It is answered elsewhere from now on; the old place is still there, and then gone.
        stage.start("new", stage.nginx("new", f"127.0.0.3:{port}"), ("127.0.0.3", port))
        write_names(hosts, {NAME: "127.0.0.3"})
        stage.end(old)
        stage.once("new")
        stage.world.restart_server()
        stage.once("restarted")


def a_server_and_relatch_at_addresses_of_the_newer_family():
    with Stage("ipv6", "ts1", "py1") as stage:
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            print("left out: this machine has no IPv6", flush=True)
            return
        port = free_port()
        stage.world.start_server()
        stage.start("nginx", stage.nginx("nginx", f"[::1]:{port}"), ("::1", port))
        keeper, url = stage.serve(f"up=http://[::1]:{port}/mcp", "--listen", "[::1]:0", "--allow-host", "[fd00::5]")
        expect(url.startswith("http://[::1]:") and url.endswith("/up/mcp"), url)
        stage.link = Link(stage.world, "client")
        stage.link.ask("connect", url=url)
        stage.once("before")
        stage.world.restart_server()
        stage.once("after")
        status = stage.relatch("status", "up")
        expect(f"http://[::1]:{port}/mcp" in status, status)
        # Who may speak to it.
        here = int(url.split("]:")[1].split("/")[0])
        for host, origin, may in (
            (f"[::1]:{here}", "", True), (f"[fd00::5]:{here}", "http://[fd00::5]", True), (f"[fd00::6]:{here}", "", False),
            (f"[::1]:{here}", "http://[::1]:3000", True), (f"[::1]:{here}", "http://[fd00::6]", False),
        ):
            with socket.create_connection(("::1", here), 5) as to:
                header = f"Origin: {origin}\r\n" if origin else ""
                to.sendall(f"GET /livez HTTP/1.1\r\nHost: {host}\r\n{header}Connection: close\r\n\r\n".encode())
                answer = to.makefile().readline()
            expect(("200" in answer) == may, f"{host} {origin}: {answer}")


def an_address_that_leads_elsewhere_is_named():
    with Stage("redirect") as stage:
        port = free_port()
        stage.start("nginx", stage.nginx("nginx", f"127.0.0.1:{port}", 'location / { return 301 "https://login.example.com/start?key=hidden"; }'), ("127.0.0.1", port))
        said = stage.refused(["redirected", "login.example.com/start"], f"http://127.0.0.1:{port}/mcp")
        expect("hidden" not in said, said)


def a_changed_way_is_followed_by_a_running_keeper():
    with Stage("reload") as stage:
        ours, others = Authority(stage.folder, "ours"), Authority(stage.folder, "others")
        cert, key = ours.signs("server", "DNS:localhost")
        port = free_port()
        stage.start("nginx", stage.nginx("nginx", f"127.0.0.1:{port} ssl", f"ssl_certificate {cert}; ssl_certificate_key {key};"), ("127.0.0.1", port))
        stage.world.start_server()
        config = stage.folder / "relatch.toml"
        text = f'[server.up]\nurl = "https://localhost:{port}/mcp"\nca = "%s/ca.pem"\n'
        config.write_text(text % "others")
        keeper, url = stage.serve("--config", config, "--listen", "127.0.0.1:0")
        link = Link(stage.world, "early")
        answer = link.answer(link.send("connect", url=url), 30)
        expect(not answer["ok"] and "vouched for by nobody" in json.dumps(answer), json.dumps(answer))
        config.write_text(text % "nowhere")
        said = stage.relatch("reload")
        expect("it is not there" in said and "goes on as it was" in said, said)
        config.write_text(text % "ours")
        said = stage.relatch("reload")
        expect("changed  up: ca, cert, key" in said, said)
        stage.link = Link(stage.world, "client")
        stage.link.ask("connect", url=url)
        stage.once("after")


class Apart:
    """A network of its own for a server, which can be gone without a word."""

    NAME, IN, OUT = "relatch-paths", "10.199.7.2", "10.199.7.1"

    def run(self, *line, may_fail=False):
        done = subprocess.run(line, capture_output=True, text=True)
        expect(may_fail or done.returncode == 0, f"{line}: {done.stderr}")
        return done.returncode == 0

    def __enter__(self):
        self.run("ip", "netns", "del", self.NAME, may_fail=True)
        self.run("ip", "netns", "add", self.NAME)
        self.run("ip", "link", "add", "rlpaths0", "type", "veth", "peer", "name", "rlpaths1", "netns", self.NAME)
        self.run("ip", "addr", "add", f"{self.OUT}/30", "dev", "rlpaths0")
        self.run("ip", "link", "set", "rlpaths0", "up")
        for line in (("addr", "add", f"{self.IN}/30", "dev", "rlpaths1"), ("link", "set", "rlpaths1", "up"), ("link", "set", "lo", "up")):
            self.run("ip", "netns", "exec", self.NAME, "ip", *line)
        return self

    def vanish(self):
        """Whatever the server's side would say goes nowhere from now on: no FIN, no RST, no ACK."""
        self.run("ip", "netns", "exec", self.NAME, "ip", "route", "add", "blackhole", f"{self.OUT}/32")

    def come_back(self):
        self.run("ip", "netns", "exec", self.NAME, "ip", "route", "del", "blackhole", f"{self.OUT}/32")

    def __exit__(self, *_):
        self.run("ip", "netns", "del", self.NAME, may_fail=True)

    @staticmethod
    def why_not():
        if os.getuid() != 0:
            return "it needs root"
        if not shutil.which("ip"):
            return "it needs `ip`"
        if subprocess.run(["ip", "netns", "add", "relatch-may"], capture_output=True).returncode:
            return "this kernel or container lets nobody make networks"
        subprocess.run(["ip", "netns", "del", "relatch-may"], capture_output=True)
        return None


def a_server_whose_network_is_gone_without_a_word():
    if why := Apart.why_not():
        print(f"left out: a server whose network is gone: {why}", flush=True)
        return
    with Stage("vanished", "ts1", "ts1", seconds=120) as stage, Apart() as apart:
        port = stage.world.port
        inside = ["ip", "netns", "exec", apart.NAME]
        command, _ = SERVERS["ts1"].start(port, stage.world.ledger, 1, False)
        stage.world.spawn("server", [*inside, *command])
        front = stage.nginx("nginx", f"{apart.IN}:{port}")
        stage.start("nginx", [*inside, *front], (apart.IN, port))

        def up():
            line = stage.connect(f"http://{apart.IN}:{port}/mcp")
            return line["ok"]

        expect(up(), "no connection into the network")
        stage.once("before")
        began = time.monotonic()
        waits = stage.link.send("call", tool="slow", args={"key": "waits", "ms": 90000, "steps": 0})
        stage.world.until(lambda: "waits" in stage.world.ledger.read_text(), 10, "the call to arrive")
        apart.vanish()
        # It was sent and taken, so nothing but the silence of the other machine tells.
        failed = stage.link.answer(waits, 80)
        took = time.monotonic() - began
        expect(not failed["ok"] and "may have run" in json.dumps(failed), json.dumps(failed))
        print(f"        a call on a connection whose peer had vanished was given back after {took:.0f} s", flush=True)
        # A new call is not sent on anything old: it waits, and runs when the network is back.
        held = stage.link.send("call", tool="count", args={"key": "held"})
        apart.come_back()
        stage.link.good(held, 40)
        expect(len(stage.world.executions("held")) == 1, "the held call did not run once")


def main():
    if not relatch_path():
        sys.exit("paths: set RELATCH=/path/to/relatch")
    shutil.rmtree(OUT, ignore_errors=True)
    cases = [
        # The longest first: it waits for most of a minute, and the others run beside it.
        (a_server_whose_network_is_gone_without_a_word, ()),
        (a_server_at_a_unix_socket, ("fastmcp", "ts1")),
        (a_server_at_a_unix_socket, ("py1", "py1")),
        (a_private_authority_and_a_client_certificate, ("ts1",)),
        (a_private_authority_and_a_client_certificate, ("py2",)),
        (what_is_wrong_with_certificates_is_said_at_once, ()),
        (a_proxy_on_the_way, ("ts1",)),
        (a_name_that_moves, ()),
        (a_server_and_relatch_at_addresses_of_the_newer_family, ()),
        (an_address_that_leads_elsewhere_is_named, ()),
        (a_changed_way_is_followed_by_a_running_keeper, ()),
    ]
    only = sys.argv[1:]
    results = {True: 0, False: 0}

    def play(case, arguments):
        name = " ".join([case.__name__.replace("_", " "), *arguments])
        began = time.monotonic()
        try:
            case(*arguments)
            results[True] += 1
            print(f"passed  {name} ({time.monotonic() - began:.1f} s)", flush=True)
        except Exception as fault:
            results[False] += 1
            print(f"FAILED  {name}: {fault}", flush=True)
            if not isinstance(fault, Missed):
                traceback.print_exc()

    chosen = [(case, rest) for case, rest in cases if not only or any(word in " ".join([case.__name__.replace("_", " "), *rest]) for word in only)]
    beside = [threading.Thread(target=play, args=pair) for pair in chosen if pair[0] is a_server_whose_network_is_gone_without_a_word]
    for thread in beside:
        thread.start()
    for case, arguments in chosen:
        if case is not a_server_whose_network_is_gone_without_a_word:
            play(case, arguments)
    for thread in beside:
        thread.join()
    print(f"{results[True]} passed, {results[False]} failed")
    sys.exit(1 if results[False] or not results[True] else 0)


if __name__ == "__main__":
    main()
