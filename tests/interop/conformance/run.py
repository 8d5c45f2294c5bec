#!/usr/bin/env python3
"""Runs the official conformance suite against real servers, directly and through `relatch serve`, and compares.

Decides: whether a check that passes directly fails through relatch. Checks that already fail directly are the server's
own matter. Needs `RELATCH` (the binary; default: the workspace's debug build), npm and cargo; what it installs goes to
tests/interop/.setup, what it finds to tests/interop/out/conformance.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
INTEROP = HERE.parent
SETUP = INTEROP / ".setup"
OUT = INTEROP / "out" / "conformance"
MODULES = SETUP / "node_modules"
NODE = SETUP / "bin" / "node"
SUITE = MODULES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
EVERYTHING = MODULES / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"
# Keeps server-everything on loopback.
LOOPBACK = INTEROP / "peers" / "everything" / "loopback.mjs"
FIXTURE = SETUP / "rmcp" / "conformance-server"
REVISIONS = ["2025-06-18", "2025-11-25"]

# From worst to best: a check that runs several times in a scenario counts by its worst outcome.
OUTCOMES = ["FAILURE", "WARNING", "SKIPPED", "INFO", "SUCCESS"]


def main():
    options = read_options()
    relatch = pathlib.Path(options.relatch)
    if not relatch.is_file():
        sys.exit(f"error: no relatch at {relatch}\nhint: Build it with `cargo build -p relatch`, or set `RELATCH`")
    install()
    shutil.rmtree(OUT, ignore_errors=True)
    passed = failed = 0
    figures = {}
    for name in options.target:
        target = TARGETS[name]
        with target.start(OUT / name) as direct, through_relatch(relatch, name, direct, OUT / name) as behind:
            for revision in options.revision:
                before = run_suite(direct, revision, OUT / name / revision / "direct")
                after = run_suite(behind, revision, OUT / name / revision / "through")
                kept, troubles = compare(before, after)
                if target.complete:
                    troubles += [
                        f"fails directly: {describe(key, check)}"
                        for key, check in before.items()
                        if check["outcome"] in ("FAILURE", "WARNING")
                    ]
                figures[f"{name} {revision}"] = {"direct": tally(before), "through": tally(after)}
                show(name, revision, before, after, troubles)
                passed += kept
                failed += len(troubles)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


def read_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only this server (repeatable)")
    parser.add_argument("--revision", action="append", choices=REVISIONS, help="only this revision (repeatable)")
    options = parser.parse_args()
    options.target = options.target or list(TARGETS)
    options.revision = options.revision or REVISIONS
    options.relatch = os.environ.get("RELATCH", INTEROP.parent.parent / "target" / "debug" / "relatch")
    return options


# Comparison


def compare(before, after):
    """Gives how many passing checks still hold, and one line for each that does not."""
    kept = 0
    troubles = []
    for key, check in before.items():
        if check["outcome"] != "SUCCESS":
            continue
        now = after.get(key)
        if now is None:
            troubles.append(f"lost through relatch: {' / '.join(key)}")
        elif now["outcome"] in ("FAILURE", "WARNING"):
            verb = "fails" if now["outcome"] == "FAILURE" else "only warns"
            troubles.append(f"{verb} through relatch: {describe(key, now)}")
        else:
            kept += 1
    for key, now in after.items():
        # A scenario that stumbles reports under an id that a good run does not have.
        if now["outcome"] == "FAILURE" and key not in before:
            troubles.append(f"fails through relatch only: {describe(key, now)}")
    return kept, troubles


def show(name, revision, before, after, troubles):
    print(f"{name} {revision}: direct {words(tally(before))}; through relatch {words(tally(after))}")
    for key, check in before.items():
        now = after.get(key)
        if now and now["outcome"] != check["outcome"] and now["outcome"] not in ("FAILURE", "WARNING"):
            why = f" ({now['message']})" if now["message"] else ""
            print(f"  note: {' / '.join(key)}: {check['outcome']} directly, {now['outcome']} through relatch{why}")
    for trouble in troubles:
        print(f"  {trouble}")


def describe(key, check):
    return f"{' / '.join(key)}: {check['message'] or 'no message'}"


def tally(checks):
    counts = collections.Counter(check["outcome"] for check in checks.values())
    return {outcome: counts[outcome] for outcome in OUTCOMES}


def words(counts):
    text = f"{counts['SUCCESS']} passed, {counts['FAILURE']} failed"
    return text + (f", {counts['WARNING']} warned" if counts["WARNING"] else "")


# The suite


def run_suite(url, revision, folder):
    """Gives {(scenario, check): {outcome, message}} of one run."""
    folder.mkdir(parents=True)
    command = [NODE, SUITE, "server", "--url", url, "--suite", "all", "--spec-version", revision, "-o", folder]
    with open(folder / "suite.log", "wb") as log:
        # The exit status only repeats what the files say.
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=600, check=False)
    checks = {}
    for path in sorted(folder.glob("*/checks.json")):
        scenario = re.sub(r"^server-|-\d{4}-\d{2}-\d{2}T[\d-]+Z$", "", path.parent.name)
        for check in json.loads(path.read_text()):
            key = (scenario, check["id"])
            seen = {"outcome": check["status"], "message": check.get("errorMessage")}
            worst = checks.setdefault(key, seen)
            if OUTCOMES.index(seen["outcome"]) < OUTCOMES.index(worst["outcome"]):
                checks[key] = seen
    if not checks:
        sys.exit(f"error: The suite left no result\nhint: Read {folder / 'suite.log'}")
    return checks


# What it runs against


class Target:
    """A server that is started for the run; `complete` says that every check has to pass directly."""

    def __init__(self, command, environment, complete):
        self.command = command
        self.environment = environment
        self.complete = complete

    @contextlib.contextmanager
    def start(self, folder):
        port = free_port()
        command = [str(word).replace("PORT", str(port)) for word in self.command]
        environment = {name: value.replace("PORT", str(port)) for name, value in self.environment.items()}
        with running(command, environment, folder / "server.log") as (process, log):
            wait_for(lambda: listens(port), process, log)
            yield f"http://127.0.0.1:{port}/mcp"


TARGETS = {
    "rmcp": Target([FIXTURE, "--port", "PORT"], {}, complete=True),
    "server-everything": Target(
        [NODE, "--import", LOOPBACK, EVERYTHING, "streamableHttp"],
        {"PORT": "PORT"},
        complete=False,
    ),
}


@contextlib.contextmanager
def through_relatch(relatch, name, url, folder):
    with tempfile.TemporaryDirectory(prefix="relatch-conformance-") as home:
        places = {"XDG_RUNTIME_DIR": f"{home}/run", "XDG_STATE_HOME": f"{home}/state"}
        for place in places.values():
            os.mkdir(place, 0o700)
        command = [relatch, "serve", f"{name}={url}", "--listen", "127.0.0.1:0", "--no-token"]
        command += ["--state-dir", f"{home}/state/relatch"]
        with running(command, places, folder / "relatch.log") as (process, log):
            address = re.compile(rf"http://127\.0\.0\.1:\d+/{re.escape(name)}/mcp")
            yield wait_for(lambda: address.search(log.read_text(errors="replace")), process, log).group()


@contextlib.contextmanager
def running(command, environment, log):
    """Runs a process with its output in `log`, and ends it, by its own pid."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **environment}
        )
    try:
        yield process, log
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(condition, process, log, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    state = "ended" if process.poll() is not None else f"was not ready within {seconds} s"
    sys.exit(f"error: `{process.args[0]}` {state}\n{log.read_text(errors='replace')[-2000:]}")


def listens(port):
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# What has to be there


def install():
    """Puts the suite, its Node and the servers under .setup; quick when nothing changed."""
    subprocess.run(["sh", INTEROP / "setup.sh"], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
