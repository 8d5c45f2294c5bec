"""Everything that can be asked about a connection, asked again and again, with what each said and when.

Knows how each view is read and where two of them contradict each other. What is true is not known here: situations.py does.
"""

import http.client
import json
import re
import threading
import time
from dataclasses import dataclass
from datetime import datetime

# Health in a word, of one upstream.
OF_STATUS = ("status --json", "status", "status NAME", "exit code", "relatch_status", "relatch top")
OF_SERVE = ("/api/status", "/api/events", "/metrics")
# These cost a process or a client's call for each upstream.
BY_NAME = ("status NAME", "exit code", "relatch_status")
# These speak by themselves.
LIVE = ("/api/events", "relatch top")
# These name conditions by their codes.
OF_CODES = ("status --json", "/api/status", "/api/events", "/metrics")
VIEWS = (*OF_STATUS, *OF_SERVE)
# Evidence may be so old and still count; the rest is for the asking itself.
FRESH_S = 60
SLACK_S = 2
# They look every second at what nothing announces, and tell what happens within 250 ms together.
LIVE_LATE_S = 3
ROW = re.compile(r"^(\S+)\s+[✓↻!✗?] (\w+)\s")
STORY = re.compile(r"^(\S+)  [✓↻!✗?] (\w+) for ")
METRIC = re.compile(r'^relatch_upstream_health\{upstream="([^"]+)",state="([^"]+)"\} 1$', re.M)
CODE = re.compile(r'^relatch_upstream_condition\{upstream="([^"]+)",code="([^"]+)"\} 1$', re.M)
COUNT = re.compile(r'^relatch_(\w+)_total\{upstream="([^"]+)"\} (\d+)$', re.M)


@dataclass(frozen=True)
class Seen:
    """What a view said of an upstream. Both times are monotonic: when it was asked, and when it had answered."""

    asked: float
    at: float
    word: str
    told: str = ""


