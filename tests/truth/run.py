#!/usr/bin/env python3
"""The truth tests: real servers go wrong in known ways, and every view of relatch is held against what is true.

`RELATCH=target/debug/relatch python3 tests/truth/run.py` plays all situations at the same time beside two servers that stay
well, in about two minutes; `--quiet-minutes 5` has well servers alone and wants not a word of trouble; `--prove` plants lies.
The table of who said what after how long is printed and kept in out/. Starts and ends processes; what is right is in
situations.py, what was said in views.py.
"""

import argparse
import contextlib
import io
import json
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "interop")]

from harness.peers import CLIENTS, SERVERS, relatch_path
from harness.world import Missed
from room import Place, Room
from situations import Untrue, all_situations, asleep, everybody
from views import FRESH_S, VIEWS, Seen, Watch

OUT = HERE / "out"
# A busy client calls so often.
BETWEEN_CALLS_S = 0.2
# What a healthy server may leave in the journal.
NO_TROUBLE = {"attached"}
TROUBLE = ("relatched", "resent", "held", "given_back", "delivery_unknown")
# A watch that was asleep itself has seen nothing.
BLIND_S = 5
WELL = (("idle", "py2", "ts2", False), ("busy", "ts1", "py1", True))
WELL_LONG = (
    ("idle-ts1", "ts1", "py1", False),
    ("idle-py1", "py1", "ts1", False),
    ("idle-rmcp", "rmcp", "py2", False),
    ("busy-py2", "py2", "rmcp", True),
    ("busy-fastmcp", "fastmcp", "ts2", True),
    ("busy-everything", "everything", "ts1", True),
)


class Well:
    """A place where nothing goes wrong: whatever says otherwise is a false alarm."""

    def __init__(self, place, busy):
        self.place, self.busy, self.calls, self.fault = place, busy, 0, None
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._call, daemon=True)

    def begin(self, watch):
        watch.names.add(self.place.name)
        everybody(self.place, watch, self.place.name, ("healthy",), time.monotonic(), 30)
        self.since, self.clock = time.monotonic(), time.time()
        if self.busy:
            self.thread.start()

    def _call(self):
        try:
            while not self.over.wait(BETWEEN_CALLS_S):
                self.place.use()
                self.calls += 1
        except Exception as fault:
            self.fault = f"a call failed: {fault}"

    def end(self):
        self.over.set()
        if self.thread.is_alive():
            self.thread.join(45)

    def judged(self, watch):
        """A line for the report, and what was wrong."""
        name, wrong = self.place.name, [self.fault] if self.fault else []
        until, looks = time.monotonic(), 0
        for view in VIEWS:
            seen = watch.between(view, name, self.since, until)
            looks += len(seen)
            expected = "0" if view == "exit code" else "healthy"
            wrong += [f"{view} says {one.word} ({one.told}) {one.at - self.since:.1f} s into it" for one in seen if one.word != expected][:3]
            # Events need not come where nothing changes; all else was asked.
            if not seen and view != "/api/events":
                wrong.append(f"{view} was never asked")
        told = [entry for _, entry in watch.journal(name, 0) if entry["what"] not in NO_TROUBLE]
        wrong += [f"the log has {entry['what']}: {entry['detail']}" for entry in told]
        counts = {count: watch.counts.get((name, count)) for count in TROUBLE}
        wrong += [f"/metrics counts {count} {value}" for count, value in counts.items() if value != 0]
        if self.busy and self.calls < (until - self.since) / 10:
            wrong.append(f"a busy client made {self.calls} calls only")
        kind = f"{self.calls} calls" if self.busy else "no call"
        return f"{name} ({self.place.server_peer.name}/{self.place.client_peer.name}): {until - self.since:.0f} s, {kind}, {looks} looks", wrong


def furnish(rooms):
    """Servers first, then the keepers, then the clients."""
    places = [place for room in rooms for place in room.places]
    with ThreadPoolExecutor(4) as hands:
        list(hands.map(Place.furnish, places))
        for room in rooms:
            room.serve()
        list(hands.map(Place.attach, places))


def play(situation, place, watch, report):
    try:
        situation.play(place, watch)
        report(situation, None)
    except (Untrue, Missed) as lie:
        report(situation, str(lie))
    except Exception as fault:
        report(situation, f"{type(fault).__name__}: {fault}")


