"""What goes wrong, what is true then, and by when every view has to say so.

The limits are promises of the design: a refused or closed connection tells at once; an idle upstream is probed every
30 s; three probes without an answer within 2 s are down; evidence counts for 60 s, and nobody says `healthy` later. On top
of each stands some time for a busy machine and for the asking itself.
"""

import os
import signal
import time
from dataclasses import dataclass, field

from views import BY_NAME, FRESH_S, LIVE, OF_CODES, OF_STATUS, SLACK_S, VIEWS, when

AT_ONCE_S = 5
PROBE_S = 30
# Three probes in a row without an answer.
# One that lets a probe go unanswered is asked again after 10 s.
SILENT_S = PROBE_S + 2 + 2 * (10 + 2) + AT_ONCE_S
PROBED_S = PROBE_S + 2 + AT_ONCE_S
# An upstream that is away is asked each second; then there is a handshake to make.
BACK_S = 10
# How long a truth that all views tell is watched on.
DWELL_S = 4


class Untrue(Exception):
    """A view lied, or was late."""


@dataclass
class Situation:
    name: str
    # What is true, for the table.
    truth: str
    server: str
    client: str
    # What the views have to say while it is so, and the condition's code.
    words: tuple
    code: str
    # What happens, and what mends it: functions of a place.
    wrong: callable
    mend: callable
    within: float
    # Entries of the journal that tell of it, and of its end.
    log: tuple
    log_back: tuple
    side: str = "http"
    behind: str = None
    # Nobody can know of it until the next probe; then it is mended without anybody's help.
    unseen: bool = False
    # Health may pass too quickly for a round of questions: what has to be shown is the end.
    passing: bool = False
    # What a view may say in between while nothing changes.
    also: tuple = ()
    row: dict = field(default_factory=dict)

    def views(self):
        return OF_STATUS if self.side == "stdio" else VIEWS

    def play(self, place, watch):
        """Plays it and fills in `row`; the first lie ends it."""
        name = self.name
        everybody(place, watch, name, ("healthy",), time.monotonic(), 30)
        watch.names.add(name)
        everybody(place, watch, name, ("healthy",), time.monotonic(), 30)
        self.row.update(situation=name, truth=self.truth, server=self.server, client=self.client, side=self.side, views={})
        place.note(f"now: {self.truth}")
        began, clock = time.monotonic(), time.time()
        self.wrong(place)
        # Whatever the situation takes to come about is no lateness of a view: a view that is quicker counts from the beginning.
        if not self.passing and not self.unseen:
            everybody(place, watch, name, self.words, began, self.within, self.code)
            entries(place, watch, name, clock, self.log, self.within)
            for view in self.views():
                seen = watch.first(view, name, began, spoken(view, self.words))
                said = {"says": seen.word, "told": seen.told, "after": seen.at - began}
                changed = [one for one in watch.between(view, name, began, seen.at) if one.word not in (seen.word, *spoken(view, ("healthy",)))]
                before = {"before": changed[0].word, "before_after": changed[0].at - began} if changed else {}
                self.row["views"][view] = {**said, **before}
            self.row["log"] = logged(watch, name, began, clock, self.log)
            self.row["told"] = watch.last(self.views()[0], name).told
            place.downtime(DWELL_S)
            last = time.monotonic()
            for view in self.views():
                bound = began + self.row["views"][view]["after"]
                lies = [seen for seen in watch.between(view, name, bound, last) if seen.word not in spoken(view, (*self.words, *self.also))]
                expect(not lies, f"{view} says {lies[0].word if lies else ''} again, and nothing has changed: {lies[:1]}")
                lies = [seen for seen in watch.between(view, name, began + FRESH_S + SLACK_S, last) if seen.word in spoken(view, ("healthy",))]
                expect(not lies, f"{view} says healthy {lies[0].at - began if lies else 0:.1f} s later")
            began, clock = time.monotonic(), time.time()
            place.note("mended")
            self.mend(place)
        self.back(place, watch, began, clock)

    def back(self, place, watch, began, clock):
        """Everybody says `healthy` again, because it is, and a call is answered."""
        name, within = self.name, PROBED_S if self.unseen else BACK_S + AT_ONCE_S
        entries(place, watch, name, clock, self.log_back, within)
        told = logged(watch, name, began, clock, self.log_back)
        everybody(place, watch, name, ("healthy",), clock_to(told["last"], began, clock), within)
        self.again(place, watch, began, clock_to(told["last"], began, clock))
        self.row["log_back"] = told
        place.use()
        server = place.room.api(name) if self.side == "http" else None
        expect(not server or not server["conditions"], f"conditions are left: {server and server['conditions']}")
        self.more(place, watch, server, clock)
        watch.names.discard(name)

    def again(self, place, watch, began, since):
        """Fills in when each view first said `healthy` again."""
        for view in self.views():
            # An event may take a moment to come.
            healthy = lambda: watch.first(view, self.name, max(began, since), spoken(view, ("healthy",)))  # noqa: B023, E731
            seen = place.until(healthy, AT_ONCE_S, f"{view} does not say that {self.name} is healthy")
            self.row["views"].setdefault(view, {})["healthy"] = seen.at - began

    def more(self, place, watch, server, clock):
        """What else has to be true at the end."""