def when(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def told(server):
    """The words behind the health of a server, as the JSON has them."""
    codes = ", ".join(condition["code"] for condition in server["conditions"])
    return "; ".join(part for part in (codes, server["reason"]) if part)


def steady(server):
    """What changes whenever something happens to an upstream."""
    return (
        server["health"],
        server["since"],
        tuple(condition["code"] for condition in server["conditions"]),
        (server["last_failure"] or {}).get("at"),
        tuple((session["id"], session["generation"], session["state"]) for session in server["sessions"]),
        server["waiting"],
        json.dumps(server["totals"], sort_keys=True),
    )


class Watch:
    """All views of the keepers of one room."""

    def __init__(self, room, pause):
        self.room, self.pause = room, pause
        # (view, name) to what was seen, in order.
        self.seen = {}
        # (pid, seq) of an entry of the journal to when it was first seen, and the entry.
        self.entries = {}
        self.wrong = []
        # What was asked by name, too: exit codes cost a process each.
        self.names = set()
        self.rounds, self.agreed, self.longest = 0, 0, 0.0
        # Of each upstream the health that it has, and when it was first seen to have it.
        self.newest, self.unchanged = {}, {}
        self.counts = {}
        self.ready = set()
        self.over = threading.Event()
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._rounds, self._listen)]
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.over.set()
        self.threads[0].join(15)

    # --- what was seen ----------------------------------------------------------------------------------------------

    def last(self, view, name):
        return (self.seen.get((view, name)) or [None])[-1]

    def first(self, view, name, since, words):
        """The first time after `since` that a view said one of these words."""
        return next((seen for seen in self.seen.get((view, name), ()) if seen.asked >= since and seen.word in words), None)

    def between(self, view, name, since, until):
        return [seen for seen in list(self.seen.get((view, name), ())) if seen.asked >= since and seen.at <= until]

    def journal(self, name, since):
        """Entries of an upstream since that moment of the wall clock: when first seen, and the entry."""
        entries = [(at, entry) for at, entry in list(self.entries.values()) if entry["upstream"] == name]
        return [(at, entry) for at, entry in entries if when(entry["at"]) >= since - 0.05]

    # --- asking -----------------------------------------------------------------------------------------------------

    def _rounds(self):
        before = time.monotonic()
        while not self.over.is_set():
            began = time.monotonic()
            self.longest = max(self.longest, began - before)
            before = began
            try:
                self._round()
            except Exception as fault:
                self.wrong.append(f"a round of questions failed: {type(fault).__name__}: {fault}")
                return
            self.rounds += 1
            self.over.wait(max(0.0, self.pause - (time.monotonic() - began)))

    def _round(self):
        first = self._api()
        said = {}
        for view, question in (("status --json", self._json), ("status", self._table), ("/metrics", self._metrics)):
            for name, seen in question().items():
                said[view, name] = seen
                self._add(view, name, seen)
        for name in sorted(self.names):
            for view, seen in self._named(name).items():
                said[view, name] = seen
                self._add(view, name, seen)
        drawn = self.room.terminal.at
        for name, word in self.room.terminal.health(self.room.served).items():
            self._add("relatch top", name, Seen(drawn, drawn, word))
        self._log()
        asked = time.monotonic()
        self.ready.add((self._get("/readyz", token=False) or (0, ""))[0])
        self._agree(first, said, self._api(), asked)

    def _add(self, view, name, seen):
        self.seen.setdefault((view, name), []).append(seen)

    def _get(self, path, token=True):
        """Status and body; none where nobody answers."""
        way = http.client.HTTPConnection("127.0.0.1", self.room.keeper_port, timeout=1.5)
        try:
            way.request("GET", path, headers={"Relatch-Token": self.room.token} if token else {})
            answer = way.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return None
        finally:
            way.close()

    def _silent(self, asked, word):
        at = time.monotonic()
        return {name: Seen(asked, at, word) for name in self.room.served}

    def _servers(self, status, asked, view):
        """What a status in JSON says of each server, and whether its `healthy` has evidence."""
        at, clock = time.monotonic(), time.time()
        found = {}
        for server in (server for keeper in status["keepers"] for server in keeper["servers"]):
            name, success = server["name"], server["last_success"]
            found[name] = Seen(asked, at, server["health"], told(server))
            age = clock - when(success["at"]) if success else None
            if server["health"] == "healthy" and (age is None or age > FRESH_S + SLACK_S):
                self.wrong.append(f"{view} calls {name} healthy, and its last success is {success} at {clock}")
            if (server["health"] == "healthy") == bool(server["reason"]):
                self.wrong.append(f"{view} calls {name} {server['health']} for the reason {server['reason']}")
        return found

    def _api(self):
        asked = time.monotonic()
        answer = self._get("/api/status")
        if not answer:
            for name, seen in self._silent(asked, "no answer").items():
                self._add("/api/status", name, seen)
            return None
        if answer[0] != 200:
            self.wrong.append(f"/api/status answers {answer[0]}: {answer[1][:200]}")
            return None
        status = json.loads(answer[1])
        for name, seen in self._servers(status, asked, "/api/status").items():
            self._add("/api/status", name, seen)
        return {server["name"]: server for keeper in status["keepers"] for server in keeper["servers"]}

    def _json(self):
        asked = time.monotonic()
        done = self.room.relatch_says("status", "--json")
        status = json.loads(done.stdout)
        found = self._servers(status, asked, "status --json")
        if status["unanswered"]:
            found = {**self._silent(asked, "hangs"), **found}
        well = not status["unanswered"] and all(seen.word == "healthy" for seen in found.values())
        if (done.returncode == 0) != well or done.returncode not in (0, 1):
            self.wrong.append(f"status --json exits with {done.returncode} and says {done.stdout}")
        return found

    def _table(self):
        asked = time.monotonic()
        done = self.room.relatch_says("status")
        at, found = time.monotonic(), {}
        for line in done.stdout.splitlines():
            if row := ROW.match(line):
                found[row[1]] = Seen(asked, at, row[2], re.split(r"(?:serve|stdio) \d+\s+", line, maxsplit=1)[-1])
            elif line.startswith("keeper ") and "✗ hangs" in line:
                found = {**self._silent(asked, "hangs"), **found}
        well = bool(found) and all(seen.word == "healthy" for seen in found.values())
        if (done.returncode == 0) != well:
            self.wrong.append(f"status exits with {done.returncode} and says {done.stdout}")
        return found

    def _named(self, name):
        asked = time.monotonic()
        done = self.room.relatch_says("status", name)
        at = time.monotonic()
        lines = done.stdout.splitlines() or [""]
        story = STORY.match(lines[0])
        word = story[2] if story else "no answer"
        said = {
            "status NAME": Seen(asked, at, word, lines[1].strip() if len(lines) > 1 else ""),
            "exit code": Seen(asked, at, str(done.returncode), done.stderr.strip()),
        }
        place = next(place for place in self.room.places if place.name == name)
        if not place.asleep:
            said["relatch_status"] = self._inside(place)
        return said

    def _inside(self, place):
        """What the client's own user or model is told, by the tool."""
        asked = time.monotonic()
        line = place.link.answer(place.link.send("call", tool="relatch_status", args={}), 20)
        at = time.monotonic()
        content = (line.get("result") or {}).get("content") or [{}]
        story = STORY.match(content[0].get("text", ""))
        return Seen(asked, at, story[2] if story else "no answer", content[0].get("text", json.dumps(line)[:200]).split("\n")[0])

    def _metrics(self):
        asked = time.monotonic()
        answer = self._get("/metrics")
        if not answer:
            return self._silent(asked, "no answer")
        at, found, text = time.monotonic(), {}, answer[1]
        for name, state in METRIC.findall(text):
            if name in found:
                self.wrong.append(f"/metrics has two states for {name}")
            codes = ", ".join(code for of, code in CODE.findall(text) if of == name)
            found[name] = Seen(asked, at, state, codes)
        self.counts = {(name, count): int(value) for count, name, value in COUNT.findall(text)}
        return found

    def _log(self):
        done = self.room.relatch_says("log", "--json")
        at = time.monotonic()
        for line in done.stdout.splitlines():
            entry = json.loads(line)
            self.entries.setdefault((entry["pid"], entry["seq"]), (at, entry))

    def _listen(self):
        """`/api/events`, which speaks by itself."""
        while not self.over.is_set():
            way = http.client.HTTPConnection("127.0.0.1", self.room.keeper_port, timeout=120)
            try:
                way.request("GET", "/api/events", headers={"Relatch-Token": self.room.token})
                event = ""
                for raw in way.getresponse():
                    if self.over.is_set():
                        return
                    line = raw.decode().rstrip("\n")
                    if line.startswith("event: "):
                        event = line[7:]
                    elif line.startswith("data: ") and event == "status":
                        at = time.monotonic()
                        for name, seen in self._servers(json.loads(line[6:]), at, "/api/events").items():
                            self._add("/api/events", name, seen)
            except (OSError, http.client.HTTPException):
                self.over.wait(0.2)
            finally:
                way.close()

    # --- one report -------------------------------------------------------------------------------------------------

    def _agree(self, first, said, last, asked):
        """Where a server was the same before and after, whoever was asked in between has to say so, too."""
        for name, server in (last or {}).items():
            now, turn = steady(server), (server["health"], server["since"])
            if self.newest.get(name) != turn:
                self.newest[name], self.unchanged[name] = turn, asked
            for view in LIVE if asked - self.unchanged[name] > LIVE_LATE_S else ():
                self.agreed += 1
                live = self.last(view, name)
                if not live or live.word != server["health"]:
                    self.wrong.append(f"{view} says {live} of {name} while /api/status says {server['health']}")
            if not first or name not in first or steady(first[name]) != now:
                continue
            health = server["health"]
            for (view, of), seen in said.items():
                expected = ("0" if health == "healthy" else "1") if view == "exit code" else health
                if of != name:
                    continue
                self.agreed += 1
                if seen.word != expected:
                    self.wrong.append(f"{view} says {seen.word} of {name} while /api/status says {expected}: {seen.told}")
