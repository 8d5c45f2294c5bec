"""What is shown: each case a small function, gathered into stories that share one world.

A story opens with a server, relatch and a client; its cases are judged one by one. Cases raise `Missed` when it went wrong.
"""

import json
import time
from dataclasses import dataclass

from .world import Missed

# A case may take this long in all, its waits included.
CASE_SECONDS = 40


def must(truth, words):
    if not truth:
        raise Missed(words)


def once(world, key):
    """The server's own ledger: a call that may not repeat ran exactly once."""
    if world.server_peer.contract:
        ran = world.executions(key)
        must(len(ran) == 1, f"`{key}` ran {len(ran)} times: {ran}")


def work(world, key, link=None, seconds=20):
    """A call with an effect, answered and run exactly once. server-everything has none, so there it is an echo."""
    finish(world, begin(world, key, link), key, link, seconds)


def begin(world, key, link=None, tool="count"):
    link = link or world.link
    if world.server_peer.contract:
        return link.send("call", tool=tool, args={"key": key})
    return link.send("call", tool="echo", args={"message": key})


def finish(world, n, key, link=None, seconds=20):
    result = (link or world.link).good(n, seconds)
    said = json.dumps(result)
    must(key in said and not result.get("isError"), f"the answer is not about `{key}`: {said[:200]}")
    once(world, key)


# --- nothing goes wrong -------------------------------------------------------------------------------------------------


def everything_passes(world):
    link, contract = world.link, world.server_peer.contract
    odd = 'ü "quoted" \u2028 1.10'
    said = link.call("echo", text=odd) if contract else link.call("echo", message=odd)
    must(odd in said, f"echo changed the text: {said!r}")
    # Longer than a pipe or a window; FastMCP says it twice, and Python's client refuses events over 1 MiB.
    long = "0123456789" * 40_000
    must(long in (link.call("echo", text=long) if contract else link.call("echo", message=long)), "a long text came back changed")
    work(world, "passes")
    names = {tool["name"] for tool in link.ask("list_tools")["tools"]}
    must("echo" in names and "extra" not in names, f"tools: {sorted(names)}")
    prompt = link.ask("list_prompts")["prompts"][0]
    args = {argument["name"]: "me" for argument in prompt.get("arguments") or []}
    must(link.ask("get_prompt", name=prompt["name"], args=args)["messages"], "the prompt is empty")
    uri = link.ask("list_resources")["resources"][0]["uri"]
    must(link.ask("read_resource", uri=uri)["contents"], "the resource is empty")
    link.ask("ping")
    link.ask("set_level", level="debug")
    if contract:
        since = link.mark()
        link.call("log", text="told on the way")
        link.event("log", since=since)
        must("told on the way" in json.dumps(link.seen("log", since)), "the log message lost its text")


def sampling(world):
    since = world.link.mark()
    if world.server_peer.contract:
        said = world.link.call("sample", prompt="of what")
    else:
        said = world.link.call("trigger-sampling-request", prompt="of what")
    must("sampled: " in said and "of what" in said, f"the completion did not reach the tool: {said[:200]}")
    must(len(world.link.seen("sampling", since)) == 1, "the client was not asked exactly once")


def elicitation(world):
    since = world.link.mark()
    if world.server_peer.contract:
        said = world.link.call("elicit", message="who")
    else:
        said = world.link.call("trigger-elicitation-request")
    must("accept" in said and "relatch" in said, f"the answer did not reach the tool: {said[:200]}")
    must(len(world.link.seen("elicitation", since)) == 1, "the client was not asked exactly once")


def progress(world):
    if world.server_peer.contract:
        args = {"key": f"progress-{time.monotonic_ns()}", "ms": 800, "steps": 3}
        n = world.link.send("call", tool="slow", args=args, progress=True)
    else:
        n = world.link.send("call", tool="trigger-long-running-operation", args={"duration": 1, "steps": 4}, progress=True)
    world.link.good(n)
    # The last one may come beside the answer.
    world.until(lambda: len(world.link.seen("progress", n=n)) >= 3, 3, "fewer than 3 progress notifications")
    values = [event["progress"] for event in world.link.seen("progress", n=n)]
    must(values == sorted(set(values)), f"progress does not grow: {values}")


