#!/usr/bin/env python3
"""The page of `relatch serve` in a real Chromium, in front of a real server that is really killed.

`RELATCH=target/debug/relatch python3 tests/page/run.py` plays every case and prints one line for each; `--shots DIR` keeps
pictures. The servers and clients are those of tests/interop, which tests/interop/setup.sh installs, and Debian's chromium.
Every wait has a deadline; only "down within 2 s" (5 s where no stream stands open) and "healthy within 2 s" are promises
about time, measured in the page.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "interop")]

from browser import Browser, Late
from harness.peers import CLIENTS, SERVERS, relatch_path
from harness.world import Link, Missed, World

PROMISED_MS = 2000
# Where no stream stands open, a closed idle connection has to be found first, and then asked about.
IDLE_MS = 5000
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=document.title='owned'>&lt;b&gt;"
# Runs in every document before its own script: remembers what the policy forbade, what failed, and when health changed.
WATCH = """
window.forbidden = []; window.faults = []; window.turned = []; window.heard = [];
addEventListener('securitypolicyviolation', (e) => forbidden.push(e.violatedDirective + ' ' + e.blockedURI));
addEventListener('error', (e) => faults.push(e.message));
addEventListener('unhandledrejection', (e) => faults.push(String(e.reason)));
addEventListener('DOMContentLoaded', () => new MutationObserver((all) => {
  for (const one of all) if (one.target.localName === 'article')
    turned.push({name: one.target.querySelector('h2').textContent, health: one.target.dataset.health,
      seen: one.target.querySelector('.health .word').textContent, at: Date.now()});
}).observe(document.body, {subtree: true, attributes: true, attributeFilter: ['data-health']}));
addEventListener('DOMContentLoaded', () => {
  const said = document.querySelector('#said');
  if (said) new MutationObserver(() => heard.push(said.textContent)).observe(said, {subtree: true, childList: true, characterData: true});
});
"""
ARTICLE = "const up = [...document.querySelectorAll('article')].find((a) => a.querySelector('h2').textContent === arguments[0]);"


def expect(holds, what):
    if not holds:
        raise Late(what)


class Hostile(BaseHTTPRequestHandler):
    """An MCP server whose every name is an attack on whoever shows it."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", *headers):
        self.send_response(status)
        for name, value in (("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(405)

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "id" not in message:
            return self.answer(202)
        info = {"name": HOSTILE, "version": HOSTILE}
        if message["method"] == "initialize":
            result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}
        else:
            result = {}
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
        self.answer(200, body, ("Content-Type", "application/json"), ("Mcp-Session-Id", "hostile-1"))


class Story(World):
    """A real server `up`, a hostile one `odd`, relatch with its token in front of both, and a browser."""

    def __init__(self, relatch, out):
        super().__init__(SERVERS["py2"], CLIENTS["ts1"], "http", out, relatch=relatch)
        self.deadline = time.monotonic() + 300
        self.odd = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
        threading.Thread(target=self.odd.serve_forever, daemon=True).start()
        self.browser = None

    def serve(self):
        command = [self.relatch, "serve", f"up={self.upstream}", f"odd=http://127.0.0.1:{self.odd.server_port}/mcp"]
        command += ["--listen", f"127.0.0.1:{self.keeper_port}", "--state-dir", str(self.folder / "keeper")]
        with open(self.out / "relatch.stdout", "w") as said:
            self.keeper = self.spawn("relatch", command, stdout=said)
        printed = self.until(lambda: self.printed(), 20, "relatch serve did not say where it listens")
        self.keeper_port = int(printed.split("/up/mcp", 1)[0].rsplit(":", 1)[1])
        self.token = (self.folder / "keeper" / "token").read_text().strip()
        self.home = f"http://127.0.0.1:{self.keeper_port}/"

    def printed(self):
        text = (self.out / "relatch.stdout").read_text()
        return text if "claude mcp add" in text else None

    def relatch_says(self, *line, **more):
        return subprocess.run([self.relatch, *line], env=self.environment(more), capture_output=True, text=True, timeout=20)

    def address(self):
        done = self.relatch_says("page", "--print")
        expect(done.returncode == 0 and done.stdout.startswith(f"{self.home}open/"), f"relatch page: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def raw(self, path, body=None, **headers):
        """Status, body and session id of a request that no browser sends."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.home.rstrip("/") + path, body and json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode(), answer.headers.get("Mcp-Session-Id")
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode(), None

    def client_with_token(self):
        link = Link(self, "client")
        self.clients.append(link)
        link.ask("connect", url=f"{self.home}up/mcp", headers={"Relatch-Token": self.token}, seconds=20)
        return link

    def raw_client(self, name):
        """A client without a standing stream: its handshake, and a function that pings."""
        typed = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Relatch_Token": self.token}
        info = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": HOSTILE, "version": "1"}}
        status, body, sid = self.raw(f"/{name}/mcp", {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": info}, **typed)
        expect(status == 200 and sid, f"no session with {name}: {status} {body}")
        typed["Mcp_Session_Id"] = sid
        self.raw(f"/{name}/mcp", {"jsonrpc": "2.0", "method": "notifications/initialized"}, **typed)
        return lambda: self.raw(f"/{name}/mcp", {"jsonrpc": "2.0", "id": 2, "method": "ping"}, **typed)

    def open_browser(self):
        self.browser = Browser()
        self.browser.cdp("Page.addScriptToEvaluateOnNewDocument", source=WATCH)

    # --- what the page shows ----------------------------------------------------------------------------------------

    def health(self, name):
        return self.browser.run(f"{ARTICLE} return up?.querySelector('.health .word').textContent ?? null", name)

    def becomes(self, name, health, seconds=20):
        script = f"{ARTICLE} return up?.querySelector('.health .word').textContent === arguments[1]"
        self.browser.until(f"the page does not show {name} as {health}", script, name, health, seconds=seconds)

    def turned(self, name, health, since):
        """When the page first showed this health after `since`, by the clock that both share, in ms after `since`."""
        wanted = "return turned.find((t) => t.name === arguments[0] && t.health === arguments[1] && t.seen === t.health && t.at >= arguments[2])?.at ?? null"
        at = self.browser.until(f"the page does not show {name} as {health}", wanted, name, health, since, seconds=20)
        return at - since

    def journal(self, word, of="up"):
        script = """return [...document.querySelectorAll('#entries li')].some((li) =>
          li.querySelector('.what').textContent === arguments[0] && li.querySelector('.of').textContent === arguments[1])"""
        self.browser.until(f"the journal on the page has no `{word}` of {of}", script, word, of)

    def sessions(self, name):
        """The rows of its table of sessions, as dictionaries; opens it where it is closed."""
        self.browser.run(f"{ARTICLE} up.querySelector('.sessions').open = true", name)
        script = f"""{ARTICLE} return [...up.querySelectorAll('.sessions tbody tr')].map((tr) =>
          Object.fromEntries([...tr.cells].map((td) => [td.dataset.label, td.textContent])))"""
        return self.browser.until(f"{name} has no sessions on the page", f"const rows = (() => {{ {script} }})(); return rows.length ? rows : null", name)

    def clean(self):
        """Nothing failed, nothing was forbidden, nobody else was asked."""
        expect(not (faults := self.browser.run("return faults")), f"the page's script failed: {faults}")
        expect(not (forbidden := self.browser.run("return forbidden")), f"the policy forbade: {forbidden}")
        asked = self.browser.run("return performance.getEntriesByType('resource').map((e) => e.name)")
        expect(asked and all(name.startswith(self.home) for name in asked), f"somebody else was asked: {asked}")

    def close(self):
        if self.browser:
            self.browser.close()
        self.odd.shutdown()
        super().close()


# --- the cases, in the order in which they are played ---------------------------------------------------------------


def signed_out_says_how_to_sign_in(s):
    s.browser.go(s.home)
    text = s.browser.text("main")
    expect("Not signed in" in text and "relatch page" in text, f"the start page says: {text}")
    expect(s.raw("/api/status")[0] == 403, "the status is given to anybody")
    # That the page itself is refused is what the browser complains about, and nothing else.
    complaints = s.browser.complaints()
    expect(all("403" in said for said in complaints), f"the console: {complaints}")


def a_one_time_address_opens_the_page_once(s):
    address = s.address()
    s.browser.go(address)
    s.browser.until("the page does not show its upstreams", "return location.pathname === '/' && document.querySelectorAll('article').length === 2")
    expect(s.browser.run("return document.cookie") == "", "the page's script can read the cookie")
    status, body, _ = s.raw(address[len(s.home) - 1 :])
    expect(status == 403 and "spent" in body, f"the address worked twice: {status}")


def the_browser_is_opened_without_a_shell(s):
    tools = s.folder / "tools"
    tools.mkdir()
    (tools / "xdg-open").write_text(f'#!/bin/sh\nprintf "%s\\n" "$#" "$1" > {tools}/given\n')
    (tools / "xdg-open").chmod(0o755)
    done = s.relatch_says("page", "up", PATH=f"{tools}:{os.environ['PATH']}", DISPLAY=":99")
    expect(done.returncode == 0 and done.stdout == "", f"relatch page: {done.stdout}{done.stderr}")
    count, given = (tools / "given").read_text().split()
    expect(count == "1" and given.startswith(f"{s.home}open/"), f"the browser got {given}")
    done = s.relatch_says("page", PATH=str(tools / "empty"), DISPLAY=":99")
    expect(done.returncode == 0 and done.stdout.startswith(f"{s.home}open/"), f"without a browser: {done.stdout}{done.stderr}")
    done = s.relatch_says("page", DISPLAY="", WAYLAND_DISPLAY="")
    expect(done.returncode == 0 and done.stdout.startswith(f"{s.home}open/"), f"without a screen: {done.stdout}{done.stderr}")


def what_is_unknown_is_called_so(s):
    for name in ("up", "odd"):
        expect(s.health(name) == "unknown", f"{name} is {s.health(name)} before anybody asked for it")
    expect("2 unknown" in s.browser.text("#summary"), s.browser.text("#summary"))


def a_client_and_its_calls_are_shown(s):
    s.client = s.client_with_token()
    for n in range(5):
        s.client.call("count", key=f"before-{n}")
    s.becomes("up", "healthy")
    row = s.sessions("up")[0]
    expect(row["Client"].startswith("interop-ts1"), f"the session is {row}")
    counted = "const d = [...up.querySelectorAll('.counts div')].find((d) => d.textContent.startsWith('calls')); return Number(d.querySelector('dd').textContent) >= 5"
    s.browser.until("the calls are not counted", ARTICLE + counted, "up")
    bar = "return up.querySelector('svg .calls') && up.querySelector('svg .s-healthy') && up.querySelector('svg circle') ? true : null"
    s.browser.until("the timeline shows neither calls nor health nor latency", ARTICLE + bar, "up")
    s.journal("attached")


def killed_is_down_within_two_seconds(s):
    killed = time.time() * 1000
    s.kill_server()
    took = s.turned("up", "down", killed)
    condition = s.browser.until("the condition is not explained", ARTICLE + "return up.querySelector('.conditions li')?.textContent", "up")
    expect("can't be reached" in condition and "What upstream-down means" in condition, f"the condition says: {condition}")
    s.journal("away")
    expect("down" in s.browser.run("return document.title"), "the title does not say it")
    expect(took <= PROMISED_MS, f"shown as down {took:.0f} ms after the kill")
    return f"{took:.0f} ms"


def back_is_healthy_within_two_seconds(s):
    s.start_server()
    back = time.time() * 1000
    took = s.turned("up", "healthy", back)
    s.journal("back")
    s.journal("relatched")
    expect(not s.browser.run(f"{ARTICLE} return up.querySelectorAll('.conditions li').length", "up"), "the condition stays")
    s.client.call("count", key="after")
    shown = ARTICLE + "return up.querySelector('svg .s-down') && up.querySelector('svg .relatched') ? true : null"
    s.browser.until("the timeline shows neither the downtime nor the recovery", shown, "up")
    expect(took <= PROMISED_MS, f"shown as healthy {took:.0f} ms after the server was back")
    return f"{took:.0f} ms"


def reconnect_works_by_keyboard_alone(s):
    before = int(s.sessions("up")[0]["Generation"])
    s.browser.run("document.activeElement.blur(); scrollTo(0, 0)")
    s.browser.tab_to("[aria-label='Reconnect up']")
    s.browser.press("Enter")
    grown = f"{ARTICLE} return Number(up.querySelector('.sessions tbody td[data-label=Generation]').textContent) > arguments[1]"
    s.browser.until("the generation does not grow", grown, "up", before)
    s.journal("reconnect")
    # What comes next is said in its place: a reader hears both.
    s.browser.until("nobody hears of it", "return heard.some((words) => words.includes('1 session'))")
    expect(s.browser.run("return document.activeElement.className") == "reconnect", "the focus is lost")
    s.client.call("count", key="reconnected")


def the_timeline_is_read_by_keyboard(s):
    number = s.browser.run(ARTICLE + "return up.id", "up")
    s.browser.tab_to(f"article#{number} .timeline")
    all_in_all = s.browser.run("return document.activeElement.getAttribute('aria-valuetext')")
    expect(all_in_all.startswith("Last 1h: ") and "down 1 time" in all_in_all, f"it says: {all_in_all}")
    s.browser.press("Left")
    moment = s.browser.run("return document.activeElement.getAttribute('aria-valuetext')")
    expect(moment != all_in_all and moment[2] == ":", f"it says: {moment}")
    expect(s.browser.run("return !!document.activeElement.querySelector('.cursor')"), "no cursor is drawn")
    s.browser.press("Escape")
    # The same in a table, opened by the keyboard.
    s.browser.tab_to(f"article#{number} .turns summary")
    s.browser.press("Enter")
    rows = "return [...document.querySelectorAll('article .turns tbody tr')].some((tr) => tr.textContent.includes('✗ down')) || null"
    s.browser.until("the table of turns has no downtime", rows)
    # And another span of time.
    s.browser.tab_to("#ranges input")
    s.browser.press("Right")
    s.browser.until("the span of time stays", "return document.querySelector('.readout').textContent.startsWith('Last 6h')")
    s.browser.press("Left")


def a_server_without_streams_is_found_dead_while_idle(s):
    """A client that has no stream open and asks nothing: only an idle connection can tell."""
    s.client.ask("close")
    s.browser.until("the session stays", f"{ARTICLE} return up.querySelector('.sessions summary').textContent.length > 0", "up")
    ping = s.raw_client("up")
    expect(ping()[0] == 200, "no ping")
    s.becomes("up", "healthy")
    killed = time.time() * 1000
    s.kill_server()
    took = s.turned("up", "down", killed)
    s.start_server()
    back = s.turned("up", "healthy", time.time() * 1000)
    expect(took <= IDLE_MS and back <= PROMISED_MS, f"down after {took:.0f} ms, healthy after {back:.0f} ms")
    return f"down after {took:.0f} ms, healthy after {back:.0f} ms"


def hostile_names_stay_text(s):
    ping = s.raw_client("odd")
    expect(ping()[0] == 200, "no ping")
    s.becomes("odd", "healthy")
    facts = s.browser.until("its name is not shown", f"{ARTICLE} const t = up.querySelector('.facts').textContent; return t.includes('<script>') ? t : null", "odd")
    expect(HOSTILE in facts, f"the name is shown as {facts}")
    row = s.sessions("odd")[0]
    expect(HOSTILE in row["Client"], f"the client is shown as {row}")
    s.journal("attached", of="odd")
    foreign = s.browser.run("return document.querySelectorAll('body script, img, b:not([class]) script').length")
    expect(foreign == 0 and "owned" not in s.browser.run("return document.title"), "a name became markup")


def light_and_dark_are_legible(s):
    seen = {}
    for scheme in ("light", "dark"):
        s.browser.light(scheme)
        seen[scheme] = s.browser.run("return getComputedStyle(document.documentElement).backgroundColor")
        worst = s.browser.run(CONTRAST)
        expect(worst[0] >= 4.5, f"in {scheme}, {worst[1]} has a contrast of {worst[0]:.2f}")
    s.browser.light("light")
    expect(seen["light"] != seen["dark"], f"both are {seen}")


# The least contrast of any text with the ground that it stands on.
CONTRAST = """
const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = (colour) => numbers(colour).slice(0, 3).map((c) => c / 255).map((c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
  .reduce((sum, c, n) => sum + c * [.2126, .7152, .0722][n], 0);
let worst = [99, ''];
for (const one of document.querySelectorAll('body *')) {
  const own = [...one.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !one.checkVisibility() || one.matches('button[aria-disabled]')) continue;
  let under = one;
  while (under && (numbers(getComputedStyle(under).backgroundColor)[3] ?? 1) === 0) under = under.parentElement;
  const style = getComputedStyle(one), ground = getComputedStyle(under ?? document.documentElement).backgroundColor;
  const [a, b] = [light(one.namespaceURI.includes('svg') ? style.fill : style.color), light(ground)].sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  if (ratio < worst[0]) worst = [ratio, `${one.localName}.${one.getAttribute('class')} "${one.textContent.slice(0, 30)}"`];
}
return worst;
"""


def a_phone_needs_no_scrolling_to_the_side(s):
    s.browser.run("for (const d of document.querySelectorAll('details')) d.open = true")
    for width in (320, 375):
        s.browser.screen(width, 700, phone=True)
        s.browser.until("the timeline is not drawn anew", "return document.querySelector('svg')?.clientWidth <= innerWidth || null")
        wide = s.browser.run("""return [document.scrollingElement.scrollWidth, ...[...document.querySelectorAll('body *')]
          .filter((one) => one.getBoundingClientRect().right > innerWidth + 1 && one.checkVisibility() && !one.closest('.unseen, thead, svg'))
          .map((one) => `${one.localName}.${one.className}`)]""")
        expect(wide == [width], f"at {width} px it is wide: {wide[:5]}")
    small = s.browser.run("return [...document.querySelectorAll('button')].filter((b) => b.checkVisibility() && b.offsetHeight < 40).length")
    expect(small == 0, "buttons are too small for a finger")
    s.browser.screen(1200, 900)


def words_stand_where_a_screen_reader_looks(s):
    faults = s.browser.run("""
      const faults = [], names = new Set();
      for (const one of document.querySelectorAll('button, a, select, input, summary, [tabindex]')) {
        if (!one.checkVisibility()) continue;
        const name = one.getAttribute('aria-label') ?? one.labels?.[0]?.textContent ?? one.textContent;
        if (!name?.trim()) faults.push(one.outerHTML.slice(0, 80));
      }
      for (const up of document.querySelectorAll('article')) {
        if (!document.getElementById(up.getAttribute('aria-labelledby'))) faults.push('an article without a name');
        if (!up.querySelector('.health .word').textContent) faults.push('health by its mark alone');
      }
      if (document.documentElement.lang !== 'en' || !document.querySelector('h1') || !document.querySelector('main')) faults.push('no landmarks');
      return faults""")
    expect(not faults, f"{faults}")


def nothing_failed_and_nobody_else_was_asked(s):
    s.clean()
    complaints = s.browser.complaints()
    expect(not complaints, f"the console: {complaints}")


def a_keeper_that_is_gone_is_not_called_healthy(s):
    s.kill_keeper()
    s.browser.until("the page does not say that it is stale", "return document.body.classList.contains('stale') && document.querySelector('#trouble').textContent.includes('does not answer')")
    expect("was true at" in s.browser.text("#trouble"), "it does not say until when it was true")
    s.serve()
    s.browser.until("it does not say how to sign in", "return document.querySelector('#trouble').textContent.includes('relatch page')")
    s.browser.go(s.address())
    s.browser.until("the new keeper's page is not shown", "return document.querySelectorAll('article').length === 2 && !document.body.classList.contains('stale')")
    s.clean()


CASES = (
    signed_out_says_how_to_sign_in,
    a_one_time_address_opens_the_page_once,
    the_browser_is_opened_without_a_shell,
    what_is_unknown_is_called_so,
    a_client_and_its_calls_are_shown,
    killed_is_down_within_two_seconds,
    back_is_healthy_within_two_seconds,
    reconnect_works_by_keyboard_alone,
    the_timeline_is_read_by_keyboard,
    hostile_names_stay_text,
    light_and_dark_are_legible,
    a_phone_needs_no_scrolling_to_the_side,
    words_stand_where_a_screen_reader_looks,
    a_server_without_streams_is_found_dead_while_idle,
    nothing_failed_and_nobody_else_was_asked,
    a_keeper_that_is_gone_is_not_called_healthy,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shots", type=Path, metavar="DIR", help="keep a picture after each case")
    chosen = parser.parse_args()
    relatch = relatch_path()
    if not relatch or not shutil.which(relatch):
        parser.error("set RELATCH=/path/to/relatch")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = 0
    story = Story(str(Path(shutil.which(relatch)).resolve()), HERE / "out")
    try:
        story.start_server()
        story.serve()
        story.open_browser()
        for case in CASES:
            name = case.__name__.replace("_", " ")
            try:
                figures = case(story)
                print(f"passed  {name}{f': {figures}' if figures else ''}", flush=True)
            except Exception as fault:
                failed += 1
                print(f"FAILED  {name}: {fault}", flush=True)
                if not isinstance(fault, (Late, Missed)):
                    traceback.print_exc()
            if chosen.shots:
                chosen.shots.mkdir(parents=True, exist_ok=True)
                story.browser.shot(chosen.shots / f"{case.__name__}.png", whole=True)
        if failed:
            print("\n".join(story.transcript()))
    finally:
        story.close()
    print(f"{len(CASES) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
