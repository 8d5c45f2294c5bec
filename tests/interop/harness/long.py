"""Long answers that break: every place where an answer can end too early, and what its client has to see then.

The cases and their judgement; `../long.py` plays them, `peers/long/server.py` breaks the answers.
"""

import hashlib
import importlib.util
import json
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from .peers import PEERS
from .world import Missed

MIB = 1024 * 1024
# What a client takes at most, by its own words; beyond it an error of the client's is right.
LIMITS = {(client, "stdio", form): 10 * MIB for client in ("ts1", "ts2") for form in ("json", "sse")}
LIMITS |= {("py2", "http", "sse"): MIB, ("rmcp", "http", "json"): 16 * MIB, ("rmcp", "http", "sse"): 16 * MIB}
# Reading a line of 50 MB takes these clients more than a minute, without relatch as well: they get shorter ones whole.
SLOW, SHORTER = {("py1", "stdio"), ("py2", "stdio"), ("rmcp", "stdio")}, 8 * MIB
# What relatch collects when an answer shows no `result` in its first 64 KiB.
COLLECTED = 32 * MIB
# From the break to the end of the call. A stream with event ids is asked for its rest, for 5 s at most.
SOON, SOON_WITH_IDS = 5, 11
# An answer of 50 MB takes some clients a while; one that hangs takes for ever, or the 60 s of its SDK.
PATIENCE = 45
# Above idle, whatever the size: what is streamed, and what is collected.
STREAMED_ROOM, COLLECTED_ROOM = 32 * MIB, 150 * MIB

LAYOUTS = ("first", "last", "pretty")
ANYWHERE = ("before-head", "after-head", "first-64k", "at-64k", "under-1m", "over-1m", "middle", "escape", "letter", "last-byte", "chunk-head")
CUTS = {"json": (*ANYWHERE, "no-last-chunk", "short-length"), "sse": (*ANYWHERE, "brace", "blank-line")}
FRAMINGS = {"chunk-head": ("chunked",), "no-last-chunk": ("chunked",), "short-length": ("length",)}