def cancellation(world):
    key = f"cancelled-{time.monotonic_ns()}"
    n = world.link.send("call", tool="sleep_cancellable", args={"key": key, "ms": 30_000})
    world.until(lambda: world.executions(key), 10, "the call did not reach the server")
    world.link.ask("cancel", of=n)
    must(not world.link.answer(n, 5)["ok"], "the cancelled call was answered")
    seen = lambda: any(e.get("cancelled") for e in world.entries() if e.get("key") == key)
    world.until(seen, 10, "the server never learned of the cancellation")
    work(world, f"after-{key}")


# --- restarts -----------------------------------------------------------------------------------------------------------


def instant_restart(world):
    """Opens the story `restart`: what was set up before it is looked at by the cases after it."""
    link = world.link
    if world.server_peer.subscribes:
        link.ask("subscribe", uri=OTHER if world.server_peer.contract else DOCUMENT)
    link.ask("set_level", level="warning")
    work(world, "before")
    world.new_pid = world.restart_server()
    work(world, "after")
    if world.server_peer.contract:
        must(world.executions("after")[0]["pid"] == world.new_pid, "the call ran in another process")


OTHER = "relatch://other"
DOCUMENT = "demo://resource/static/document/architecture.md"


def settings_return(world):
    def again(event, **wanted):
        return lambda: any(
            e.get("event") == event and e["pid"] == world.new_pid and all(e.get(k) == v for k, v in wanted.items())
            for e in world.entries()
        )

    world.until(again("set_level", level="warning"), 10, "the log level was not set on the new session")
    world.until(again("subscribe", uri=OTHER), 10, "the subscription was not made on the new session")


def standing_stream(world):
    link = world.link
    since = link.mark()
    if not world.server_peer.contract:
        link.call("toggle-subscriber-updates")
        link.event("resource_updated", 12, since, uri=DOCUMENT)
        return
    uri = link.ask("list_resources")["resources"][0]["uri"]
    end = time.monotonic() + 10
    # The stream is opened again beside the waiting calls, so the first notification may come before it.
    while not link.seen("resource_updated", since, uri=uri):
        must(time.monotonic() < end, "a notification on the standing stream does not reach the client")
        link.call("emit")
        time.sleep(0.3)


def still_waits(world, n):
    if line := world.link.answered(n):
        said = "answered" if line["ok"] else f"given back: {json.dumps(line['error'])[:400]}"
        raise Missed(f"while the server was away the call was {said}")


def downtime_5s(world):
    work(world, "early")
    world.kill_server()
    n = begin(world, "meanwhile")
    world.downtime(5)
    still_waits(world, n)
    world.start_server()
    finish(world, n, "meanwhile", seconds=15)
    work(world, "later")


def downtime_cancelled(world):
    """A waiting call that its client gives up is never sent."""
    work(world, "alive")
    world.kill_server()
    n = begin(world, "given-up")
    world.downtime(1)
    still_waits(world, n)
    world.link.ask("cancel", of=n)
    must(not world.link.answer(n, 5)["ok"], "the cancelled call was answered")
    world.start_server()
    work(world, "instead")
    must(not world.executions("given-up"), "the cancelled call ran")


def downtime_read(world):
    world.link.ask("list_tools")
    world.kill_server()
    n = begin(world, "asked", tool="read")
    world.downtime(2)
    still_waits(world, n)
    world.start_server()
    finish(world, n, "asked", seconds=15)


def told_the_truth(world, n, key):
    """The call was in flight when the server died: an error that says it may have run, soon, and nothing ran twice."""
    died = time.monotonic()
    line = world.link.answer(n, 12)
    took = time.monotonic() - died
    must(not line["ok"], f"the call was answered: {json.dumps(line)[:200]}")
    said = json.dumps(line["error"])
    must("delivery-unknown" in said or "may have run" in said, f"the error does not say that the call may have run: {said[:400]}")
    must(took < 10, f"the truth took {took:.1f} s")
    once(world, key)


