#!/usr/bin/env python3
"""The interoperation tests: real SDK clients and servers, relatch between them, servers really killed and started again.

Chooses what is played, plays stories in parallel and reports. What is right is decided in harness/cases.py, what runs in
harness/world.py, which peers there are in harness/peers.py.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness.cases import CASE_SECONDS, STORIES
from harness.peers import CLIENTS, HERE, OLD_SERVERS, SERVERS, lacks, relatch_path
from harness.world import Missed, World

OUT = HERE / "out"
# Three dialects of a dead session (400 without id, 404, 404 with id null) and three families of client.
CI_SERVERS = ("everything", "ts1", "py2")
CI_CLIENTS = ("ts1", "py1", "rmcp")
# By the old transport: both SDKs that had it first, with a client of the same and one of another.
CI_OLD_SERVERS = ("ts1", "py1")
CI_OLD_CLIENTS = ("ts1", "rmcp")


def names(known, what):
    def parse(text):
        chosen = [name.strip() for name in text.split(",") if name.strip()]
        if wrong := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"no such {what}: {', '.join(wrong)} (there are {', '.join(known)})")
        return chosen

    return parse


def arguments():
    cases = [case.name for story in STORIES for case in story.cases]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--servers", type=names(SERVERS, "server"), metavar="A,B", help=", ".join(SERVERS))
    parser.add_argument("--clients", type=names(CLIENTS, "client"), metavar="A,B", help=", ".join(CLIENTS))
    parser.add_argument("--sides", type=names(("stdio", "http"), "side"), default=["stdio", "http"], metavar="A,B", help="stdio, http")
    parser.add_argument("--cases", type=names(cases, "case"), metavar="A,B", help=", ".join(cases))
    parser.add_argument("--direct", action="store_true", help="without relatch; only the cases without a fault unless --cases says otherwise")
    parser.add_argument("--old-transport", action="store_true", help=f"servers speak HTTP+SSE: {', '.join(OLD_SERVERS)}")
    parser.add_argument("--ci", action="store_true", help="3 servers x 3 clients; 2 x 2 by the old transport")
    parser.add_argument("--jobs", type=int, default=2, help="stories at once")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the result as a Markdown table")
    parser.add_argument("--keep", action="store_true", help="keep what the processes of passed stories wrote, too")
    chosen = parser.parse_args()
    chosen.relatch = relatch_path()
    if chosen.old_transport and chosen.direct:
        parser.error("the clients speak no HTTP+SSE: leave --direct or --old-transport out")
    if chosen.old_transport and (other := set(chosen.servers or ()) - set(OLD_SERVERS)):
        parser.error(f"no old transport in {', '.join(sorted(other))} (in {', '.join(OLD_SERVERS)})")
    if not chosen.direct and not chosen.relatch:
        parser.error("set RELATCH=/path/to/relatch, or use --direct")
    if chosen.relatch and not chosen.direct:
        found = shutil.which(chosen.relatch)
        if not found:
            parser.error(f"RELATCH={chosen.relatch} can't be run")
        chosen.relatch = str(Path(found).resolve())
    return chosen


class Report:
    """Prints one line per case as it comes, and keeps the counts."""

    def __init__(self):
        self.lock = threading.Lock()
        self.results = []

    def add(self, server, client, side, case, outcome, seconds=0.0, why="", transcript=()):
        with self.lock:
            self.results.append((server, client, side, case, outcome))
            line = f"{outcome:<4}  {client} -> {server}  {side}  {case}"
            line += f"  {seconds:.1f} s" if outcome != "skip" else ""
            print(f"{line}  {why}" if why else line)
            for said in transcript:
                print(f"      | {said}")
            sys.stdout.flush()

    def counts(self):
        return Counter(outcome for *_, outcome in self.results)


def choose(asked):
    """The pairs to play, and what can't be played with the reason."""
    known = OLD_SERVERS if asked.old_transport else SERVERS
    ci = (CI_OLD_SERVERS, CI_OLD_CLIENTS) if asked.old_transport else (CI_SERVERS, CI_CLIENTS)
    servers = asked.servers or (list(ci[0]) if asked.ci else list(known))
    clients = asked.clients or (list(ci[1]) if asked.ci else list(CLIENTS))
    if asked.ci and not asked.clients and not CLIENTS["rmcp"].built():
        print("note  client rmcp is not built (tests/interop/peers/rmcp/build.sh): py2 takes its place")
        clients = ["py2" if name == "rmcp" else name for name in clients]
    missing = []
    for kind, built, chosen, explicit in (("server", SERVERS, servers, asked.servers), ("client", CLIENTS, clients, asked.clients)):
        for name in list(chosen):
            if not built[name].built():
                if explicit:
                    sys.exit(f"error: {kind} {name} is not installed; run tests/interop/setup.sh, and peers/rmcp/build.sh for rmcp")
                missing.append(f"{kind} {name}")
                chosen.remove(name)
    for name in missing:
        print(f"note  {name} is not installed and left out (tests/interop/setup.sh; peers/rmcp/build.sh for rmcp)")
    return [known[name] for name in servers], [CLIENTS[name] for name in clients]