class Replaced(Situation):
    """Every view that names the server has to name the new one."""

    def more(self, place, watch, server, clock):
        expect(server["server"]["version"] == "2.0.0", f"/api/status still names {server['server']}")
        story = place.room.relatch_says("status", self.name).stdout
        expect(" 2.0.0, MCP " in story, f"status {self.name} still names another: {story}")
        told = [entry for _, entry in watch.journal(self.name, clock) if entry["what"] in ("relatched", "list-changed")]
        words = " ".join(entry["detail"] or "" for entry in told)
        expect("2.0.0" in words and "extra" in words, f"the log does not say what is new: {words}")
        place.link.event("list_changed", kind="tools", seconds=AT_ONCE_S)
        self.row["said"] = words


class Asleep(Situation):
    """Client, relatch and server sleep together for longer than evidence counts."""

    def play(self, place, watch):
        name, room = self.name, place.room
        everybody(place, watch, name, ("healthy",), time.monotonic(), 30)
        watch.names.add(name)
        everybody(place, watch, name, ("healthy",), time.monotonic(), 30)
        self.row.update(situation=name, truth=self.truth, server=self.server, client=self.client, side=self.side, views={})
        everyone = (room.keeper, place.server, place.link.process)
        place.asleep = True
        for process in everyone:
            os.killpg(process.pid, signal.SIGSTOP)
        began, clock = time.monotonic(), time.time()
        place.note("all sleep")
        place.downtime(FRESH_S + 3)
        lies = [view for view in ("status --json", "status", "status NAME", "relatch top", "/api/status", "/metrics") if healthy(watch, view, name, began + AT_ONCE_S)]
        expect(not lies, f"these say `healthy` of a keeper that sleeps: {lies}")
        for view in ("status --json", "status", "relatch top"):
            seen = watch.first(view, name, began, ("hangs",))
            expect(seen, f"{view} does not say that the keeper hangs")
            self.row["views"][view] = {"says": "hangs", "told": "", "after": seen.at - began}
        woken = time.time()
        for process in everyone:
            os.killpg(process.pid, signal.SIGCONT)
        place.note("all wake")
        place.asleep = False
        began, clock = time.monotonic(), time.time()
        everybody(place, watch, name, ("healthy",), began, BACK_S + AT_ONCE_S)
        self.again(place, watch, began, began)
        entries(place, watch, name, woken, ("woke",), AT_ONCE_S)
        self.row["log_back"] = logged(watch, name, began, clock, ("woke",))
        # The watch has held each `healthy` against the age of its evidence; here is the evidence.
        success = place.room.api(name)["last_success"]
        expect(when(success["at"]) >= woken - 0.05, f"healthy on evidence from before the sleep: {success}")
        place.use()
        watch.names.discard(name)


def healthy(watch, view, name, since):
    return any(seen.word == "healthy" for seen in watch.between(view, name, since, time.monotonic()))


def spoken(view, words):
    """These words as the exit code says them."""
    return ("0",) if view == "exit code" and words == ("healthy",) else ("1",) if view == "exit code" else words


def expect(holds, what):
    if not holds:
        raise Untrue(what)


def everybody(place, watch, name, words, since, within, code=""):
    """Waits until every view that was asked since then says one of these words, and every one that has codes this one."""
    views = OF_STATUS if place.side == "stdio" else VIEWS
    views = [view for view in views if name in watch.names or view not in BY_NAME]

    def late():
        found = []
        for view in views:
            last = watch.last(view, name)
            # What these have told last still holds.
            fresh = last and (view in LIVE or last.asked >= since)
            if not fresh or last.word not in spoken(view, words) or (view in OF_CODES and code not in last.told):
                found.append(f"{view} ({last.word}: {last.told})" if last else view)
        return found

    end = since + within
    while missing := late():
        if time.monotonic() > end:
            raise Untrue(f"not within {within:.0f} s {'/'.join(words)} {code}: {'; '.join(missing)}")
        if watch.over.is_set():
            raise Untrue("the watch is over")
        time.sleep(0.02)


