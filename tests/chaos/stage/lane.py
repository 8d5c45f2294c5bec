"""One lane: a real server, our proxy (and nginx) before it, relatch, real clients that call all the time, and the faults.

Carries a plan out and writes down what was asked, answered and done. What of it is right is decided in judge.py.
"""

import json
import os
import random
import re
import signal
import subprocess
import threading
import time
import traceback
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from harness.peers import CLIENTS, SERVERS
from harness.world import Link, Missed, World, free_port, tail

from .judge import OWN_TROUBLE, Call, Finding, Hurt, judge
from .proxy import Proxy

# What a call may take beyond the hold: a server that is silent or starts, a slow tool, and a busy machine.
BEYOND_HOLD = 20
# The harness looks for an answer so much longer than the client's own time limit.
MARGIN = 5
CALLERS = 3
BURST = 80
# The world is good again: everything has to be well within this.
RECOVERY = 30
TOTALS = ("calls", "relatched", "resent", "held", "given_back", "delivery_unknown")


class Player:
    """The place of one client. Its process may be killed, then another takes the place."""

    def __init__(self, lane, name, peer, side):
        self.lane, self.name, self.peer, self.side = lane, name, peer, side
        self.link, self.proxy = None, None
        self.lives = 0
        self.changing = threading.Lock()
        # Links that a fault has killed, and when the connection of the present one was first broken by a fault.
        self.killed = set()
        self.hurt_since = None


