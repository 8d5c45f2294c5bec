#!/usr/bin/env python3
"""Runs every command line of the documents, plays every client configuration in them, and follows every link.

`python3 tests/docs/run.py [PAGE …]`, with the program in `RELATCH` (default: target/debug/relatch). tests/docs/README.md says
how a block is marked. Decides nothing about relatch itself: the other tests do.
"""

import concurrent.futures
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from links import book, links
from pages import ROOT, Page, Wrong, prose_commands
from reference import environment, http_paths, status_fields
from stage import Stage

LONG = re.compile(r"^(?:[A-Z_]+=\S+ )*relatch (serve|stdio|top|dev|status(?: .*)? --watch|log(?: .*)? (?:--follow|-f)\b)")
AWAY = re.compile(r"^relatch .*https?://(?!127\.0\.0\.1|localhost)")
ASKS = re.compile(r"^relatch (status|log|page|service status|doctor)\b")


class Count:
    def __init__(self):
        self.lock, self.passed, self.failed, self.unrun, self.read = threading.Lock(), 0, 0, 0, 0

    def one(self, where, work):
        """Does one piece of work; what goes wrong in it is told, and the rest goes on."""
        try:
            work()
        except Exception as wrong:  # Whatever it is, the other lines are looked at, too.
            with self.lock:
                self.failed += 1
                print(f"FAILED  {where}\n        {'' if isinstance(wrong, Wrong) else repr(wrong)}{str(wrong).strip()}".replace("\n", "\n        "))
        else:
            with self.lock:
                self.passed += 1


def play(page, count):
    """One page from top to bottom, in a home folder of its own."""
    if not any(block.kind in ("sh", "console", "json", "toml", "nginx") or block.stage for block in page.blocks):
        return
    with Stage() as stage:
        for block in page.blocks:
            where = f"{page.name}:{block.line}"
            if block.stage:
                count.one(where, lambda block=block: stage.direct(block.stage))
                continue
            if block.unrun:
                with count.lock:
                    count.unrun += 1
                    print(f"not run {where}: {block.unrun}")
                continue
            if block.kind in ("sh", "console"):
                for command, expected in block.commands():
                    count.one(f"{where}  {command}", lambda c=command, e=expected, b=block: run(stage, c, e, b.exits, count))
                for client in stage.recorded_clients():
                    count.one(f"{where}  as a client: {client}", lambda client=client: stage.play_client(client))
            elif block.kind == "toml" and "[server." in block.text:
                count.one(where, lambda block=block: stage.configuration(block.text))
            elif block.kind in ("json", "toml"):
                for client in block.clients():
                    count.one(f"{where}  as a client: {client}", lambda client=client: stage.play_client(client))
            elif block.kind == "nginx":
                count.one(where, lambda block=block: stage.nginx(block.text))


def run(stage, command, expected, exits, count):
    if AWAY.search(command) and not re.match(r"relatch (serve|add)\b", command):
        # Nothing outside of this machine is asked.
        with count.lock:
            count.read += 1
        return parses(shlex.split(command))
    long = LONG.search(command)
    if long and long.group(1) == "serve" and exits:
        # It is to fail, beside the keeper that runs.
        return stage.asked(stage.listening(command), exits, expected)
    if long and long.group(1) == "serve":
        said = stage.serve(command)
    elif long and long.group(1) == "stdio":
        said = stage.play_client(command)
    elif long:
        said = stage.look_on(command)
    else:
        may = exits or ([0, 1] if ASKS.match(command) else [0])
        return stage.asked(command, may, expected)
    stage.like(said, expected)
    return None


def main():
    asked = sys.argv[1:]
    names = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
    pages = [Page(name) for name in names if not asked or name in asked]
    if asked and len(pages) != len(asked):
        sys.exit(f"no such page; there are {', '.join(names)}")
    count = Count()
    with concurrent.futures.ThreadPoolExecutor(max_workers=3) as pool:
        for done in [pool.submit(play, page, count) for page in pages]:
            done.result()
    for page in pages:
        for line, command in prose_commands(page):
            count.one(f"{page.name}:{line}  {command}", lambda command=command: parses(command))
        for where, fault in page.faults():
            count.one(f"{page.name}:{where}", lambda fault=fault: (_ for _ in ()).throw(Wrong(fault)))
    if not asked:
        for where, check in [*links(), *book(), *environment(), *http_paths(), *status_fields()]:
            count.one(where, check)
    print(f"{count.passed} passed, {count.failed} failed; of these {count.read} only read, since they ask another machine; {count.unrun} blocks not run (the reason stands in the text)")
    sys.exit(1 if count.failed else 0)


def parses(command):
    """The command line is known: everything is read but for what is missing, and nothing is done."""
    program = os.environ["RELATCH"]
    words = [program if n == 0 else word for n, word in enumerate(command)]
    done = subprocess.run([*words, "--help"], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20)
    if done.returncode != 0:
        raise Wrong(done.stderr)


if __name__ == "__main__":
    os.environ.setdefault("RELATCH", str(ROOT / "target/debug/relatch"))
    if not shutil.which(os.environ["RELATCH"]):
        sys.exit(f"there is no program at {os.environ['RELATCH']}: `cargo build` first, or set RELATCH")
    main()
