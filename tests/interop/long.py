#!/usr/bin/env python3
"""Long answers that break, with real SDK clients: each call ends at once, the next one works, memory stays bounded.

Chooses what is played and reports. The cases and what is right are in harness/long.py, the server is peers/long/server.py.
"""

import argparse
import shutil
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness.long import MIB, cases, play
from harness.peers import CLIENTS, HERE, PEERS, Server, relatch_path
from harness.world import Missed, World
from run import names

OUT = HERE / "out"
SERVER = Server("long", (sys.executable, str(PEERS / "long" / "server.py")))
FULL = 50
# Two families of client; most answers are short. The full size is played over HTTP: on stdio these clients refuse lines
# over 10 MiB (ts1) or take more than 45 s for one of 50 (py1), and crates/relatch-net/tests/long.rs has 100 MB there.
CI_CLIENTS = ("ts1", "py1")
CI_SIZE = 4
CI_FULL = ("json last 50M", "sse last 50M")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=names(CLIENTS, "client"), metavar="A,B", help=", ".join(CLIENTS))
    parser.add_argument("--sides", type=names(("stdio", "http"), "side"), default=["stdio", "http"], metavar="A,B", help="stdio, http")
    parser.add_argument("--size", type=int, default=FULL, metavar="MIB", help=f"of an answer ({FULL})")
    parser.add_argument("--cases", metavar="TEXT", help="only cases whose name contains this")
    parser.add_argument("--ci", action="store_true", help=f"{' and '.join(CI_CLIENTS)}, {CI_SIZE} MiB, and some of {FULL}")
    parser.add_argument("--jobs", type=int, default=2, help="clients at once")
    parser.add_argument("--verbose", action="store_true", help="a line for each case")
    chosen = parser.parse_args()
    found = shutil.which(relatch_path() or "")
    if not found:
        parser.error("set RELATCH=/path/to/relatch")
    chosen.relatch = str(Path(found).resolve())
    return chosen


def chosen_cases(client, side, asked):
    if asked.ci:
        full = [case for case in cases(client, side, FULL * MIB, False) if side == "http" and case.name.startswith(CI_FULL) and case.cut in (None, "last-byte")]
        mine = [*cases(client, side, CI_SIZE * MIB, False), *full]
    else:
        mine = list(cases(client, side, asked.size * MIB, True))
    return [case for case in mine if not asked.cases or asked.cases in case.name]


class Pair:
    """A client on one side, and all its cases one after the other: a case that broke something shows in the next."""

    def __init__(self, client, side, asked, say, stop):
        self.client, self.side, self.asked, self.say, self.stop = client, side, asked, say, stop
        self.name = f"{client.name} {side}"
        self.passed = self.failed = self.memory = 0
        self.memory_of = {False: 0, True: 0}
        self.longest = defaultdict(float)
        self.world = None

    def run(self):
        began = time.monotonic()
        for number, case in enumerate(chosen_cases(self.client.name, self.side, self.asked)):
            if self.stop.is_set():
                break
            self.one(number, case)
        if self.world:
            self.world.close()
        if not self.failed:
            shutil.rmtree(self.out, ignore_errors=True)
        self.took = time.monotonic() - began
        return self

    @property
    def out(self):
        return OUT / f"long-{self.client.name}-{self.side}"

    def one(self, number, case):
        began = time.monotonic()
        try:
            if self.world is None or bool(self.world.front) != bool(case.lost):
                self.begin(case)
            seen = play(self.world, case, f"case-{number}")
        except Exception as missed:
            self.failed += 1
            why = str(missed) if isinstance(missed, Missed) else f"{type(missed).__name__}: {missed}"
            self.say(f"FAIL  {self.name}  {case.name}  {why}", self.world.transcript()[-25:] if self.world else ())
            # What it left behind is not the next case's business.
            if self.world:
                self.world.close()
                self.world = None
            return
        self.passed += 1
        if seen is None:
            self.world.close()
            self.world = None
            return
        self.memory_of[case.collected] = max(self.memory_of[case.collected], seen.memory)
        if seen.seconds is not None:
            kind = "with ids" if case.ids != "none" else "without"
            self.longest[kind] = max(self.longest[kind], seen.seconds)
        if self.asked.verbose:
            broke = f"  ended {seen.seconds:.2f} s after the break" if seen.seconds is not None else ""
            self.say(f"ok    {self.name}  {case.name}  {time.monotonic() - began:.1f} s{broke}  +{seen.memory / MIB:.0f} MiB")

    def begin(self, case):
        if self.world:
            self.world.close()
        shutil.rmtree(self.out, ignore_errors=True)
        self.world = World(SERVER, self.client, self.side, self.out, relatch=self.asked.relatch)
        self.world.start_server()
        if case.lost:
            self.world.start_front()
        self.world.link = self.world.connect()
        self.world.link.ask("call", tool="short", args={"key": "warm"})

    def summary(self):
        ids = f", {self.longest['with ids']:.1f} s with event ids" if self.longest["with ids"] else ""
        return (
            f"{self.name:<11} {self.passed}/{self.passed + self.failed} passed in {self.took:.0f} s; longest from break to end "
            f"{self.longest['without']:.2f} s{ids}; relatch +{self.memory_of[False] / MIB:.0f} MiB streaming, "
            f"+{self.memory_of[True] / MIB:.0f} MiB collecting"
        )


def main():
    asked = arguments()
    clients = asked.clients or (CI_CLIENTS if asked.ci else CLIENTS)
    lock, stop = threading.Lock(), threading.Event()

    def say(line, transcript=()):
        with lock:
            print(line)
            for said in transcript:
                print(f"      | {said}")
            sys.stdout.flush()

    pairs = []
    for name in clients:
        if not CLIENTS[name].built():
            if asked.clients:
                sys.exit(f"error: client {name} is not installed; run tests/interop/setup.sh")
            say(f"note  client {name} is not installed and left out")
            continue
        pairs += [Pair(CLIENTS[name], side, asked, say, stop) for side in asked.sides]
    with ThreadPoolExecutor(max_workers=max(1, asked.jobs)) as pool:
        try:
            for done in as_completed([pool.submit(pair.run) for pair in pairs]):
                say(done.result().summary())
        except KeyboardInterrupt:
            stop.set()
    passed, failed = (sum(getattr(pair, what) for pair in pairs) for what in ("passed", "failed"))
    say(f"{passed} passed, {failed} failed")
    return 1 if failed or stop.is_set() or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