def plays(asked, servers, clients, report):
    """Every story to play as (story, cases, server, client, side). What does not apply is reported at once."""
    for server in servers:
        for client in clients:
            for side in ["direct"] if asked.direct else asked.sides:
                for story in STORIES:
                    if asked.direct and not story.calm and not asked.cases:
                        continue
                    if side not in story.sides and not (asked.direct and "stdio" in story.sides):
                        continue
                    # All answers come as events there.
                    if story.json and asked.old_transport:
                        continue
                    wanted = [case for case in story.cases if not asked.cases or case.name in asked.cases]
                    able = []
                    for case in wanted:
                        if reason := lacks(case.name, server, client):
                            report.add(server.name, client.name, side, case.name, "skip", why=reason)
                        else:
                            able.append(case)
                    if able and story.opening and story.cases[0] not in able:
                        able.insert(0, story.cases[0])
                    if able:
                        yield story, able, server, client, side


def play(story, cases, server, client, side, asked, report, stop):
    """One story in a world of its own."""
    out = OUT / f"{client.name}-{server.name}-{side}-{story.name}"
    shutil.rmtree(out, ignore_errors=True)
    world, failed = None, False
    try:
        for place, case in enumerate(cases):
            if stop.is_set():
                return
            began = time.monotonic()
            why = None
            try:
                if world is None:
                    world = World(server, client, side, out, asked.direct, asked.relatch)
                    world.deadline = began + CASE_SECONDS
                    world.treatment = list(story.treatment)
                    if story.nginx:
                        world.start_nginx()
                    world.start_server(json=story.json)
                    world.link = world.connect()
                else:
                    world.deadline = began + CASE_SECONDS
                world.note(f"case {case.name}")
                case.play(world)
            except Missed as missed:
                why = str(missed)
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
            seconds = time.monotonic() - began
            failed = failed or why is not None
            outcome = "ok" if why is None else "FAIL"
            report.add(server.name, client.name, side, case.name, outcome, seconds, why or "", world.transcript() if why and world else ())
            if why and world and not hasattr(world, "link"):
                for later in cases[place + 1 :]:
                    report.add(server.name, client.name, side, later.name, "FAIL", 0, "the story did not begin")
                return
    finally:
        if world:
            world.close()
        if not failed and not asked.keep:
            shutil.rmtree(out, ignore_errors=True)


def cell(results):
    """`12/12`, with the names of what failed."""
    played = [(case, outcome) for *_, case, outcome in results if outcome != "skip"]
    if not played:
        return "–"
    failed = sorted({case for case, outcome in played if outcome == "FAIL"})
    passed = sum(outcome == "ok" for _, outcome in played)
    words = f"{passed}/{len(played)}"
    return f"{words} ({', '.join(failed)})" if failed else words


def write_table(path, text):
    """Writes the table, or puts it between the marks of a document that has them."""
    begin, end = "<!-- interop:begin -->\n", "<!-- interop:end -->"
    old = path.read_text() if path.is_file() else ""
    if begin in old and end in old:
        before, rest = old.split(begin, 1)
        text = f"{before}{begin}\n{text.strip()}\n\n{end}{rest.split(end, 1)[1]}"
    path.write_text(text)


def table(report, servers, clients, asked):
    """Passed cases of all played, per pair; below it what the cases are and what does not apply."""
    sides = ["direct"] if asked.direct else asked.sides
    lines = [f"Cases passed, {' and '.join(sides)}; `n/m` = passed of played.", ""]
    lines.append("| server (how it refuses a dead session) | " + " | ".join(f"client {client.name}" for client in clients) + " |")
    lines.append("| --- |" + " --- |" * len(clients))
    for server in servers:
        row = [f"{server.name} ({server.dialect})"]
        for client in clients:
            row.append(cell([result for result in report.results if result[:2] == (server.name, client.name)]))
        lines.append("| " + " | ".join(row) + " |")
    lines += ["", "| case | passed | what it shows |", "| --- | --- | --- |"]
    for story in STORIES:
        for case in story.cases:
            of_case = [result for result in report.results if result[3] == case.name]
            if any(result[4] != "skip" for result in of_case):
                lines.append(f"| {case.name} | {cell(of_case).split(' ')[0]} | {case.about} |")
    reasons = {}
    for server_name, client_name, _side, case_name, outcome in report.results:
        if outcome == "skip":
            reason = lacks(case_name, SERVERS[server_name], CLIENTS[client_name])
            reasons.setdefault(reason, set()).add(case_name)
    if reasons:
        lines += ["", "Not applicable:", ""]
        lines += [f"- {', '.join(sorted(cases))}: {reason}" for reason, cases in sorted(reasons.items())]
    return "\n".join(lines) + "\n"


def main():
    asked = arguments()
    report, stop = Report(), threading.Event()
    servers, clients = choose(asked)
    if asked.relatch and not asked.direct:
        version = subprocess.run([asked.relatch, "--version"], capture_output=True, text=True, timeout=10, check=False)
        print(f"note  {version.stdout.strip() or 'relatch of unknown version'}")
    todo = list(plays(asked, servers, clients, report))

    # A second Ctrl-C ends at once; the first lets the worlds clean up.
    def interrupted(*_):
        stop.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    with ThreadPoolExecutor(max_workers=max(1, asked.jobs)) as pool:
        for done in as_completed([pool.submit(play, *one, asked, report, stop) for one in todo]):
            if error := done.exception():
                report.add("?", "?", "?", "harness", "FAIL", 0, f"{type(error).__name__}: {error}")
    if asked.table:
        write_table(asked.table, table(report, servers, clients, asked))
    counts = report.counts()
    if stop.is_set():
        print("interrupted")
    print(f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['skip']} skipped")
    return 1 if counts["FAIL"] or stop.is_set() or not counts["ok"] else 0


if __name__ == "__main__":
    sys.exit(main())