def server():
    spec = importlib.util.spec_from_file_location("long_server", PEERS / "long" / "server.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


digest = server().digest


@dataclass(frozen=True)
class Case:
    form: str
    layout: str
    size: int
    framing: str = "chunked"
    cut: str | None = None
    end: str = "fin"
    ids: str = "none"
    before: int = 0
    polls: int = 0
    # When the client loses its connection: before its answer, which comes while it is `away` or when it is `back`, or
    # in the `middle` of it. It comes back by itself.
    lost: str | None = None
    # whole, error (relatch says what happened), told (either of them: who comes back first can't be said), over (longer than relatch collects), limit (longer than the client takes).
    wanted: str = "error"

    @property
    def name(self):
        size = f"{self.size / MIB:.3g}M"
        parts = [self.form, self.layout, size, self.framing, self.cut and f"{self.cut}/{self.end}", self.ids != "none" and f"ids-{self.ids}"]
        parts += [self.lost and f"lost-{self.lost}", self.before and f"after-{self.before}", self.polls and f"polls-{self.polls}", self.wanted]
        return " ".join(part for part in parts if part)

    @property
    def arguments(self):
        return {name: getattr(self, name) for name in ("form", "layout", "size", "framing", "cut", "end", "ids", "before", "polls")} | {"waits": bool(self.lost)}

    @property
    def collected(self):
        return self.layout in ("late", "error")


def cases(client, side, size, both_ends):
    """All that is played with this client on this side, answers of about `size` bytes."""
    turn = count()

    def limit(form):
        return LIMITS.get((client, side, form), 1 << 40)

    def most(form):
        """A whole answer that this client takes."""
        return min(size, int(limit(form) * 0.85), SHORTER if (client, side) in SLOW else size)

    def whole(form, layout, **more):
        room = min(limit(form), COLLECTED if layout in ("late", "error") else 1 << 40)
        fits = min(most(form), int(room * 0.85))
        framing = ("chunked", "length", "close")[next(turn) % 3]
        yield Case(form, layout, fits, framing, wanted="whole", **more)
        if size > room:
            yield Case(form, layout, size, framing, wanted="over" if room == COLLECTED else "limit", **more)

    for form in ("json", "sse"):
        for layout in (*LAYOUTS, "late", "error"):
            yield from whole(form, layout)
        for layout in LAYOUTS:
            for cut in CUTS[form]:
                # Every way to say where a body ends meets every cut; both ends of a connection do where asked.
                n = next(turn)
                framings = FRAMINGS.get(cut, ("chunked", "length", "close"))
                for more in range(2 if both_ends else 1):
                    yield Case(form, layout, size, framings[(n + more) % len(framings)], cut, ("fin", "rst")[(n + more) % 2])
        yield Case(form, "late", size, cut="middle")
        yield Case(form, "error", size, cut="middle")
        yield Case(form, "last", size, cut="stall")
    # The event is whole, whatever becomes of its stream.
    yield Case("sse", "last", most("sse"), cut="no-last-chunk", wanted="whole")
    yield Case("sse", "last", most("sse"), before=1000, wanted="whole")
    yield Case("sse", "first", size, cut="middle", before=1000)
    for cut in ("first-64k", "under-1m", "middle"):
        yield Case("sse", "first", size, cut=cut, ids="lost")
    # What has begun to go on is not begun again; before that the rest is asked for.
    yield Case("sse", "first", most("sse"), cut="first-64k", ids="kept", wanted="whole")
    if limit("sse") > size:
        yield Case("sse", "first", most("sse"), cut="under-1m", end="rst", ids="kept", wanted="whole")
    yield Case("sse", "first", size, cut="middle", ids="kept")
    yield Case("sse", "first", size, cut="stall", ids="kept")
    # More closings than a stream that breaks is given tries.
    yield Case("sse", "first", most("sse"), ids="kept", polls=6, wanted="whole")
    if side == "http":
        # Beyond 1 MiB an answer that comes while the client is away is not kept, and the client is told so.
        for ids in ("none", "kept"):
            for lost, fits, wanted in (("away", 800_000, "whole"), ("away", size, "told"), ("back", size, "whole"), ("middle", size, "error")):
                if min(limit("sse"), size) > fits or fits == size < limit("sse"):
                    yield Case("sse", "first", fits, before=5, ids=ids, lost=lost, wanted=wanted)


@dataclass
class Seen:
    """What one case showed."""

    # From the break to the end of the call.
    seconds: float | None = None
    # Above what relatch held when idle.
    memory: int = 0


def progress(link, n, since):
    """How many progress events of a call have come. An SDK that reads several messages at once may hand on the answer ahead of
    the progress before it, and then says of that progress that it knows nothing of it."""
    late = [e for e in link.seen("stream_error", since=since) if "progress notification for an unknown token" in e.get("message", "")]
    return len(link.seen("progress", n=n)) + len(late)


def play(world, case, key):
    """One long call and the next one; raises `Missed` when the client saw anything else than it should."""
    link = world.link
    world.deadline = time.monotonic() + 2 * PATIENCE
    pid = relatch_of(world)
    idle = forget_peak(pid)
    seen = Seen()
    sent_at = len(link.events)
    n = link.send("call", tool="long", args={"key": key, **case.arguments}, progress=True if case.before else None)
    if case.cut == "stall":
        world.until(lambda: told(world, "stalled", key), PATIENCE, "the server did not come to its silence")
        if (line := link.answered(n)) and not has_enough(world, case):
            raise Missed(f"the call ended while the server was merely silent: {short(line)}")
        world.kill_server()
        broke = time.time()
    if case.lost:
        lose(world, case, key, n)
    line = link.answer(n, PATIENCE)
    ended = time.time()
    if case.cut and case.cut != "stall":
        broke = world.until(lambda: told(world, "cut", key), 10, "the server did not come to its cut")["at"]
    if case.cut and case.wanted == "error":
        seen.seconds = ended - broke
    if case.wanted == "limit" and not Path(f"/proc/{pid}").exists():
        # The client has closed its connection over it, and a stdio connection is relatch's life.
        if line["ok"]:
            raise Missed("the client takes more than it is said to take")
        return None
    seen.memory = peak(pid) - idle
    if case.cut == "stall":
        world.start_server()
    judge(world, case, key, line, seen)
    if case.before:
        heard = progress(link, n, sent_at)
        world.until(lambda: progress(link, n, sent_at) == case.before, 5, f"{case.before} progress events were sent, {heard} came")
    after = f"{key}-after"
    said = link.answer(link.send("call", tool="short", args={"key": after}), 20)
    if not said["ok"] or f"short {after}" not in json.dumps(said["result"]):
        raise Missed(f"the next call went wrong: {short(said)}")
    for one in (key, after):
        ran = len(world.executions(one))
        if ran != 1:
            raise Missed(f"`{one}` ran {ran} times")
    return seen


def lose(world, case, key, n):
    """The client's connections break, and it comes back."""
    front, go = world.front, Path(f"{world.ledger}.go-{key}")
    world.until(lambda: len(world.link.seen("progress", n=n)) == case.before, 10, f"the {case.before} progress events did not come")
    if case.lost == "middle":
        front.cut(after=case.size // 2)
        return go.touch()
    # Some clients come back to streams whose answer they have.
    before = set(front.returned)
    front.cut()
    if case.lost == "away":
        go.touch()
    world.until(lambda: front.returned - before, 15, "the client did not come back by an event id")
    go.touch()


def has_enough(world, case):
    """A client that has had enough before the break says so in its own words. Only what goes on as it comes reaches it by
    then: a line on stdio and a JSON answer are whole in relatch first."""
    streams = world.side == "http" and case.form == "sse"
    return streams and case.size > LIMITS.get((world.client_peer.name, world.side, case.form), 1 << 40)


def judge(world, case, key, line, seen):
    error = line.get("error") or {}
    relatch = error.get("data") or {}
    relatch = relatch.get("relatch") if isinstance(relatch, dict) else None
    wanted = case.wanted
    if wanted == "told":
        wanted = "whole" if line["ok"] else "error"
    match wanted:
        case "whole" if case.layout == "error":
            if line["ok"] or error.get("code") != -32050 or sha(error.get("data") or "") != digest(case.arguments):
                raise Missed(f"the server's error did not come whole: {short(line)}")
        case "whole":
            if not line["ok"] or line["result"].get("isError"):
                raise Missed(f"the answer did not come: {short(line)}")
            if sha("".join(part["text"] for part in line["result"]["content"])) != digest(case.arguments):
                raise Missed("the answer is not what the server sent")
        case "over":
            if line["ok"] or not relatch or "32 MiB" not in json.dumps(error):
                raise Missed(f"the bound of 32 MiB is not named: {short(line)}")
        case "limit":
            if line["ok"]:
                raise Missed("the client takes more than it is said to take")
        case "error":
            if line["ok"]:
                raise Missed("an answer that was cut looks whole")
            if not has_enough(world, case) and (not relatch or relatch.get("executed") != "unknown"):
                raise Missed(f"the client is not told that the call may have run: {short(line)}")
    if seen.seconds is not None and seen.seconds > (SOON if case.ids == "none" else SOON_WITH_IDS):
        raise Missed(f"{seen.seconds:.1f} s from the break to the end of the call")
    room = COLLECTED_ROOM if case.collected else STREAMED_ROOM
    if seen.memory > room:
        raise Missed(f"relatch held {seen.memory / MIB:.0f} MiB more than when idle")
    resumed = sum(1 for entry in world.entries() if entry.get("resumed") == key)
    if resumed != (case.polls or (1 if case.ids == "kept" and case.cut and case.wanted == "whole" else 0)):
        raise Missed(f"the stream was resumed {resumed} times")


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def short(line):
    said = json.dumps(line)
    return said if len(said) < 600 else f"{said[:400]} … {said[-150:]}"


def told(world, what, key):
    return next((entry for entry in world.entries() if entry.get(what) == key), None)


# --- memory -------------------------------------------------------------------------------------------------------------


def relatch_of(world):
    """The process of relatch: the keeper, or what the client's stdio transport started."""
    if world.keeper:
        return world.keeper.pid
    for pid in world.marked():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[:2] == [world.relatch.encode(), b"stdio"]:
            return pid
    raise Missed("relatch does not run")


def forget_peak(pid):
    """Begins a new peak and returns what is held now, in bytes."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return field(pid, "VmRSS")


def peak(pid):
    return field(pid, "VmHWM")


def field(pid, name):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise Missed(f"/proc/{pid}/status has no {name}")
