#!/usr/bin/env python3
"""Adopts real configuration files, starts what they then say as a client does, and releases them byte for byte.

A server behind nginx lets nobody in without its header. Each client's file is adopted, its entry's command, arguments and
environment are taken out of the file and started by an SDK client, which calls, sees the server killed and started again,
and calls on. The header's value must be on no command line. Needs RELATCH=/path/to/relatch.

With `--via serve`, the entry points to a keeper that runs and reads `relatch.toml`; an SDK client goes where the entry says.

With `--clients DIR`, a folder of programs such as `node_modules/.bin`, the clients themselves are asked which servers they
read from the files: `claude mcp list`, `codex mcp list`, `gemini mcp list`. They are large, and not installed by the tests.
"""

import argparse
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

from harness import cases
from harness.peers import CLIENTS, OLD_SERVERS, SERVERS
from harness.world import Link, Missed, World, free_port

SECRET = "s3cret-that-is-on-no-command-line"
WANTS = f"Bearer {SECRET}"


def must(holds, words):
    if not holds:
        raise Missed(words)


def files(url, kind="http"):
    """Each client's file: where, its text, and how its entry is read."""
    entry = {"type": kind, "url": url, "headers": {"Authorization": WANTS}}
    listed = json.dumps({"numStartups": 3, "mcpServers": {"gated": entry}}, indent=2)
    remote = f'{{\n\t// mine\n\t"servers": {{\n\t\t"gated": {json.dumps(entry)},\n\t}},\n}}\n'
    zed = f'{{\n  // mine\n  "context_servers": {{\n    "gated": {{ "url": "{url}", "headers": {{ "Authorization": "{WANTS}" }} }},\n  }},\n}}\n'
    codex = f'[mcp_servers.gated] # mine\nurl = "{url}"\nhttp_headers = {{ Authorization = "{WANTS}" }}\n'
    named = f'[mcp_servers.gated]\nurl = "{url}"\nbearer_token_env_var = "GATED_TOKEN"\n'
    gemini = json.dumps({"mcpServers": {"gated": {"httpUrl": url, "headers": {"Authorization": "Bearer $GATED_TOKEN"}}}}, indent=1)
    plain = lambda *path: lambda text: at(json.loads(text), path)
    lenient = lambda *path: lambda text: at(json.loads(without_comments(text)), path)
    toml = lambda text: tomllib.loads(text)["mcp_servers"]["gated"]
    return [
        ("claude-code", ".claude.json", listed, plain("mcpServers", "gated")),
        ("vscode", ".config/Code/User/mcp.json", remote, lenient("servers", "gated")),
        ("zed", ".config/zed/settings.json", zed, lenient("context_servers", "gated")),
        ("codex", ".codex/config.toml", codex, toml),
        ("codex", ".codex/config.toml", named, toml),
        ("gemini", ".gemini/settings.json", gemini, plain("mcpServers", "gated")),
    ]


def at(value, path):
    for step in path:
        value = value[step]
    return value


def without_comments(text):
    """Enough for the files above: no string of theirs has `//` but addresses do."""
    lines = [line for line in text.splitlines() if not line.strip().startswith("//")]
    text = "\n".join(lines)
    for close in "}]":
        text = text.replace(f",\n\t\t{close}", f"\n{close}").replace(f",\n\t{close}", f"\n{close}")
        text = text.replace(f",\n  {close}", f"\n{close}").replace(f",\n{close}", f"\n{close}")
    return text


def started(entry):
    """Command and environment as the client would make them of the entry, its own variables put in."""
    given = {"GATED_TOKEN": SECRET}
    env = {}
    for key, value in entry.get("env", {}).items():
        for name, known in given.items():
            value = value.replace(f"${name}", known)
        env[key] = value
    for name in entry.get("env_vars", []):
        env[name] = given[name]
    return [entry["command"], *entry["args"]], env


def run(relatch, home, *line):
    env = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "CODEX_", "CLAUDE_"))}
    env |= {"HOME": str(home), "RELATCH_RUNTIME_DIR": str(home / "run")}
    ran = subprocess.run([relatch, *line], env=env, capture_output=True, text=True, timeout=60, cwd=home)
    must(ran.returncode == 0, f"`relatch {' '.join(line)}` ended with {ran.returncode}: {ran.stdout}{ran.stderr}")
    must(SECRET not in ran.stdout + ran.stderr, "the secret is shown")
    return ran


