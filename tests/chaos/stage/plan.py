"""What goes wrong and when: a plan of faults, and who plays, drawn from a seed.

The same seed gives the same plan. Nothing here touches a process; lane.py carries a plan out.
"""

import random
from dataclasses import dataclass, field

# Three hands disturb at the same time, each one fault after the other: the server's side, the wire, and the clients' side
# with relatch itself.
HANDS = ("server", "wire", "near")


@dataclass(frozen=True)
class Fault:
    at: float
    hand: str
    kind: str
    # How long it lasts, in seconds.
    lasts: float = 0.0
    detail: dict = field(default_factory=dict, hash=False)

    def __str__(self):
        more = "".join(f" {key}={value}" for key, value in self.detail.items())
        return f"{self.at:6.2f} {self.hand:<6} {self.kind} for {self.lasts:.2f} s{more}"


@dataclass(frozen=True)
class Cast:
    """Who plays in one lane."""

    lane: int
    server: str
    # How the server answers: JSON bodies or SSE.
    json: bool
    nginx: bool
    hold: int
    http: tuple
    stdio: tuple


def cast(seed, number, servers, clients, lanes=2):
    """The lanes of one round. Rounds walk through the servers, so that ten minutes meet every one of them."""
    rng = random.Random(f"cast {seed} {number}")
    walk = list(servers)
    random.Random(f"walk {seed}").shuffle(walk)
    made = []
    for lane in range(lanes):
        mixed = list(clients)
        rng.shuffle(mixed)
        mixed = mixed * 4
        made.append(
            Cast(
                lane=lane,
                server=walk[(number * lanes + lane) % len(walk)],
                json=rng.random() < 0.5,
                # Alternately behind nginx and straight, and every server meets both.
                nginx=(lane + number // max(1, len(walk) // lanes)) % 2 == 1,
                hold=(4, 12)[(lane + number) % 2],
                http=tuple(mixed[:2]),
                stdio=tuple(mixed[2:4]),
            )
        )
    return made


def server_fault(rng, played):
    """The server killed, stopped, or its nginx."""
    kinds = [("server-killed", 6), ("server-stopped", 3)]
    if played.nginx:
        kinds += [("nginx-killed", 2), ("nginx-reloaded", 1)]
    kind = pick(rng, kinds)
    match kind:
        case "server-killed":
            # At once, for a moment, and now and then for longer than a call is held.
            away = pick(rng, [(0.0, 4), (rng.uniform(0.2, 1.5), 4), (rng.uniform(1.5, 3.0), 2), (played.hold + 1.5, 1)])
            # Now and then the server that comes back has other tools.
            return kind, away, {"variant": rng.choice([1, 1, 2])}
        case "server-stopped":
            return kind, rng.uniform(0.3, 4.0), {}
        case "nginx-killed":
            return kind, rng.uniform(0.0, 2.0), {}
        case _:
            return kind, 0.0, {}


def wire_fault(rng, _played):
    kind = pick(
        rng,
        [
            ("half-open", 4),
            ("refused", 2),
            ("reset", 3),
            ("ended", 1),
            ("cut-before", 3),
            ("cut-half", 2),
            ("cut-after", 3),
            ("cut-answer", 3),
        ],
    )
    match kind:
        case "half-open":
            # Silent without FIN, both ways or one; in the end the bytes come late, or the connection is lost.
            only = rng.choice(["both", "request", "answer"])
            return kind, rng.uniform(0.5, 4.0), {"only": only, "end": rng.choice(["resume", "reset"])}
        case "refused":
            return kind, rng.uniform(0.3, 3.0), {}
        case "reset" | "ended":
            return kind, 0.0, {}
        case "cut-answer":
            return kind, rng.uniform(0.2, 0.8), {"bytes": rng.choice([1, 12, 60, 150, 260]), "how": rng.choice(["reset", "end"])}
        case _:
            return kind, rng.uniform(0.2, 0.8), {}


def near_fault(rng, played):
    kinds = [("client-cut", 4), ("client-killed", 2), ("told-to-reconnect", 2), ("burst", 2)]
    kinds += [("relatch-killed", 3), ("relatch-restarted", 2)]
    kind = pick(rng, kinds)
    match kind:
        case "client-cut":
            return kind, 0.0, {"client": rng.randrange(len(played.http))}
        case "client-killed" | "burst":
            return kind, 0.0, {"client": rng.randrange(len(played.http) + len(played.stdio))}
        case "relatch-killed" | "relatch-restarted":
            return kind, rng.choice([0.0, 0.0, rng.uniform(0.2, 1.5)]), {}
        case _:
            return kind, 0.0, {}


def pick(rng, weighted):
    return rng.choices([value for value, _ in weighted], [weight for _, weight in weighted])[0]


def plan(seed, number, played, seconds):
    """Every fault of one lane in one round, in order."""
    faults = []
    for hand in HANDS:
        rng = random.Random(f"plan {seed} {number} {played.lane} {hand}")
        at = rng.uniform(0.5, 3.0)
        # Clients that relatch's own death left alone wait for their own time limit, and are given the time for it.
        last = seconds * 0.55 if hand == "near" else seconds
        while at < last:
            if hand == "server":
                kind, lasts, detail = server_fault(rng, played)
                calm = rng.uniform(1.0, 5.0)
            elif hand == "wire":
                kind, lasts, detail = wire_fault(rng, played)
                calm = rng.uniform(0.5, 3.0)
            else:
                kind, lasts, detail = near_fault(rng, played)
                calm = rng.uniform(1.5, 4.0)
            faults.append(Fault(round(at, 3), hand, kind, round(lasts, 3), detail))
            at += lasts + calm
    return sorted(faults, key=lambda fault: fault.at)