def entries(place, watch, name, clock, whats, within):
    """Waits until the journal has all of these since then."""
    missing = ()

    def all_there():
        nonlocal missing
        have = {entry["what"] for _, entry in watch.journal(name, clock)}
        missing = [what for what in whats if what not in have]
        return not missing

    end = time.monotonic() + within
    while not all_there():
        if time.monotonic() > end or watch.over.is_set():
            told = [(entry["what"], entry["detail"]) for _, entry in watch.journal(name, clock)]
            raise Untrue(f"the log has no {missing} within {within:.0f} s: {told}")
        time.sleep(0.02)


def logged(watch, name, began, clock, whats):
    """When these were seen and when they are dated, in seconds since the beginning."""
    found = [(at, entry) for at, entry in watch.journal(name, clock) if entry["what"] in whats]
    if not found:
        return {"seen": 0.0, "dated": 0.0, "last": clock, "entries": []}
    return {
        "seen": max(at for at, _ in found) - began,
        "dated": max(when(entry["at"]) for _, entry in found) - clock,
        "last": max(when(entry["at"]) for _, entry in found),
        "entries": [f"{entry['what']}: {entry['detail'] or ''}".rstrip(": ") for _, entry in found],
    }


def clock_to(moment, began, clock):
    """A moment of the wall clock as one of the monotonic."""
    return began + moment - clock


def restart_unseen(place):
    place.use()
    place.restart_server()


def wake_and_use(place):
    place.wake_server()
    place.use()


def revoke(place):
    place.door.revoked = True


def accept(place):
    place.door.revoked = False
    # relatch asks nothing with credentials that are refused: the client's next request has to tell.
    place.use()


def all_situations():
    """Fresh ones, in no order: they are all played at the same time."""
    away = ("away",)
    back = ("back", "relatched")
    start = lambda place: place.start_server()  # noqa: E731
    kill = lambda place: place.kill_server()  # noqa: E731

    def free_and_start(place):
        (place.end_noise if place.noise else place.kill_server)()
        place.start_server()

    down = ("down",)
    return [
        Situation("killed", "the server is killed", "py2", "ts1", down, "upstream-down", kill, start, AT_ONCE_S, away, back),
        Situation("piped", "the server is killed", "everything", "py2", down, "", kill, start, AT_ONCE_S, away, back, side="stdio"),
        Situation(
            "stopped", "the server is stopped: it accepts and never answers", "ts1", "py1", down, "upstream-silent",
            lambda place: place.stop_server(), wake_and_use, SILENT_S, ("probed",), (),
        ),
        Situation(
            "web", "its port is taken by a web server", "py1", "ts2", down, "endpoint-missing",
            # A server may say 501 of a session, so a new one is tried for once.
            lambda place: place.web_server(), free_and_start, AT_ONCE_S, away, back, also=("recovering",),
        ),
        Situation(
            "noise", "its port is taken by something that speaks no HTTP", "rmcp", "rmcp", down, "",
            lambda place: place.make_noise(), free_and_start, AT_ONCE_S, away, back,
        ),
        Situation(
            "gateway", "the server is killed behind nginx, which answers 502", "everything", "py1", down, "",
            kill, start, AT_ONCE_S, away, back, behind="nginx",
        ),
        Situation(
            "credentials", "the credentials are revoked: 401 with a challenge", "fastmcp", "py2", ("degraded",), "credentials-refused",
            revoke, accept, PROBED_S, ("credentials-refused",), (), behind="door",
        ),
        Situation(
            "unseen", "the server was started again behind a proxy while idle: the session is lost", "ts2", "ts1", (), "",
            restart_unseen, None, PROBED_S, (), ("relatched",), behind="door", unseen=True,
        ),
        Replaced(
            "replaced", "another version with other tools stands in the server's place", "py1", "ts1", (), "",
            lambda place: place.restart_server(variant=2), None, AT_ONCE_S, (), ("relatched",), passing=True,
        ),
    ]


def asleep():
    return Asleep("asleep", "client, relatch and server sleep for 63 s and wake", "ts1", "py1", (), "", None, None, 0, (), ())