def command_lines(world):
    for pid in world.marked():
        try:
            yield (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue


def play(relatch, server, client, number, out, old=False):
    world = World((OLD_SERVERS if old else SERVERS)[server], CLIENTS[client], "stdio", out, relatch=relatch)
    home = Path(tempfile.mkdtemp(prefix="relatch-adopt-"))
    try:
        world.start_server()
        world.start_nginx(wants=WANTS)
        name, path, text, entry_of = files(world.upstream, "sse" if old else "http")[number]
        file = home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o600)
        run(relatch, home, "adopt", "--yes", "--client", name)
        after = file.read_text()
        must(after != text, "nothing was adopted")
        must(file.stat().st_mode & 0o777 == 0o600, "the file's mode is another")
        command, env = started(entry_of(after))
        must(command[0] == relatch, f"the command is {command[0]}")

        link = Link(world, "client")
        world.clients.append(link)
        world.link = link
        link.ask("connect", command=command, env=env, seconds=20)
        cases.work(world, "before")
        must(not any(SECRET in line for line in command_lines(world)), "the secret is on a command line")
        world.restart_server()
        cases.work(world, "after")
        link.close()

        run(relatch, home, "release", "--yes", "--client", name)
        must(file.read_text() == text, "it was not released byte for byte")
        return f"{name}, {Path(path).name}: adopted, called, restarted, called, released"
    except Missed as missed:
        sys.exit(f"adopt: {server} × {client}, file {number}: {missed}\n" + "\n".join(world.transcript()))
    finally:
        world.close()
        shutil.rmtree(home, ignore_errors=True)


def status_of(url, headers):
    """What an initialize is answered with."""
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **headers}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code


def kept(relatch, server, client, number, out, old=False):
    """The same before a keeper that runs: the file's server goes to it at once, and comes out of it again."""
    world = World((OLD_SERVERS if old else SERVERS)[server], CLIENTS[client], "http", out, relatch=relatch)
    home = Path(tempfile.mkdtemp(prefix="relatch-adopt-"))
    try:
        world.start_server()
        world.start_nginx(wants=WANTS)
        name, path, text, entry_of = files(world.upstream, "sse" if old else "http")[number]
        file, config = home / path, home / ".config/relatch/relatch.toml"
        # Where the keeper listens, its command line says, and not the file.
        port = free_port()
        mine = f"# mine\n[serve]\nlisten   = \"127.0.0.1:{free_port()}\" # odd\n\n[server.other]\nurl = 'http://127.0.0.1:9/mcp'\n"
        for place, content in ((file, text), (config, mine)):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content)
            place.chmod(0o600)
        own = {"HOME": str(home), "RELATCH_RUNTIME_DIR": str(home / "run")}
        own |= {"XDG_CONFIG_HOME": str(home / ".config"), "XDG_STATE_HOME": str(home / ".local/state")}
        said = Path(out) / "relatch.stdout"
        with open(said, "wb") as lines:
            world.keeper = world.spawn("relatch", [relatch, "serve", "--listen", f"127.0.0.1:{port}"], own, stdout=lines)
        world.until(lambda: "/other/mcp" in said.read_text(), 10, "relatch serve does not listen")

        ran = run(relatch, home, "adopt", "--yes", "--via", "serve", "--client", name)
        token = (home / ".local/state/relatch/token").read_text()
        must(token not in ran.stdout + ran.stderr, "the token is shown")
        must("gated" in ran.stdout.split("+ [server.gated]")[-1], f"the keeper was not told: {ran.stdout}{ran.stderr}")
        must(SECRET in config.read_text() and config.stat().st_mode & 0o777 == 0o600, "the header is not in relatch.toml")
        after = file.read_text()
        must(SECRET not in after and file.stat().st_mode & 0o777 == 0o600, f"the client's file is {after}")
        entry = entry_of(after)
        url, headers = entry.get("url"), entry.get("headers") or entry.get("http_headers")
        must(url == f"http://127.0.0.1:{port}/gated/mcp", f"the address is {url}")
        must(headers == {"Relatch-Token": token}, "the headers are not the token")
        must(status_of(url, {}) == 403 and status_of(url, headers) == 200, "the token does not decide who gets in")

        link = Link(world, "client")
        world.clients.append(link)
        world.link = link
        link.ask("connect", url=url, headers=headers, era="legacy", seconds=20)
        cases.work(world, "before")
        must(not any(SECRET in line or token in line for line in command_lines(world)), "a secret is on a command line")
        world.restart_server()
        cases.work(world, "after")
        link.close()
        ran = run(relatch, home, "adopt", "--yes", "--via", "serve", "--client", name)
        must(file.read_text() == after and "Nothing to adopt" in ran.stderr, "a second run changes something")

        run(relatch, home, "release", "--yes", "--client", name)
        must(file.read_text() == text, "it was not released byte for byte")
        must(config.read_text() == mine, "relatch.toml is not as it was")
        world.until(lambda: status_of(url, headers) == 404, 15, "the keeper still serves what was released")
        return f"{name}, {Path(path).name}: adopted before a keeper, called, restarted, called, released"
    except Missed as missed:
        sys.exit(f"adopt: {server} × {client}, file {number} before a keeper: {missed}\n" + "\n".join(world.transcript()))
    finally:
        world.close()
        shutil.rmtree(home, ignore_errors=True)


