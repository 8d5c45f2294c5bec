#!/usr/bin/env python3
"""The chaos tests: the real relatch between real SDK clients and servers, while server, proxy, wire, clients and relatch are disturbed.

Draws the plan from the seed, plays rounds of lanes and reports. What goes wrong is decided in stage/plan.py, what runs in
stage/lane.py, what is right in stage/judge.py.
"""

import argparse
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "interop")]

from harness.peers import CLIENTS, SERVERS, relatch_path
from harness.world import Missed
from stage.judge import Finding
from stage.lane import TOTALS, Lane
from stage.plan import Cast, Fault, cast, plan
from stage.proxy import Loop

OUT = HERE / "out"
# Of a round's minute, so much is chaos; the rest is for the beginning, and for calls that end and checks in a good world.
CHAOS_SECONDS = 34
ROUND_SECONDS = 60
# What is planted into a run to show that it would be seen, and as what.
PLANTS = {
    "double": "ran twice",
    "lie": "false `executed: no`",
    "stranger": "untruthful error",
    "hang": "hang",
    "stray": "in a good world",
}
SHOWN = 5
# Lanes that run now, to be put away when the run is interrupted.
ACTIVE = []


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1, help="how long (1); a round of two lanes takes about one")
    parser.add_argument("--seed", type=int, default=1, help="the plan of faults and who plays follow from it (1)")
    parser.add_argument("--round", type=int, help="only this round of the seed")
    parser.add_argument("--plan", action="store_true", help="print the plan and play nothing")
    parser.add_argument("--prove", action="store_true", help="plant what must not happen and show that it is found")
    parser.add_argument("--plant", choices=PLANTS, help="plant one thing; the run has to fail")
    parser.add_argument("--keep", action="store_true", help="keep what the processes wrote, also when all is well")
    chosen = parser.parse_args()
    found = shutil.which(relatch_path() or HERE.parents[1] / "target/debug/relatch")
    if not found:
        parser.error("set RELATCH=/path/to/relatch, or build it: cargo build")
    chosen.relatch = str(Path(found).resolve())
    return chosen


def peers():
    """Who can play: servers of the contract, which keep a ledger, and every client. All of them have to be installed."""
    servers = [name for name, server in SERVERS.items() if server.contract]
    missing = [f"server {name}" for name in servers if not SERVERS[name].built()]
    missing += [f"client {name}" for name, client in CLIENTS.items() if not client.built()]
    if missing:
        sys.exit(f"error: not installed: {', '.join(missing)}; run tests/interop/setup.sh")
    return servers, list(CLIENTS)


class Report:
    """Sums of all lanes, and findings as they come."""

    def __init__(self, quiet=False):
        self.lock, self.quiet = threading.Lock(), quiet
        self.calls, self.checks, self.replaced = 0, 0, 0
        self.by_what, self.outcomes, self.faults, self.totals = Counter(), Counter(), Counter(), Counter()
        self.findings = []

    def add(self, lane, where):
        findings, outcomes = lane.verdict()
        with self.lock:
            self.calls += len(lane.calls)
            self.checks += lane.checked
            self.replaced += lane.replaced
            self.by_what.update(call.what.split(" ")[0] for call in lane.calls)
            self.outcomes += outcomes
            self.faults += lane.faults
            for totals in lane.totals.values():
                self.totals.update(totals)
            self.findings += findings
            if self.quiet:
                return findings
            state = "ok" if not findings else f"FAIL ({len(findings)})"
            cast = lane.cast
            print(
                f"{state:<4}  {where}  {cast.server}{' json' if cast.json else ' sse'}{' behind nginx' if cast.nginx else ''}, "
                f"hold {cast.hold} s, serve: {' '.join(cast.http)}, stdio: {' '.join(cast.stdio)}: {len(lane.calls)} calls, {sum(lane.faults.values())} faults, {lane.now():.0f} s"
            )
            for finding in findings[:SHOWN]:
                of = f"{finding.call.client} {finding.call.what} {finding.call.key} from {finding.call.began:.2f}: " if finding.call else ""
                print(f"      {finding.kind}: {of}{finding.words}")
                for line in lane.timeline(finding):
                    print(f"      | {line}")
            if len(findings) > SHOWN:
                print(f"      … and {len(findings) - SHOWN} more: " + str(dict(Counter(finding.kind for finding in findings[SHOWN:]))))
            if findings:
                for line in lane.last_words():
                    print(f"      | {line}")
            sys.stdout.flush()
        return findings

    def total(self):
        print(f"calls made: {self.calls} ({listed(self.by_what)})")
        print(f"faults injected: {sum(self.faults.values())} ({listed(self.faults)})")
        print("results: " + listed(self.outcomes))
        print("relatch's own count: " + ", ".join(f"{name.replace('_', ' ')} {self.totals[name]}" for name in TOTALS))
        print(f"clients that did not survive a break of their own connection and were replaced: {self.replaced}")
        print(f"checks in a good world: {self.checks}")