def kill_during_call(world, json_answers):
    key = "interrupted"
    n = world.link.send("call", tool="slow", args={"key": key, "ms": 20_000, "steps": 40}, progress=True)
    world.until(lambda: world.executions(key), 10, "the call did not reach the server")
    if not json_answers:
        world.link.event("progress", 10, n=n)
    world.kill_server()
    told_the_truth(world, n, key)
    world.start_server(json=json_answers)
    work(world, "next")
    once(world, key)


def kill_during_read(world):
    """A declared read whose server died is asked again, and answered by the new one."""
    # Whether a tool is a read stands in the list, which every real client asks for first.
    world.link.ask("list_tools")
    args = {"duration": 3, "steps": 6}
    n = world.link.send("call", tool="trigger-long-running-operation", args=args, progress=True)
    world.link.event("progress", 10, n=n)
    world.restart_server()
    must("completed" in json.dumps(world.link.good(n, 20)), "the read was not completed")


def tools_changed(world):
    link = world.link
    names = {tool["name"] for tool in link.ask("list_tools")["tools"]}
    must("extra" not in names, "`extra` was there before")
    since = link.mark()
    world.restart_server(variant=2)
    # The client does nothing: relatch has to notice by itself.
    link.event("list_changed", 20, since, kind="tools")
    names = {tool["name"] for tool in link.ask("list_tools")["tools"]}
    must("extra" in names, f"the new tool is not listed: {sorted(names)}")
    must("extra" in link.call("extra"), "the new tool does not answer")


def two_clients(world):
    other = world.connect("other")
    work(world, "one-before", world.link)
    work(world, "two-before", other)
    world.restart_server()
    first, second = begin(world, "one-after", world.link), begin(world, "two-after", other)
    finish(world, first, "one-after", world.link)
    finish(world, second, "two-after", other)
    work(world, "one-again", world.link)


def own_restart(world):
    work(world, "before")
    world.kill_keeper()
    world.start_keeper()
    work(world, "after")
    # And the server with it, so that the records are of use and not only the port.
    world.restart_server()
    work(world, "both")


def behind_nginx(world):
    work(world, "before")
    world.kill_server()
    # A call right now would get the 502 itself and nobody could know; when the last evidence is old, relatch looks first.
    world.downtime(6)
    n = begin(world, "meanwhile")
    world.downtime(2)
    still_waits(world, n)
    world.start_server()
    finish(world, n, "meanwhile", seconds=15)
    world.reload_nginx()
    work(world, "reloaded")


# --- inside the client ---------------------------------------------------------------------------------------------------

STATUS = "relatch_status"


def status(world, healthy):
    """Asks inside the client how the connection is: at once, and the same as text and as data."""
    asked = time.monotonic()
    result = world.link.ask("call", tool=STATUS, args={}, seconds=5)
    took = time.monotonic() - asked
    must(took < 3, f"the status took {took:.1f} s")
    text, data = result["content"][0]["text"], result.get("structuredContent") or {}
    must(not result.get("isError"), f"the status is an error: {text[:200]}")
    must(data.get("health") and f" {data['health']} for " in text.splitlines()[0], f"text and data differ: {text[:200]} {data}")
    must((data["health"] == "healthy") == healthy, f"it is said to be {data['health']}")
    must(len(data["sessions"]) == 1, "another client's session is shown")


def told_alive(world):
    link = world.link
    names = [tool["name"] for tool in link.ask("list_tools")["tools"]]
    must(names[-1] == STATUS and "echo" in names, f"tools: {names}")
    tool = link.ask("list_tools")["tools"][-1]
    must((tool.get("annotations") or {}).get("readOnlyHint"), f"it is not declared a read: {tool}")
    names = [prompt["name"] for prompt in link.ask("list_prompts")["prompts"]]
    must(names[-1] == STATUS and len(names) > 1, f"prompts: {names}")
    work(world, "before")
    status(world, healthy=True)
    said = json.dumps(link.ask("get_prompt", name=STATUS, args={})["messages"])
    must("healthy for" in said, f"the prompt tells no story: {said[:300]}")
    link.ask("set_level", level="info")