def situations(relatch, only, watching=Watch):
    """All of them at once; what was wrong, and the rows of the table."""
    chosen = [one for one in all_situations() if not only or one.name in only]
    sleeping = [one for one in [asleep()] if not only or one.name in only]
    room, bedroom = Room(relatch, OUT / "room"), Room(relatch, OUT / "bedroom")
    rooms = [one for one, used in ((room, True), (bedroom, sleeping)) if used]
    wrong, lock, watches = [], threading.Lock(), []

    def report(situation, lie):
        with lock:
            print(f"{'FAILED' if lie else 'passed'}  {situation.name}: {situation.truth}{f': {lie}' if lie else ''}", flush=True)
            if lie:
                wrong.append(f"{situation.name}: {lie}")

    try:
        plays = [(one, Place(room, one.name, one.server, one.client, one.side, one.behind)) for one in chosen]
        well = [Well(Place(room, name, server, client), busy) for name, server, client, busy in WELL]
        plays += [(one, Place(bedroom, one.name, one.server, one.client)) for one in sleeping]
        furnish(rooms)
        watches = [watching(one, 0.25) for one in rooms]
        for one in well:
            one.begin(watches[0])
        threads = [
            threading.Thread(target=play, args=(one, place, watches[rooms.index(place.room)], report), daemon=True) for one, place in plays
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # One whole freshness bound of calm, unless the others have taken longer.
        while time.monotonic() - well[0].since < FRESH_S + 5 and not only:
            time.sleep(0.1)
        for one in well:
            one.end()
        for watch in watches:
            watch.stop()
        for one in well:
            line, found = one.judged(watches[0])
            print(f"{'FAILED' if found else 'passed'}  no false alarm, {line}", flush=True)
            wrong += [f"{one.place.name}: {what}" for what in found]
        wrong += judged(watches)
        if wrong:
            for place in room.places + bedroom.places:
                if any(what.startswith(f"{place.name}: ") for what in wrong):
                    print(f"--- {place.name}", *place.transcript(), sep="\n")
    finally:
        for watch in watches:
            watch.over.set()
        for one in (room, bedroom):
            one.close()
    return wrong, [one.row for one in chosen + sleeping if one.row]


def judged(watches):
    """Whether the views of one moment agreed, and whether anybody looked."""
    wrong = []
    for watch in watches:
        lies = list(dict.fromkeys(watch.wrong))
        wrong += lies
        name = watch.room.out.name
        print(
            f"{'FAILED' if lies else 'passed'}  one truth in {name}: {watch.agreed} comparisons in {watch.rounds} rounds,"
            f" {len(watch.wrong)} contradictions; readyz {sorted(watch.ready)}; the longest round {watch.longest:.1f} s",
            *lies[:10],
            sep="\n        ",
            flush=True,
        )
        if watch.ready != {200} and not any(place.name == "asleep" for place in watch.room.places):
            wrong.append(f"/readyz in {name} says {sorted(watch.ready)}: 0 is no answer")
        if watch.agreed == 0:
            wrong.append(f"nothing was compared in {name}")
    return wrong


def quiet(relatch, seconds, places=WELL_LONG, harm=None):
    """Healthy servers, idle and busy, and not a word of trouble. `harm` does something to one of them."""
    room = Room(relatch, OUT / "quiet")
    watch, wrong = None, []
    try:
        well = [Well(Place(room, name, server, client), busy) for name, server, client, busy in places]
        furnish([room])
        watch = Watch(room, 0.25)
        for one in well:
            one.begin(watch)
        watch.longest = 0.0
        if harm:
            harm(room.places[0])
        end = time.monotonic() + seconds
        while time.monotonic() < end and not watch.wrong and not any(one.fault for one in well):
            time.sleep(0.1)
        for one in well:
            one.end()
        watch.stop()
        for one in well:
            line, found = one.judged(watch)
            print(f"{'FAILED' if found else 'passed'}  no false alarm, {line}", flush=True)
            wrong += [f"{one.place.name}: {what}" for what in found]
            if found:
                print(*found, *one.place.transcript()[-40:], sep="\n        ")
        wrong += judged([watch])
        if watch.longest > BLIND_S:
            wrong.append(f"nobody looked for {watch.longest:.1f} s")
    finally:
        if watch:
            watch.over.set()
        room.close()
    return wrong


class Liar(Watch):
    """As if `/metrics` called everything healthy, always, and `/api/events` told nothing after its first word."""

    def _metrics(self):
        return {name: Seen(seen.asked, seen.at, "healthy") for name, seen in super()._metrics().items()}

    def _add(self, view, name, seen):
        if view != "/api/events" or (view, name) not in self.seen:
            super()._add(view, name, seen)


def disturb(place):
    """Two things that nobody may miss: a relatch that was not needed, and a server that was away."""
    done = place.room.relatch_says("reconnect", place.name)
    place.until(lambda: place.room.api(place.name)["totals"]["relatched"] == 1, 10, f"reconnect did nothing: {done}")
    place.restart_server()


def prove(relatch):
    """Plants two lies and two troubles; each has to be found. What was not found."""
    plants = (
        (lambda: situations(relatch, ["killed"], Liar)[0], ("/metrics says healthy of killed", "/api/events says Seen", "killed: not within")),
        (lambda: quiet(relatch, 5, WELL, disturb), ("the log has reconnect", "the log has away", "/metrics counts relatched", "status says")),
    )
    missed = []
    for plant, words in plants:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            wrong = plant()
        for word in words:
            found = any(word in what for what in wrong)
            print(f"{'passed' if found else 'FAILED'}  found: {word}", flush=True)
            if not found:
                missed.append(f"nobody said `{word}`: {wrong}")
        if missed:
            print(said.getvalue())
    return missed


def table(rows):
    """One row a situation: what each view says after how long, and after how long it says `healthy` again."""
    lines = []
    head = ["situation", *VIEWS, "log"]
    cells = []
    for row in rows:
        line = [row["situation"]]
        for view in VIEWS:
            one = row["views"].get(view)
            if not one:
                line.append("–")
                continue
            before = f"{one['before']} {one['before_after']:.1f}, " if "before" in one else ""
            said = f"{before}{one['says']} {one['after']:.1f}" if "after" in one else ""
            line.append(f"{said} / {one['healthy']:.1f}" if "healthy" in one else said)
        log, back = row.get("log"), row.get("log_back")
        dated = [f"{one['dated']:.1f}" if one and one["entries"] else "" for one in (log, back)]
        line.append(" / ".join(dated))
        cells.append(line)
    widths = [max(len(line[n]) for line in [head, *cells]) for n in range(len(head))]
    for line in [head, *cells]:
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    lines.append("")
    lines.append("what it says, and after how many seconds / healthy again, after how many; of the log, the date of its entry")
    for row in rows:
        told = row.get("told") or row.get("said", "")
        log = (row.get("log") or {}).get("entries", []) + (row.get("log_back") or {}).get("entries", [])
        lines += ["", f"{row['situation']}: {row['truth']} ({row['server']} server, {row['client']} client, {row['side']})"]
        lines += [f"  {told}"] if told else []
        lines += [f"  log  {entry}" for entry in log]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [one.name for one in [*all_situations(), asleep()]]
    parser.add_argument("--only", metavar="A,B", help=", ".join(names))
    parser.add_argument("--quiet-minutes", type=float, metavar="N", help="nothing goes wrong for so long; any word of trouble is a false alarm")
    parser.add_argument("--prove", action="store_true", help="plants lies and troubles: each has to be found")
    asked = parser.parse_args()
    only = [name for name in (asked.only or "").split(",") if name]
    if strange := [name for name in only if name not in names]:
        parser.error(f"there is no situation {', '.join(strange)}; there are {', '.join(names)}")
    found = shutil.which(relatch_path() or "")
    if not found:
        parser.error("set RELATCH=/path/to/relatch")
    if missing := [peer.name for peer in (*SERVERS.values(), *CLIENTS.values()) if not peer.built()]:
        parser.error(f"not installed: {', '.join(missing)}; run tests/interop/setup.sh")
    relatch = str(Path(found).resolve())
    for end in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(end, lambda *_: sys.exit(143))
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    began = time.monotonic()
    if asked.prove:
        wrong = prove(relatch)
    elif asked.quiet_minutes:
        wrong = quiet(relatch, asked.quiet_minutes * 60)
    else:
        wrong, rows = situations(relatch, only)
        text = table(rows)
        (OUT / "table.txt").write_text(text)
        (OUT / "table.json").write_text(json.dumps(rows, indent=1))
        print(f"\n{text}")
    for what in wrong:
        print(f"wrong: {what}")
    print(f"{'FAILED' if wrong else 'passed'} after {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