def listed(counter):
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())


def play(asked, number, played, seconds, loop, report, plant=None, faults=None, **bounds):
    where = f"seed {asked.seed} round {number} lane {played.lane}" + (f" planted: {plant}" if plant else "")
    out = OUT / f"seed{asked.seed}-{number}-{played.lane}" / (plant or "")
    shutil.rmtree(out, ignore_errors=True)
    faults = plan(asked.seed, number, played, seconds) if faults is None else faults
    lane = Lane(played, asked.seed, number, out, asked.relatch, loop, plant, **bounds)
    findings = [None]
    ACTIVE.append(lane)
    try:
        try:
            lane.play(faults, seconds)
        except Missed as missed:
            lane.findings.append(Finding(None, "harness", str(missed)))
        except Exception as error:
            lane.findings.append(Finding(None, "harness", f"{type(error).__name__}: {error}"))
        findings = report.add(lane, where)
        (out / "timeline").write_text("\n".join(lane.log) + "\n")
    finally:
        lane.close()
        ACTIVE.remove(lane)
        if not findings and not asked.keep:
            shutil.rmtree(out, ignore_errors=True)
    return findings


def rounds(asked, servers, clients):
    """The numbers of the rounds to play, as long as there is time for one."""
    if asked.round is not None:
        yield asked.round
        return
    began, number = time.monotonic(), 0
    while number == 0 or time.monotonic() - began + ROUND_SECONDS <= asked.minutes * 60:
        yield number
        number += 1


def prove(asked, loop):
    """Every planted fault is found as what it is: the tests' own test. One short lane each, two at a time."""
    played = Cast(lane=0, server="ts1", json=True, nginx=False, hold=2, http=("ts1", "rmcp"), stdio=("rmcp",))
    # What relatch would have to answer with `executed: unknown`, a few times.
    faults = [Fault(at, "wire", "cut-after", 0.6) for at in (2.0, 4.0, 6.0)]
    with ThreadPoolExecutor(max_workers=2) as pool:
        running = {
            plant: pool.submit(
                play, asked, f"proof-{plant}", played, 8, loop, Report(quiet=True), plant, faults, beyond_hold=8, recovery=6
            )
            for plant in PLANTS
        }
        seen = {plant: Counter(finding.kind for finding in done.result()) for plant, done in running.items()}
    good = 0
    for plant, kind in PLANTS.items():
        # As that, and as nothing else: a test that cries at everything would prove nothing.
        found = set(seen[plant]) == {kind}
        good += found
        print(f"{'ok' if found else 'FAIL':<4}  planted {plant}: has to be found as {kind}, found {listed(seen[plant]) or 'nothing'}")
    print(f"{good} passed, {len(PLANTS) - good} failed, 0 skipped")
    return 0 if good == len(PLANTS) else 1


def main():
    asked = arguments()
    servers, clients = peers()
    if asked.plan:
        for number in [asked.round] if asked.round is not None else range(max(1, int(asked.minutes))):
            for played in cast(asked.seed, number, servers, clients):
                print(f"round {number}: {played}")
                for fault in plan(asked.seed, number, played, CHAOS_SECONDS):
                    print(f"  {fault}")
        return 0

    def interrupted(number, _):
        for lane in list(ACTIVE):
            lane.abandon()
        for lane in list(ACTIVE):
            lane.close()
        print("interrupted", flush=True)
        os._exit(128 + number)

    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    loop, report = Loop(), Report()
    if asked.prove:
        return prove(asked, loop)
    for number in rounds(asked, servers, clients):
        lanes = cast(asked.seed, number, servers, clients)
        with ThreadPoolExecutor(max_workers=len(lanes)) as pool:
            for done in [pool.submit(play, asked, number, played, CHAOS_SECONDS, loop, report, asked.plant) for played in lanes]:
                done.result()
    report.total()
    failed = len(report.findings)
    if failed:
        print(f"replay: tests/chaos/run.py --seed {asked.seed} --minutes {asked.minutes:g} (one round: --round N); transcripts in {OUT.relative_to(Path.cwd()) if OUT.is_relative_to(Path.cwd()) else OUT}")
    print(f"{report.calls + report.checks - min(failed, report.calls + report.checks)} passed, {failed} failed, 0 skipped")
    return 1 if failed or not report.calls else 0


if __name__ == "__main__":
    sys.exit(main())