def told_down(world):
    link, since = world.link, world.link.mark()
    world.kill_server()
    n = begin(world, "meanwhile")
    listing = link.send("list_tools")
    link.event("log", 15, since, logger="relatch", level="warning")
    status(world, healthy=False)
    said = json.dumps(link.ask("get_prompt", name=STATUS, args={}, seconds=5)["messages"])
    must("healthy for" not in said and "hint: " in said, f"the prompt does not say what to do: {said[:300]}")
    still_waits(world, n)
    still_waits(world, listing)
    world.start_server()
    finish(world, n, "meanwhile", seconds=15)
    names = [tool["name"] for tool in link.good(listing, 15)["tools"]]
    must("echo" in names and names[-1] == STATUS, f"tools: {names}")
    link.event("log", 10, since, logger="relatch", level="notice")
    status(world, healthy=True)
    must(len(link.seen("log", since, logger="relatch")) == 2, "the outage was told more than once")
    # The lists are what they were. server-everything says otherwise after each handshake, which its stream is there to carry.
    says_so_itself = world.server_peer.old and not world.server_peer.contract
    must(says_so_itself or not link.seen("list_changed", since), "equal lists are told as changed")


# --- the stories --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    name: str
    play: object
    about: str


@dataclass(frozen=True)
class Story:
    name: str
    cases: tuple
    # Without a fault, so that it passes with no relatch between.
    calm: bool = False
    sides: tuple = ("stdio", "http")
    json: bool = False
    nginx: bool = False
    # More options for relatch.
    treatment: tuple = ()
    # The first case prepares what the others look at, and always runs.
    opening: bool = False


AFTER = "the same after a restart"
STORIES = (
    Story(
        "calm",
        (
            Case("everything-passes", everything_passes, "tools, prompts, resources, ping, log level and messages pass"),
            Case("sampling", sampling, "the server asks the client for a completion"),
            Case("elicitation", elicitation, "the server asks the client's user"),
            Case("progress", progress, "progress comes before the answer and grows"),
            Case("cancellation", cancellation, "cancelling reaches the server"),
        ),
        calm=True,
    ),
    Story(
        "restart",
        (
            Case("instant-restart", instant_restart, "killed and started again: the next call works, once"),
            Case("settings-return", settings_return, "log level and subscriptions are set again"),
            Case("standing-stream", standing_stream, "notifications arrive after a restart"),
            Case("sampling-after-restart", sampling, AFTER),
            Case("elicitation-after-restart", elicitation, AFTER),
            Case("progress-after-restart", progress, AFTER),
            Case("cancellation-after-restart", cancellation, AFTER),
        ),
        opening=True,
    ),
    Story(
        "downtime",
        (
            Case("downtime-5s", downtime_5s, "a call made during 5 s of downtime is answered after it, once"),
            Case("downtime-read", downtime_read, "the same with a read"),
            Case("downtime-cancelled", downtime_cancelled, "a waiting call that its client cancels never runs"),
        ),
    ),
    Story(
        "killed-json",
        (Case("kill-during-call-json", lambda w: kill_during_call(w, True), "killed during a call, JSON answers: the truth, soon; once"),),
        json=True,
    ),
    Story(
        "killed-sse",
        (
            Case("kill-during-call-sse", lambda w: kill_during_call(w, False), "killed during a call, SSE answers: the truth, soon; once"),
            Case("kill-during-read", kill_during_read, "killed during a read: asked again and answered"),
        ),
    ),
    Story("changed", (Case("tools-changed", tools_changed, "other tools after the restart: the client is told, unasked"),)),
    Story("two", (Case("two-clients", two_clients, "two clients at once both go on"),), sides=("http",)),
    Story("own", (Case("own-restart", own_restart, "relatch itself killed and started again"),), sides=("http",)),
    Story(
        "told",
        (
            Case("told-alive", told_alive, "`--tell`: tool and prompt stand behind the server's own and say that it is healthy"),
            Case("told-down", told_down, "`--tell`: killed, they answer at once, and the client is told of lost and back"),
        ),
        treatment=("--tell",),
        opening=True,
    ),
    Story("nginx", (Case("behind-nginx", behind_nginx, "a call during 502s of a real nginx is answered, once"),), nginx=True),
)