def asked(relatch):
    """On a terminal it asks, and only a yes is one."""
    home = Path(tempfile.mkdtemp(prefix="relatch-adopt-"))
    file = home / ".cursor/mcp.json"
    file.parent.mkdir()
    text = '{"mcpServers": {"a": {"url": "http://127.0.0.1:9/mcp"}}}'
    file.write_text(text)
    try:
        for answer, ends, changes in (("", 1, False), ("n", 1, False), ("yes", 0, True)):
            pid, terminal = pty.fork()
            if pid == 0:
                os.environ.update(HOME=str(home), NO_COLOR="1")
                for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
                    os.environ.pop(name, None)
                os.execv(relatch, [relatch, "adopt", "--no-probe"])
            said = b""
            while b"[y/N] " not in said:
                said += os.read(terminal, 4096)
            os.write(terminal, answer.encode() + b"\n")
            ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            os.close(terminal)
            must(ended == ends, f"after the answer {answer!r} it ended with {ended}")
            must((file.read_text() != text) == changes, f"after the answer {answer!r} the file is {file.read_text()}")
        print("adopt: on a terminal it asks, and only a yes is one")
    except Missed as missed:
        sys.exit(f"adopt: {missed}")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def listed(relatch, folder, out):
    """What the clients themselves read from adopted files, and whether they reach the server by it."""
    world = World(SERVERS["ts1"], CLIENTS["ts1"], "stdio", out, relatch=relatch)
    home = Path(tempfile.mkdtemp(prefix="relatch-adopt-"))
    env = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "CODEX_", "CLAUDE_"))}
    # Gemini CLI starts nothing in a folder that nobody has trusted.
    env |= {"HOME": str(home), "GATED_TOKEN": SECRET, "GEMINI_CLI_TRUST_WORKSPACE": "true"}
    try:
        world.start_server()
        world.start_nginx(wants=WANTS)
        # Claude Code fills its own variables in, in address and header.
        env["GATED_BASE"] = world.upstream.removesuffix("/mcp")
        filled = {"type": "http", "url": "${GATED_BASE}/mcp", "headers": {"Authorization": "Bearer ${GATED_TOKEN:-none}"}}
        filled = json.dumps({"mcpServers": {"gated": filled}})
        ways = (("claude-code", "claude", None), ("claude-code", "claude", filled), ("codex", "codex", None), ("gemini", "gemini", None))
        for name, program, other in ways:
            line = "mcp list"
            if not (Path(folder) / program).exists():
                print(f"adopt: {program} is not in {folder}")
                continue
            path, text = next((path, text) for known, path, text, _ in files(world.upstream) if known == name)
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_text(other or text)
            run(relatch, home, "adopt", "--yes", "--client", name)
            ran = subprocess.run([Path(folder) / program, *line.split()], env=env, capture_output=True, text=True, timeout=120, cwd=home)
            said = [row.strip() for row in (ran.stdout + ran.stderr).splitlines() if "gated" in row]
            must(said and "relatch" in " ".join(said), f"{program} does not list the server: {ran.stdout}{ran.stderr}")
            print(f"adopt: {program} {line}: {' '.join(' '.join(said).split())}".replace(world.upstream, "URL").replace(relatch, "relatch"))
    except Missed as missed:
        sys.exit(f"adopt: {missed}")
    finally:
        world.close()
        shutil.rmtree(home, ignore_errors=True)


def main():
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--clients", metavar="DIR", help="ask the clients in this folder, too")
    typed = words.parse_args()
    relatch = os.environ.get("RELATCH") or sys.exit("adopt: set RELATCH=/path/to/relatch")
    relatch = str(Path(relatch).resolve())
    asked(relatch)
    pairs = [("ts1", "py1"), ("py1", "ts1")]
    with tempfile.TemporaryDirectory() as out:
        for number in range(len(files(""))):
            server, client = pairs[number % 2]
            print(f"adopt: {server} × {client}: {play(relatch, server, client, number, Path(out) / str(number))}", flush=True)
        # Claude Code, VS Code, Zed, and Codex with its header in the file.
        for number in range(4):
            server, client = pairs[number % 2]
            print(f"adopt: {server} × {client}: {kept(relatch, server, client, number, Path(out) / f'kept-{number}')}", flush=True)
        # Claude Code and VS Code, told that their server speaks the old transport.
        for number, way in enumerate((play, kept)):
            server, client = pairs[number]
            said = way(relatch, server, client, number, Path(out) / f"old-{number}", old=True)
            print(f"adopt: {server} by the old transport × {client}: {said}", flush=True)
        if typed.clients:
            listed(relatch, typed.clients, Path(out) / "clients")


if __name__ == "__main__":
    main()
