"""The deploys of the documents, played with local processes: the script for Docker Compose with a stand-in for `docker`, and
the unit of systemd by its own lines, in the order in which systemd runs them.

There is no Docker daemon here, and systemd need not run: what is tested is what the files say.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from harness.peers import SETUP, relatch_path
from harness.world import Missed

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docs/examples/compose"
UNIT = ROOT / "docs/examples/systemd/notes-mcp.service"

# Plays `docker compose`: `exec` runs relatch here, `up` asks the stage for a new server and waits until it is there.
DOCKER = """#!/usr/bin/env python3
import os, sys, time
line, folder = sys.argv[1:], os.environ["STAGE"]
with open(folder + "/docker.log", "a") as log:
    log.write(" ".join(line) + "\\n")
if line[:5] == ["compose", "exec", "-T", "relatch", "/relatch"]:
    os.execv(os.environ["RELATCH"], [os.environ["RELATCH"], *line[5:]])
if line[:2] == ["compose", "up"]:
    open(folder + "/wanted", "w").close()
    end = time.monotonic() + 30
    while os.path.exists(folder + "/wanted"):
        if time.monotonic() > end:
            sys.exit("the new server did not come")
        time.sleep(0.02)
elif line[:2] != ["compose", "pull"]:
    sys.exit(f"docker: unknown: {line}")
"""


def expect(holds, what):
    if not holds:
        raise Missed(what)


def read_yaml(path):
    parse = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))"
    done = subprocess.run([str(SETUP / "venv-fastmcp/bin/python"), "-c", parse, str(path)], capture_output=True, text=True)
    expect(done.returncode == 0, done.stderr)
    return json.loads(done.stdout)


def a_deploy_by_the_script_of_the_documents(stage_of):
    services = read_yaml(COMPOSE / "compose.yaml")["services"]
    expect(set(services) == {"relatch", "notes"}, f"{services}")
    expect(services["relatch"]["command"][:3] == ["serve", "--config", "/relatch.toml"], f"{services['relatch']}")
    checked = subprocess.run([relatch_path(), "config", "check", "--config", str(COMPOSE / "relatch.toml")], capture_output=True, text=True)
    expect(checked.returncode == 0 and "[server.notes]" in (COMPOSE / "relatch.toml").read_text(), checked.stdout + checked.stderr)
    with stage_of("compose", "py1") as stage:
        world = stage.world
        script = world.folder / "compose"
        shutil.copytree(COMPOSE, script)
        tools = world.folder / "tools"
        tools.mkdir()
        (tools / "docker").write_text(DOCKER)
        (tools / "docker").chmod(0o755)
        stage.at_an_address()
        stage.calls_begin()
        more = {"PATH": f"{tools}:{os.environ['PATH']}", "STAGE": str(world.folder), "RELATCH": relatch_path()}
        for n in range(2):
            stage.some_are_answered()
            # This world's keeper calls its server `up`.
            with open(world.out / f"deploy-{n}.txt", "w") as said:
                deploy = subprocess.Popen([str(script / "deploy.sh"), "up"], env=world.environment(more), stdout=said, stderr=said, cwd="/")
            world.spawned.append(deploy)
            world.until((world.folder / "wanted").exists, 40, "the script to ask for a new server")
            world.restart_server(variant=2 - n)
            (world.folder / "wanted").unlink()
            expect(deploy.wait(30) == 0, (world.out / f"deploy-{n}.txt").read_text())
        stage.some_are_answered()
        log = (world.folder / "docker.log").read_text().splitlines()
        verbs = [" ".join(line.split()[1:2] + line.split()[5:6]) if "exec" in line else line.split()[1] for line in log[:4]]
        expect(verbs == ["pull", "exec pause", "up", "exec resume"], f"{log}")
        return stage.judge()


def unit():
    """The lines of the unit's service, in order."""
    text = UNIT.read_text().split("[Service]", 1)[1].split("[Install]")[0]
    return [tuple(line.split("=", 1)) for line in text.splitlines() if "=" in line and not line.startswith("#")]


def a_restart_by_the_unit_of_the_documents(stage_of):
    lines = dict(unit())
    with stage_of("unit", "ts1") as stage:
        world = stage.world
        if shutil.which("systemd-analyze"):
            # As it stands, but for programs that are there.
            copy = world.folder / UNIT.name
            text = UNIT.read_text().replace("/usr/local/bin/notes-mcp", sys.executable).replace("/usr/bin/relatch", relatch_path())
            copy.write_text(text)
            done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True)
            expect(done.returncode == 0 and "notes-mcp" not in done.stderr, done.stderr)

        def runs(key):
            program, _, rest = lines[key].partition(" ")
            expect(program == "-/usr/bin/relatch", f"{key} runs {program}")
            # This world's keeper calls its server `up`.
            done = subprocess.run([relatch_path(), *["up" if word == "notes" else word for word in shlex.split(rest)]],
                                  env=world.environment(), capture_output=True, text=True, timeout=60)
            expect(done.returncode == 0, done.stdout + done.stderr)

        stage.at_an_address()
        stage.calls_begin()
        for _ in range(2):
            stage.some_are_answered()
            # systemd: the commands of ExecStop, then the signal; the program again, then those of ExecStartPost, at once.
            runs("ExecStop")
            os.killpg(world.server.pid, signal.SIGTERM)
            world.server.wait(10)
            command, extra = world.server_peer.start(world.port, world.ledger, 1, False)
            world.server = world.spawn("server", command, extra)
            runs("ExecStartPost")
        stage.some_are_answered()
        return stage.judge()