class Lane(World):
    def __init__(self, cast, seed, number, out, relatch, loop, plant=None, beyond_hold=BEYOND_HOLD, recovery=RECOVERY):
        super().__init__(SERVERS[cast.server], None, "both", out, relatch=relatch)
        self.cast, self.loop, self.plant = cast, loop, plant
        self.limit, self.recovery = cast.hold + beyond_hold, recovery
        self.rng = random.Random(f"calls {seed} {number} {cast.lane}")
        self.treatment = ["--hold", f"{cast.hold}s"]
        self.deadline = self.started + 3600
        self.calls, self.hurts, self.findings = [], [], []
        self.faults, self.totals = Counter(), {}
        self.variant, self.bursts = 1, []
        self.replaced = 0
        self.checked = 0
        self.stop, self.quiet = threading.Event(), threading.Event()
        self.refusals, self.turn = set(), threading.Lock()
        self.ready = threading.Condition()
        self.players = []

    def now(self):
        return time.monotonic() - self.started

    # --- the beginning ----------------------------------------------------------------------------------------------

    def begin(self):
        self.start_server(json=self.cast.json)
        if self.cast.nginx:
            self.start_nginx()
        # The port is asked for at every connection: nginx and the server keep theirs when they start again.
        behind = self.nginx_port or self.port
        self.proxy = Proxy(self.loop, free_port(), lambda: behind, self.note)
        self.upstream = f"http://127.0.0.1:{self.proxy.port}/mcp"
        self.start_keeper()
        for place, name in enumerate(self.cast.http):
            player = Player(self, f"h{place}-{name}", CLIENTS[name], "http")
            player.proxy = Proxy(self.loop, free_port(), lambda: self.keeper_port, self.note)
            self.players.append(player)
        for place, name in enumerate(self.cast.stdio):
            self.players.append(Player(self, f"s{place}-{name}", CLIENTS[name], "stdio"))
        opening = [self.thread(self.enter, player) for player in self.players]
        for thread in opening:
            thread.start()
        for thread in opening:
            thread.join()
        if missing := [player.name for player in self.players if not player.link]:
            raise Missed(f"the clients {', '.join(missing)} could not connect before any fault")
        self.plant_now()

    def plant_now(self):
        """A fault that relatch would have made: the tests' own test that it is seen."""
        near = [player.proxy for player in self.players if player.proxy]
        match self.plant:
            case "double":
                seen = iter(range(1_000_000))
                self.proxy.twice = lambda data: b'"count"' in data and data.startswith(b"POST") and next(seen) > 20
            case "lie":
                for proxy in near:
                    proxy.forge = lambda data, _: data.replace(b'"executed":"unknown"', b'"executed":"no"     ')
            case "stranger":
                for proxy in near:
                    proxy.forge = lambda data, _: data.replace(b'"relatch":{', b'"strange":{')
            case "hang":
                left = [3]

                def swallow(data, pipe):
                    if b"ran in pid" in data and left[0]:
                        left[0] -= 1
                        return b""
                    return data

                for proxy in near:
                    proxy.forge = swallow
            case "stray":
                self.stray = self.spawn("stray", [self.relatch, "stdio", self.upstream], stdin=subprocess.PIPE)

    # --- the clients ------------------------------------------------------------------------------------------------

    def enter(self, player):
        """A new client in this place, connected. It tries again like a user would, as often as there is time."""
        while not self.quiet.is_set() or player.link is None:
            player.lives += 1
            link = Link(self, f"{player.name}.{player.lives}", player.peer)
            self.clients.append(link)
            if player.side == "stdio":
                details = {"command": [self.relatch, "stdio", self.upstream, *self.treatment, "--name", player.name]}
            else:
                details = {"url": f"http://127.0.0.1:{player.proxy.port}/up/mcp"}
            call = Call("", player.name, player.side, "connect", self.now(), 20 + BEYOND_HOLD, once=False)
            try:
                n = link.send("connect", **details)
                self.wait(player, link, n, call)
            except Missed:
                call.without = "client ended by itself"
            self.calls.append(call)
            if call.line and call.line["ok"]:
                with self.ready:
                    player.link, player.hurt_since = link, None
                    self.ready.notify_all()
                return
            self.put_away(link)
            if player.lives > 50:
                return

    def put_away(self, link):
        try:
            os.killpg(link.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        link.process.wait(5)
        self.spawned.remove(link.process)
        self.clients.remove(link)

    def replace(self, player, link, why):
        """Another client in the place of `link`, once."""
        with player.changing:
            if player.link is not link:
                return
            self.note(f"{player.name} is replaced: {why}")
            player.killed.add(link)
            with self.ready:
                player.link = None
            # Only the client: what it started has to end by itself.
            try:
                os.kill(link.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            link.process.wait(5)
            self.spawned.remove(link.process)
            self.clients.remove(link)
            self.enter(player)

    def wait(self, player, link, n, call):
        end = time.monotonic() + call.bound
        with link.news:
            while n not in link.answers and not link.gone and (left := end - time.monotonic()) > 0:
                link.news.wait(left)
            call.line = link.answers.get(n)
            call.ended = link.at.get(n, time.monotonic()) - self.started
        if call.line is None:
            if link in player.killed:
                call.without = "its client was killed"
            elif not link.gone:
                call.ended = None

    def choose(self, player):
        """What is asked next: (what, op, details, may run once only, cancelled after)."""
        limit = self.limit * 1000
        dice = self.rng.random()
        key = f"{player.name}-{self.rng.getrandbits(40):010x}"
        if dice < 0.55:
            return key, "count", "call", {"tool": "count", "args": {"key": key}, "timeout_ms": limit}, True, None
        if dice < 0.70:
            return key, "read", "call", {"tool": "read", "args": {"key": key}, "timeout_ms": limit}, False, None
        if dice < 0.93:
            ms = self.rng.choice([100, 400, 1000, 2500])
            details = {"tool": "slow", "args": {"key": key, "ms": ms, "steps": 3}, "progress": True, "timeout_ms": limit}
            if self.rng.random() < 0.12:
                return key, f"slow {ms} ms, cancelled", "call", details, True, self.rng.uniform(0, 0.8)
            return key, f"slow {ms} ms", "call", details, True, None
        return "", "list_tools", "list_tools", {}, False, None

    def call_all_the_time(self, player):
        while not self.stop.is_set():
            with self.ready:
                self.ready.wait_for(lambda: player.link or self.stop.is_set(), 1)
                link = player.link
            if link:
                self.call(player, link)
                self.stop.wait(self.rng.uniform(0.02, 0.25))

    def call(self, player, link):
        key, what, op, details, once, cancelled_after = self.choose(player)
        return self.ask(player, link, key, what, op, details, once, cancelled_after)

    def ask(self, player, link, key, what, op, details, once, cancelled_after=None):
        call = Call(key, player.name, player.side, what, self.now(), self.limit + MARGIN, once=once)
        self.calls.append(call)
        try:
            n = link.send(op, **details)
            if cancelled_after is not None:
                call.cancelled = True
                self.stop.wait(cancelled_after)
                link.send("cancel", of=n)
            self.wait(player, link, n, call)
        except Missed:
            call.ended = self.now()
            call.without = "its client was killed" if link in player.killed else None
        self.look_after(player, link, call)
        return call

    def look_after(self, player, link, call):
        """Some clients are of no use any more after their connection to relatch broke; that is theirs, and they are replaced."""
        if call.line and call.line["ok"] and player.hurt_since is not None and call.began > player.hurt_since:
            # It did survive. What breaks from here on is not excused by that fault.
            player.hurt_since = None
        error = (call.line or {}).get("error")
        alone = link.gone or (error and not call.told() and OWN_TROUBLE.search(json.dumps(error)))
        if not alone or player.hurt_since is None or link in player.killed:
            return
        if link.gone or not any(hurt.meets(call) for hurt in list(self.hurts)):
            since = player.hurt_since
            self.replaced += 1
            self.replace(player, link, "it did not survive that its connection to relatch broke")
            self.hurts.append(Hurt(player.name, since, self.now()))

    # --- the faults -------------------------------------------------------------------------------------------------

    def hand(self, faults):
        for fault in faults:
            if self.stop.wait(max(0.0, fault.at - (self.now() - self.chaos_began))):
                return
            self.faults[fault.kind] += 1
            self.note(f"FAULT {fault}")
            try:
                self.commit(fault)
            except Missed as missed:
                self.findings.append(Finding(None, "world", f"{fault.kind}: {missed}"))
            self.note(f"over: {fault.hand} {fault.kind}")

    def commit(self, fault):
        match fault.kind:
            case "server-killed":
                with self.turn:
                    self.put_down(self.server)
                    self.refuse("server") if not self.cast.nginx else None
                    self.stop.wait(fault.lasts)
                    self.variant = fault.detail.get("variant", 1)
                    self.start_server(variant=self.variant, json=self.cast.json)
                    self.admit("server")
            case "server-stopped":
                with self.turn:
                    os.killpg(self.server.pid, signal.SIGSTOP)
                    self.stop.wait(fault.lasts)
                    os.killpg(self.server.pid, signal.SIGCONT)
            case "nginx-killed":
                with self.turn:
                    self.put_down(self.nginx)
                    self.refuse("nginx")
                    self.stop.wait(fault.lasts)
                    upstream = self.upstream
                    self.start_nginx()
                    self.upstream = upstream
                    self.admit("nginx")
            case "nginx-reloaded":
                with self.turn:
                    self.reload_nginx()
            case "half-open":
                only = {} if fault.detail["only"] == "both" else {"only": fault.detail["only"]}
                self.proxy.behave("silent", **only)
                self.stop.wait(fault.lasts)
                self.proxy.calm(fault.detail["end"])
            case "refused":
                self.refuse("wire")
                self.proxy.cut("reset")
                self.stop.wait(fault.lasts)
                self.admit("wire")
            case "reset" | "ended":
                self.note(f"{self.proxy.cut('reset' if fault.kind == 'reset' else 'end')} connections cut")
            case "cut-before" | "cut-half" | "cut-after" | "cut-answer":
                self.proxy.behave(fault.kind, **fault.detail)
                self.stop.wait(fault.lasts)
                self.proxy.calm()
            case "client-cut":
                player = self.players[fault.detail["client"]]
                since = self.now()
                player.hurt_since = player.hurt_since or since
                self.note(f"{player.proxy.cut('reset')} connections of {player.name} cut")
                self.hurts.append(Hurt(player.name, since, self.now() + 0.5))
            case "client-killed":
                player = self.players[fault.detail["client"]]
                if link := player.link:
                    self.sample()
                    self.replace(player, link, "killed by a fault")
            case "burst":
                # More at once than may wait in one session.
                player = self.players[fault.detail["client"]]
                if link := player.link:
                    asking = [self.thread(self.call, player, link) for _ in range(BURST)]
                    self.bursts += asking
                    for thread in asking:
                        thread.start()
            case "relatch-killed" | "relatch-restarted":
                self.sample()
                since = self.now()
                for player in self.http():
                    player.hurt_since = player.hurt_since or since
                self.hurts += [hurt := Hurt(None, since, float("inf"))]
                if fault.kind == "relatch-killed":
                    self.put_down(self.keeper)
                else:
                    self.end_keeper()
                self.stop.wait(fault.lasts)
                self.start_keeper()
                # Clients come back to it in a moment, not at once.
                hurt.until = self.now() + 1.0
            case "told-to-reconnect":
                done = self.relatch_says("reconnect", "--all")
                self.note(f"relatch reconnect --all: {done.returncode} {done.stdout.strip()[:200]} {done.stderr.strip()[:200]}")

    def http(self):
        return [player for player in self.players if player.side == "http"]

    def put_down(self, process):
        """SIGKILL, with all that it started."""
        self.note(f"killed, pid {process.pid}")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)
        self.spawned.remove(process)

    def refuse(self, why):
        """What is away refuses connections; the proxy before it does the same."""
        self.refusals.add(why)
        self.proxy.refuse()

    def admit(self, why):
        self.refusals.discard(why)
        if not self.refusals:
            self.proxy.open()

    # --- what relatch says ------------------------------------------------------------------------------------------

    def relatch_says(self, *words):
        try:
            return subprocess.run(
                [self.relatch, *words], capture_output=True, text=True, timeout=20, check=False, env=self.environment(), cwd=self.folder
            )
        except subprocess.TimeoutExpired:
            raise Missed(f"`relatch {' '.join(words)}` did not end within 20 s") from None

    def status(self):
        done = self.relatch_says("status", "--json")
        if done.returncode == 3:
            return done, {"keepers": [], "unanswered": []}
        try:
            return done, json.loads(done.stdout)
        except ValueError:
            raise Missed(f"`relatch status --json` said no JSON (exit {done.returncode}): {done.stdout[:200]} {done.stderr[:300]}") from None

    def sample(self):
        """Totals are a keeper's own and end with it, so they are looked at often and before it is killed."""
        try:
            _, said = self.status()
        except Missed as missed:
            self.findings.append(Finding(None, "status", str(missed)))
            return
        now = datetime.now(UTC)
        for keeper in said["keepers"]:
            for server in keeper["servers"]:
                seen = server["last_success"]
                old = (now - datetime.fromisoformat(seen["at"])).total_seconds() if seen else float("inf")
                # The bound is 60 s; some more for a busy machine.
                if server["health"] == "healthy" and old > 70:
                    self.findings.append(Finding(None, "status", f"{server['name']} is called healthy and its last answer is {old} s old"))
                self.totals[keeper["pid"], keeper["since"]] = {name: server["totals"][name] for name in TOTALS}

    def watch(self):
        while not self.quiet.wait(2):
            self.sample()

    # --- the course -------------------------------------------------------------------------------------------------

    def play(self, faults, seconds):
        """Chaos for so long, then a good world, in which everything has to be well."""
        self.begin()
        self.chaos_began = self.now()
        self.note(f"chaos begins: {self.cast}")
        callers = [
            self.thread(self.call_all_the_time, player) for player in self.players for _ in range(CALLERS)
        ]
        hands = [
            self.thread(self.hand, [f for f in faults if f.hand == name])
            for name in sorted({fault.hand for fault in faults})
        ]
        watcher = self.thread(self.watch)
        for thread in (*callers, *hands, watcher):
            thread.start()
        time.sleep(max(0.0, self.chaos_began + seconds - self.now()))
        self.note("chaos ends")
        self.stop.set()
        for thread in hands:
            thread.join(90)
        self.proxy.calm()
        callers += self.bursts
        for thread in callers:
            thread.join(self.limit + MARGIN + 40)
        if any(thread.is_alive() for thread in (*hands, *callers)):
            raise Missed("the harness's own threads did not end")
        self.quiet.set()
        watcher.join(30)
        self.note("the world is good")
        self.settle()

    def thread(self, work, *with_these):
        """A thread that does not end in silence: what the harness itself does wrong is a finding."""

        def guarded():
            try:
                work(*with_these)
            except Exception:
                self.findings.append(Finding(None, "harness", f"{work.__name__}: {traceback.format_exc(limit=-3)}"))

        return threading.Thread(target=guarded, daemon=True)

    def check(self, words, passed, otherwise=""):
        self.checked += 1
        if not passed:
            self.note(f"CHECK not passed: {words}")
            self.findings.append(Finding(None, "in a good world", f"not so: {words}. {otherwise}"))

    def becomes(self, words, look):
        """`look()` gives (true, …) in time; what it gave last is the explanation."""
        end = time.monotonic() + self.recovery
        while True:
            truth, last = look()
            if truth or time.monotonic() > end:
                return self.check(words, truth, f"after {self.recovery} s: {last}")
            time.sleep(0.1)

    def settle(self):
        for player in self.players:
            self.check(f"{player.name} is there", player.link is not None)
        self.everybody_calls("after the chaos")
        # Once more, and counted: a restart in a good world. From here on every session that the server issued is known.
        self.proxy.forget_sessions()
        self.restarted = datetime.now(UTC)
        self.put_down(self.server)
        self.variant = 3 - self.variant
        self.start_server(variant=self.variant, json=self.cast.json)
        self.everybody_calls("after a restart in a good world")
        stdio = sum(player.side == "stdio" for player in self.players)
        self.becomes("status says healthy, nothing waits, one keeper a client of stdio and one that serves", lambda: self.all_healthy(1 + stdio))
        self.becomes("the server has one session a latch and no stray one", self.sessions_match)
        self.sample()
        for player in self.players:
            if player.link:
                try:
                    player.link.answer(player.link.send("close"), 10)
                except Missed as missed:
                    self.check(f"{player.name} can be closed", False, str(missed))
        # The client's process comes last: Python's SDK kills what it started when it is hurried.
        self.becomes("every `relatch stdio` ends with its client's connection", self.nothing_but_serve)
        for link in self.clients:
            link.close()
        self.becomes("sessions of closed clients are ended at the server", self.sessions_match)
        self.end_keeper()
        done = self.relatch_says("status", "--json")
        self.check("status finds no keeper afterwards (exit 3)", done.returncode == 3, f"exit {done.returncode}: {done.stdout[:300]}")

    def end_keeper(self):
        """Told to stop, as by a service manager: it finishes or gives back what runs, and ends."""
        self.note(f"relatch serve is told to end, pid {self.keeper.pid}")
        self.keeper.send_signal(signal.SIGTERM)
        try:
            code = self.keeper.wait(30)
        except subprocess.TimeoutExpired:
            self.put_down(self.keeper)
            return self.check("relatch serve ends on SIGTERM within 30 s", False)
        self.spawned.remove(self.keeper)
        self.check("relatch serve ends on SIGTERM with 0", code == 0, f"exit code {code}")

    def everybody_calls(self, when):
        def next_call(player):
            for what, once in (("count", True), ("read", False), ("list_tools", False)):
                key = "" if what == "list_tools" else f"{player.name}-{what}-{self.rng.getrandbits(40):010x}"
                details = {} if what == "list_tools" else {"tool": what, "args": {"key": key}, "timeout_ms": 30_000}
                call = self.ask(player, player.link, key, what, what if what == "list_tools" else "call", details, once)
                # A client that its own broken connection has left useless is replaced by then, and its next call counts.
                if call.line is None or not call.line["ok"]:
                    call = self.ask(player, player.link, *self.again(what, key), once) if self.replaced_since(player, call) else call
                good = call.line is not None and call.line["ok"]
                self.check(f"{what} of {player.name} works {when}", good, f"{json.dumps(call.line)[:400]}")
                if good and what == "list_tools":
                    names = {tool["name"] for tool in call.line["result"]["tools"]}
                    right = {"count", "read", "slow"} <= names and ("extra" in names) == (self.variant == 2)
                    self.check(f"{player.name} sees the tools {when}, variant {self.variant}", right, str(sorted(names)))

        threads = [self.thread(next_call, player) for player in self.players if player.link]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(240)

    def replaced_since(self, player, call):
        return any(hurt.client == player.name and hurt.until >= call.began for hurt in list(self.hurts))

    def again(self, what, key):
        key = f"{key}-again" if key else ""
        if what == "list_tools":
            return key, what, "list_tools", {}
        return key, what, "call", {"tool": what, "args": {"key": key}, "timeout_ms": 30_000}

    def all_healthy(self, keepers):
        done, said = self.status()
        servers = [server for keeper in said["keepers"] for server in keeper["servers"]]
        bad = [f"{s['name']} {s['health']}: {s['reason']} {[c['code'] for c in s['conditions']]}" for s in servers if s["health"] != "healthy"]
        bad += [f"{s['name']} has {s['waiting']} waiting" for s in servers if s["waiting"]]
        bad += [f"{s['name']} session {x['id']} has {x['open']} open, {x['state']}" for s in servers for x in s["sessions"] if x["open"]]
        bad += [f"keeper {one['pid']} gives no answer: {one['cause']}" for one in said["unanswered"]]
        if len(said["keepers"]) != keepers:
            bad.append(f"{len(said['keepers'])} keepers instead of {keepers}")
        return done.returncode == 0 and not bad, bad or f"exit {done.returncode}"

    def sessions_match(self):
        """Sessions that the server still has, against latches bound since it was started. A latch whose client was killed
        may still name a session of an earlier server: nothing was asked of it since."""
        _, said = self.status()
        sessions = [x for k in said["keepers"] for s in k["servers"] for x in s["sessions"]]
        bound = sum(x["bound"] is not None and datetime.fromisoformat(x["bound"]) > self.restarted for x in sessions)
        left = self.proxy.issued - self.proxy.ended
        return len(left) == bound, f"{len(self.proxy.issued)} issued, {len(self.proxy.ended)} ended, {bound} bound: {sessions}"

    def nothing_but_serve(self):
        """Everything that carries this lane's mark, but for the server, nginx, `relatch serve` and the clients themselves."""
        groups = {process.pid for process in (self.server, self.nginx) if process}
        known = {self.keeper.pid if self.keeper.poll() is None else 0, *(link.process.pid for link in self.clients)}
        strangers = {}
        for pid in self.marked():
            try:
                group = os.getpgid(pid)
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            # A process that has ended and was not waited for has no command line.
            if group not in groups and pid not in known and command:
                strangers[pid] = command[:100]
        return not strangers, strangers

    # --- the end ----------------------------------------------------------------------------------------------------

    def abandon(self):
        """Interrupted: nothing more is started, and everything is killed at once."""
        self.stop.set()
        self.quiet.set()
        for process in list(self.spawned):
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def verdict(self):
        ledger = Counter(e["key"] for e in self.entries() if "key" in e and not e.get("cancelled"))
        findings, outcomes = judge(self.calls, ledger, self.hurts)
        return self.findings + findings, outcomes

    def timeline(self, finding):
        """What was done and seen around a finding, without the other clients' calls."""
        call = finding.call
        since = call.began - 4 if call else self.now() - 40
        until = (call.ended if call and call.ended is not None else (call.began + call.bound if call else self.now())) + 1
        mine = re.compile(rf"^{re.escape(call.client)}\.") if call else None
        anybody = re.compile(r"^[hs]\d-\w+\.\d+ (sends|answer|event)")
        lines = []
        for line in list(self.log):
            at, words = float(line[:7]), line[9:]
            if since <= at <= until and (not anybody.match(words) or (mine and mine.match(words))):
                # Of a busy client's own lines only those about this call, and its events.
                if not (mine and mine.match(words)) or not call.key or call.key in words or " event " in words or '"ok": false' in words:
                    lines.append(line[:400])
        if len(lines) > 70:
            lines = [*lines[:35], f"… {len(lines) - 70} lines …", *lines[-35:]]
        return lines

    def last_words(self):
        lines = []
        for name in sorted(self.out.glob("*.stderr")):
            if said := tail(name, 6):
                lines += [f"--- last words of {name.stem}", *(line[:300] for line in said)]
        return lines
