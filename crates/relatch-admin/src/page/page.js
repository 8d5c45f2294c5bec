// The page of relatch: draws what `/api/events` tells, and asks for a relatch when a button says so.
//
// Every word from elsewhere (names, versions, causes) becomes text and never markup. Health is not computed here.

const MARKS = { healthy: "✓", recovering: "↻", degraded: "!", down: "✗", unknown: "?" };
const GOOD = new Set(["relatched", "latched", "back", "cleared"]);
const BUSY = new Set(["lost", "suspected", "away", "held", "resent"]);
const BAD = new Set(["given-back", "delivery-unknown", "credentials-refused"]);
const SHOWN_SESSIONS = 50, SHOWN_TURNS = 50, SHOWN_ENTRIES = 40, KEPT_ENTRIES = 1000;
const SILENT_MS = 35_000; // The keeper tells its time every 15 s.

const $ = (selector, within = document) => within.querySelector(selector);
const upstreams = new Map(); // name → { view, server, turns, minutes }
let explained = {}, journal = [], shownEntries = SHOWN_ENTRIES;
let range = 3_600_000, ahead = 0, lastHeard = 0, stream = null;

// --- words -----------------------------------------------------------------------------------------------------------

const now = () => Date.now() + ahead;
const time = (at) => (typeof at === "string" ? Date.parse(at) : at);
const two = (n) => String(n).padStart(2, "0");
const number = (n) => n.toLocaleString("en").replaceAll(",", "\u202f");
const many = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`;

function clock(at, seconds = true) {
  const d = new Date(time(at));
  const text = `${two(d.getHours())}:${two(d.getMinutes())}${seconds ? `:${two(d.getSeconds())}` : ""}`;
  const today = d.toDateString() === new Date(now()).toDateString();
  return today || !seconds ? text : `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${text}`;
}

// A span as people say it, to two parts: 3s, 1m 35s, 14m, 2h 10m, 3d 4h.
function span(ms) {
  const s = Math.max(0, Math.floor(ms / 1000)), m = Math.floor(s / 60), h = Math.floor(m / 60), d = Math.floor(h / 24);
  if (s < 1) return "<1s";
  if (s < 60) return `${s}s`;
  if (m < 10) return s % 60 ? `${m}m ${s % 60}s` : `${m}m`;
  if (m < 60) return `${m}m`;
  if (h < 24) return m % 60 ? `${h}h ${m % 60}m` : `${h}h`;
  return h % 24 ? `${d}d ${h % 24}h` : `${d}d`;
}
const ago = (at) => span(now() - time(at));

function ms(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1) return "<1 ms";
  if (value < 10_000) return `${number(Math.round(value))} ms`;
  return value < 60_000 ? `${(value / 1000).toFixed(1)} s` : span(value);
}

// --- nodes -----------------------------------------------------------------------------------------------------------

function node(name, attributes = {}, ...children) {
  const made = name.startsWith("svg:") ? document.createElementNS("http://www.w3.org/2000/svg", name.slice(4)) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Text is set only when it differs: a selection stays, and nothing is read out twice.
function put(into, text) {
  if (into.textContent !== text) into.textContent = text;
}

function rows(table, lines) {
  const labels = [...table.tHead.rows[0].cells];
  const text = JSON.stringify(lines);
  if (table.dataset.shown === text) return;
  table.dataset.shown = text;
  table.tBodies[0].replaceChildren(...lines.map((line) => node("tr", {}, ...line.map((value, n) =>
    node("td", { "data-label": labels[n].textContent, class: labels[n].className }, value)))));
}

function say(words) {
  $("#said").textContent = words;
}

// --- one upstream ----------------------------------------------------------------------------------------------------

function upstream(name) {
  let known = upstreams.get(name);
  if (known) return known;
  const view = $("#upstream").content.firstElementChild.cloneNode(true);
  const id = `up-${(upstream.number = (upstream.number ?? -1) + 1)}`;
  view.id = id;
  $("h2", view).textContent = name;
  $("h2", view).id = `${id}-name`;
  view.setAttribute("aria-labelledby", `${id}-name`);
  $("#upstreams").append(view);
  const link = node("a", { href: `#${id}` }, node("span", { class: "mark", "aria-hidden": "true" }), " ", node("b", {}, name), " ", node("span", { class: "word" }));
  $("#overview ul").append(node("li", {}, link));
  const option = node("option", { value: name }, name);
  $("#of").append(option);
  known = { name, view, link, option, server: null, turns: [], minutes: [], cursor: null };
  upstreams.set(name, known);
  const button = $(".reconnect", view);
  button.setAttribute("aria-label", `Reconnect ${name}`);
  button.addEventListener("click", () => reconnect(known, button));
  steer(known);
  return known;
}

// The configuration may take an upstream out while the page is open.
function keepOnly(servers) {
  const names = new Set(servers.map((server) => server.name));
  for (const [name, up] of upstreams) {
    if (names.has(name)) continue;
    up.view.remove();
    up.link.parentElement.remove();
    up.option.remove();
    upstreams.delete(name);
  }
}

function drawUpstream(up) {
  const { server, view, link } = up;
  if (!server) return;
  if (up.heard && up.heard !== server.health) say(`${up.name} is ${server.health}${server.reason ? `: ${server.reason}` : ""}`);
  up.heard = server.health;
  view.dataset.health = link.dataset.health = server.health;
  for (const at of [view, link]) put($(".mark", at), MARKS[server.health] ?? "?");
  put($(".health .word", view), server.health);
  put($(".age", view), `for ${ago(server.since)}`);
  put($(".word", link), `${server.health} ${ago(server.since)}`);

  const success = server.last_success;
  const seen = success ? `${success.method} ${ago(success.at)} ago, ${ms(success.ms)}` : "no answer seen yet";
  const next = server.next_attempt && time(server.next_attempt) > now() ? ` · ${server.pause ? "goes on by itself" : "next attempt"} in ${span(time(server.next_attempt) - now())}` : "";
  const waiting = server.waiting ? ` · ${many(server.waiting, "call")} waiting` : "";
  const reason = server.health !== "healthy" && server.reason && !server.conditions.some((c) => c.cause === server.reason) ? `${server.reason} · ` : "";
  const answer = success ? `last answer: ${seen}` : reason ? "" : seen;
  put($(".evidence", view), `${reason}${answer}${next}${waiting}`.replace(/^ · | · $/, ""));

  drawConditions(up);
  drawCounts(up);
  const peer = server.server;
  const known = (value, yes, no) => (value === null || value === undefined ? "unknown" : value ? yes : no);
  const { configured, reachable, session, credentials, last_call } = server.facets;
  put($(".facts", view), [
    peer ? [peer.name ?? "(no name)", peer.version].filter(Boolean).join(" ") : null,
    peer ? `MCP ${peer.protocol}` : null,
    server.url,
    `address: ${known(configured, "right", "wrong")}`,
    `reachable: ${known(reachable, "yes", "no")}`,
    `session: ${known(session, "alive", "gone")}`,
    `credentials: ${known(credentials, "accepted", "refused")}`,
    `last call: ${known(last_call, "answered", "not answered")}`,
    server.last_failure ? `last failure: ${server.last_failure.method} ${ago(server.last_failure.at)} ago, ${server.last_failure.cause}` : null,
  ].filter(Boolean).join(" · "));
  drawSessions(up);
  // A keeper of an older version does not say.
  const lines = server.stderr ?? [];
  $(".stderr", view).hidden = lines.length === 0;
  put($(".stderr pre", view), lines.join("\n"));
}

function drawConditions({ view, server }) {
  const list = $(".conditions", view);
  list.hidden = server.conditions.length === 0;
  const codes = server.conditions.map((c) => c.code).join(" ");
  if (list.dataset.codes !== codes || list.childElementCount !== server.conditions.length) {
    list.dataset.codes = codes;
    list.replaceChildren(...server.conditions.map((c) => node("li", {},
      node("p", { class: "told" }), node("p", { class: "effect" }),
      explained[c.code] ? node("details", {}, node("summary", {}, `What ${c.code} means`), node("p", {}, explained[c.code])) : null)));
  }
  server.conditions.forEach((c, n) => {
    const item = list.children[n];
    const told = $(".told", item), text = `${c.title} for ${ago(c.since)}: ${c.cause}`;
    if (told.textContent !== text) told.replaceChildren(node("b", {}, c.title), text.slice(c.title.length));
    put($(".effect", item), `${c.effect}. ${c.hint}.`);
  });
}

function drawCounts({ view, server }) {
  const t = server.totals, spent = server.latency_ms;
  const calls = spent.p99 > 0 || server.facets.last_call;
  const counts = [
    ["calls", number(t.calls)], ["relatched", number(t.relatched)], ["resent", number(t.resent)], ["held", number(t.held)],
    ["given back", number(t.given_back)], ["may have run", number(t.delivery_unknown)],
    ["p50", calls ? ms(spent.p50) : "–"], ["p99", calls ? ms(spent.p99) : "–"],
  ];
  const list = $(".counts", view);
  if (!list.childElementCount) {
    list.append(...counts.map(([name]) => node("div", {}, node("dt", {}, name), node("dd", {}))));
  }
  counts.forEach(([name, text], n) => {
    const item = list.children[n];
    put($("dd", item), text);
    item.className = text === "0" || text === "–" ? "zero" : ["given back", "may have run"].includes(name) ? "bad" : "";
  });
}

function drawSessions({ view, server }) {
  const box = $(".sessions", view);
  const sessions = [...server.sessions].sort((a, b) => time(b.last_used) - time(a.last_used));
  put($("summary", box), sessions.length ? many(sessions.length, "session") : "No client is attached");
  $("table", box).hidden = sessions.length === 0;
  if (!box.open) return;
  rows($("table", box), sessions.slice(0, SHOWN_SESSIONS).map((s) => [
    s.id || "–", s.client ? `${s.client.name} ${s.client.version}` : "(unnamed)", s.copy ? `${s.state}, on a copy of ${ago(s.copy)} ago` : s.state, s.generation ? String(s.generation) : "–",
    `${ago(s.opened)} ago`, s.bound ? `${ago(s.bound)} ago` : "–", `${ago(s.last_used)} ago`, String(s.open),
  ]));
  rest($(".more", box), sessions.length - SHOWN_SESSIONS, "used longer ago");
}

function rest(into, count, words) {
  into.hidden = count <= 0;
  put(into, count > 0 ? `and ${number(count)} more, ${words}` : "");
}

async function reconnect(up, button) {
  // Not `disabled`: the button would lose the focus of the keyboard.
  if (button.hasAttribute("aria-disabled")) return;
  button.setAttribute("aria-disabled", "true");
  put(button, "Reconnecting …");
  try {
    const answer = await fetch(`/api/reconnect?name=${encodeURIComponent(up.name)}`, { method: "POST", headers: { "Relatch-Page": "1" } });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    const latches = told[0]?.latches ?? 0;
    say(latches ? `${up.name}: ${many(latches, "session")} opened anew` : `${up.name}: no client is attached, nothing to do`);
    put(button, latches ? "Asked for" : "No client attached");
  } catch (fault) {
    say(`${up.name} could not be asked to reconnect: ${fault.message}`);
    put(button, "Not possible now");
  }
  setTimeout(() => {
    button.removeAttribute("aria-disabled");
    put(button, "Reconnect");
  }, 1500);
}

// --- the timeline ----------------------------------------------------------------------------------------------------

// One column of the plots: a minute, or several where the time shown is long.
const column = () => (range <= 3_600_000 ? 60_000 : range <= 21_600_000 ? 300_000 : 900_000);

// The spans of one health each, clipped to the time shown.
function spans(up, from, to) {
  const found = [];
  up.turns.forEach((turn, n) => {
    const begin = Math.max(time(turn.at), from);
    const end = Math.min(n + 1 < up.turns.length ? time(up.turns[n + 1].at) : to, to);
    if (end > begin) found.push({ begin, end, health: turn.health, reason: turn.reason, at: time(turn.at) });
  });
  return found;
}

// The minutes added up in columns; latencies of several minutes: the middle p50 and the highest p99.
function columns(up, from) {
  const width = column(), found = new Map();
  for (const minute of up.minutes) {
    const at = time(minute.at);
    if (at + 60_000 <= from) continue;
    const begin = Math.floor(at / width) * width;
    let c = found.get(begin);
    if (!c) found.set(begin, (c = { begin, calls: 0, relatched: 0, given_back: 0, held: 0, p50s: [], p99: null }));
    c.calls += minute.calls;
    c.relatched += minute.relatched;
    c.given_back += minute.given_back;
    c.held += minute.held;
    if (minute.latency_ms) {
      c.p50s.push(minute.latency_ms.p50);
      c.p99 = Math.max(c.p99 ?? 0, minute.latency_ms.p99);
    }
  }
  for (const c of found.values()) c.p50 = c.p50s.sort((a, b) => a - b)[Math.floor((c.p50s.length - 1) / 2)] ?? null;
  return [...found.values()].sort((a, b) => a.begin - b.begin);
}

// A bound for an axis that people read: 1, 2 or 5 times a power of ten.
function nice(most) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, most)));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= most);
}

const STRIP = 16, MARKS_AT = 31, CALLS = 40, CALLS_H = 34, SPENT = 88, SPENT_H = 34, HEIGHT = 142;

function drawTimeline(up) {
  const box = $(".timeline", up.view), width = Math.floor(box.clientWidth);
  if (!width) return;
  const to = now(), from = to - range, gutter = width < 560 ? 0 : 74;
  const x = (at) => gutter + ((Math.min(Math.max(at, from), to) - from) / range) * (width - gutter);
  const s = (name, attributes, ...children) => node(`svg:${name}`, attributes, ...children);
  const text = (at, y, words, anchor = "start") => s("text", { x: at, y, "text-anchor": anchor }, words);
  const svg = s("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" });
  const add = (...nodes) => svg.append(...nodes);

  // The grid, at times that a clock shows
  const step = range <= 3_600_000 ? (width < 560 ? 900_000 : 600_000) : range <= 21_600_000 ? 3_600_000 : (width < 560 ? 21_600_000 : 10_800_000);
  const zone = new Date(to).getTimezoneOffset() * 60_000;
  for (let at = Math.ceil((from - zone) / step) * step + zone; at < to; at += step) {
    add(s("line", { class: "grid", x1: x(at), x2: x(at), y1: STRIP + 4, y2: HEIGHT - 16 }));
    if (x(at) > gutter + 16 && x(at) < width - 40) add(text(x(at), HEIGHT - 3, clock(at, false), "middle"));
  }
  add(text(width, HEIGHT - 3, "now", "end"));

  // Health: every state has its own shape, not only its colour
  const shown = spans(up, from, to);
  // What is short and bad is drawn last, so that nothing hides it
  const order = ["healthy", "unknown", "degraded", "recovering", "down"];
  for (const { begin, end, health } of [...shown].sort((a, b) => order.indexOf(a.health) - order.indexOf(b.health))) {
    const left = x(begin), wide = Math.max(x(end) - left, health === "down" || health === "recovering" ? 2 : .5);
    const [top, high] = { healthy: [0, STRIP], degraded: [5, STRIP - 5], recovering: [9, STRIP - 9], down: [0, STRIP], unknown: [STRIP - 3, 2] }[health] ?? [0, STRIP];
    add(s("rect", { class: `s-${health}`, x: left, y: top, width: wide, height: high }));
    if (health === "down") {
      for (let at = left + 2; at + 7 < left + wide; at += 8) add(s("line", { class: "hatch", x1: at, y1: STRIP - 1, x2: at + 7, y2: 1 }));
    }
  }

  const first = up.turns.length ? time(up.turns[0].at) : from;
  if (x(first) > gutter + 90) add(text(x(first) - 8, 12, `began ${clock(first, false)}`, "end"));

  // Calls, recoveries and what was given back
  const all = columns(up, from), wide = x(from + column()) - gutter;
  const most = nice(Math.max(1, ...all.map((c) => c.calls)));
  const high = (n) => Math.max(n > 0 ? 1.5 : 0, (n / most) * CALLS_H);
  add(s("line", { class: "grid", x1: gutter, x2: width, y1: CALLS + CALLS_H, y2: CALLS + CALLS_H }));
  for (const c of all) {
    const left = x(c.begin), right = x(c.begin + column());
    const bar = { x: left + .5, width: Math.max(1, right - left - 1) };
    if (c.calls) add(s("rect", { class: "calls", ...bar, y: CALLS + CALLS_H - high(c.calls), height: high(c.calls) }));
    if (c.given_back) add(s("rect", { class: "back", ...bar, y: CALLS + CALLS_H, height: 4 }));
    const middle = (left + right) / 2;
    if (c.relatched) add(s("path", { class: "relatched", d: `M${middle} ${MARKS_AT - 9}l4.5 8h-9z` }));
  }

  // Latency: the middle as a line, the 99th of a hundred above it
  const peak = nice(Math.max(1, ...all.map((c) => c.p99 ?? 0)));
  const depth = (value) => SPENT + SPENT_H - (Math.min(value, peak) / peak) * SPENT_H;
  add(s("line", { class: "grid", x1: gutter, x2: width, y1: SPENT + SPENT_H, y2: SPENT + SPENT_H }));
  for (const kind of ["p99", "p50"]) {
    let path = "", last = null;
    const dots = [];
    for (const c of all) {
      if (c[kind] === null) continue;
      const at = [x(Math.max(c.begin, from) / 2 + Math.min(c.begin + column(), to) / 2).toFixed(1), depth(c[kind]).toFixed(1)];
      const joined = last !== null && c.begin - last <= column();
      path += `${joined ? "L" : "M"}${at}`;
      if (!joined) dots.push(s("circle", { class: `${kind}-dot`, cx: at[0], cy: at[1], r: 1.8 }));
      last = c.begin;
    }
    if (path) add(s("path", { class: kind, d: path }), ...dots);
  }

  // What the rows are
  const unit = column() === 60_000 ? "calls/min" : `calls/${column() / 60_000} min`;
  const top = String(number(most)), slow = ms(peak);
  if (gutter) {
    add(text(0, 12, "health"), text(0, MARKS_AT - 1, all.some((c) => c.relatched) ? "relatched" : ""), text(0, CALLS + CALLS_H, unit), text(gutter - 8, CALLS + 8, top, "end"),
      s("text", { x: 0, y: SPENT + SPENT_H }, s("tspan", { class: "p50-word" }, "p50"), " ", s("tspan", { class: "p99-word" }, "p99")), text(gutter - 8, SPENT + 8, slow, "end"));
  } else {
    add(text(0, CALLS + 6, `${unit}, to ${top}`), text(0, SPENT + 4, `p50, p99, to ${slow}`));
  }
  if (up.cursor !== null) add(s("line", { class: "cursor", x1: x(to - up.cursor), x2: x(to - up.cursor), y1: 0, y2: HEIGHT - 16 }));
  box.replaceChildren(svg);
  up.scale = { gutter, width };
  readout(up, shown, all, to);
  drawTurns(up, shown);
}

// What the picture shows at the cursor, or all in all, in words.
function readout(up, shown, all, to) {
  const box = $(".timeline", up.view), from = to - range;
  const share = {};
  for (const { begin, end, health } of shown) share[health] = (share[health] ?? 0) + end - begin;
  const parts = Object.entries(share).sort((a, b) => b[1] - a[1]).map(([health, length]) => `${health} ${span(length)}`);
  const times = shown.filter((s) => s.health === "down").length, relatched = all.reduce((sum, c) => sum + c.relatched, 0);
  let words = `Last ${span(range)}: ${parts.join(", ") || "nothing is known"}${times ? ` · down ${many(times, "time")}` : ""}${relatched ? ` · relatched ${many(relatched, "time")}` : ""}`;
  if (up.cursor !== null) {
    const at = to - up.cursor;
    const turn = shown.find((s) => s.begin <= at && at <= s.end);
    const c = all.find((one) => one.begin <= at && at < one.begin + column());
    words = [
      `${clock(at, column() === 60_000)} ${turn ? turn.health : "relatch was not running"}`,
      turn?.reason && turn.health !== "healthy" ? turn.reason : null,
      c ? many(c.calls, "call") : "no calls",
      c?.p50 !== null && c ? `p50 ${ms(c.p50)}, p99 ${ms(c.p99)}` : null,
      c?.relatched ? `relatched ${many(c.relatched, "time")}` : null,
      c?.held ? `${number(c.held)} held` : null,
      c?.given_back ? `${number(c.given_back)} given back` : null,
    ].filter(Boolean).join(" · ");
  }
  put($(".readout", up.view), words);
  box.setAttribute("aria-label", `Timeline of ${up.name}`);
  box.setAttribute("aria-valuetext", words);
  box.setAttribute("aria-valuenow", String(up.cursor === null ? 100 : Math.round(100 - (up.cursor / range) * 100)));
}

function drawTurns(up, shown) {
  const box = $(".turns", up.view);
  put($("summary", box), `${many(Math.max(0, shown.length - 1), "turn")} of health`);
  if (!box.open) return;
  const newest = [...shown].reverse();
  rows($("table", box), newest.slice(0, SHOWN_TURNS).map((s) => [
    clock(s.at), `${MARKS[s.health]} ${s.health}`, span(s.end - s.begin), s.health === "healthy" ? "" : s.reason ?? "",
  ]));
  rest($(".more", box), newest.length - SHOWN_TURNS, "earlier");
}

// The cursor follows the pointer, and the arrow keys.
function steer(up) {
  const box = $(".timeline", up.view);
  const move = (cursor) => {
    up.cursor = cursor === null ? null : Math.min(range, Math.max(0, cursor));
    drawTimeline(up);
  };
  const point = (event) => {
    const { gutter, width } = up.scale ?? { gutter: 0, width: 1 };
    const share = (event.clientX - box.getBoundingClientRect().left - gutter) / (width - gutter);
    move(share < 0 ? null : (1 - share) * range);
  };
  box.addEventListener("pointermove", point);
  box.addEventListener("pointerdown", point);
  box.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && move(null));
  box.addEventListener("blur", () => move(null));
  box.addEventListener("keydown", (event) => {
    const here = up.cursor ?? 0;
    const to = { ArrowLeft: here + column(), ArrowRight: here - column(), ArrowDown: here + column(), ArrowUp: here - column(),
      PageUp: here + 10 * column(), PageDown: here - 10 * column(), Home: range, End: 0, Escape: null }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    move(to);
  });
  for (const box of up.view.querySelectorAll("details")) box.addEventListener("toggle", () => draw());
}

// --- the journal -----------------------------------------------------------------------------------------------------

function entry(e) {
  const what = e.what;
  const [kind, mark] = GOOD.has(what) ? ["good", "✓"] : BUSY.has(what) ? ["busy", "↻"] : BAD.has(what) ? ["bad", "✗"] : ["faint", "·"];
  const words = [e.subject, e.generation !== null && e.generation !== undefined ? `generation ${e.generation}` : null,
    e.ms !== null && e.ms !== undefined ? ms(e.ms) : null, e.count > 1 ? `${number(e.count)} times` : null, e.detail].filter(Boolean).join(" · ");
  return node("li", {}, node("time", { datetime: e.at }, clock(e.at)), node("span", { class: "of" }, e.upstream),
    node("span", { class: `what ${kind}`, "data-mark": mark }, what), node("span", { class: "rest" }, words));
}

function drawJournal() {
  const of = $("#of").value;
  const wanted = journal.filter((e) => !of || e.upstream === of);
  const newest = wanted.slice(-shownEntries).reverse();
  $("#entries").replaceChildren(...newest.map(entry));
  $("#quiet").hidden = newest.length > 0;
  $("#older").hidden = wanted.length <= shownEntries;
}

$("#of").addEventListener("change", drawJournal);
$("#older").addEventListener("click", () => {
  shownEntries += SHOWN_ENTRIES;
  drawJournal();
});

// --- all of it -------------------------------------------------------------------------------------------------------

function drawSummary() {
  const all = [...upstreams.values()].filter((up) => up.server);
  const counts = {};
  for (const up of all) counts[up.server.health] = (counts[up.server.health] ?? 0) + 1;
  const words = ["down", "degraded", "recovering", "unknown", "healthy"].filter((h) => counts[h]).map((h) => `${counts[h]} ${h}`).join(", ");
  put($("#summary"), all.length ? words : "No upstream is configured");
  const worst = ["down", "degraded", "recovering", "unknown"].find((h) => counts[h]);
  document.title = worst ? `${MARKS[worst]} ${words} · relatch` : "✓ relatch";
  $("#overview").hidden = all.length < 2;
}

function draw() {
  for (const up of upstreams.values()) {
    drawUpstream(up);
    drawTimeline(up);
  }
  drawSummary();
}

const HEAR = {
  clock(at) {
    ahead = time(at) - Date.now();
  },
  status(status) {
    const keeper = status.keepers[0];
    keepOnly(keeper.servers);
    for (const server of keeper.servers) upstream(server.name).server = server;
    put($("#keeper"), `relatch ${keeper.version}, process ${keeper.pid}, running since ${clock(keeper.since)}`);
    draw();
  },
  history({ from, servers }) {
    const after = from === null ? -Infinity : time(from);
    for (const { name, turns, minutes } of servers) {
      const up = upstream(name);
      const merged = (old, news) => [...old.filter((one) => time(one.at) < after), ...news];
      up.turns = merged(up.turns, turns);
      // The keeper's date of a minute may move by a few milliseconds.
      const byTime = new Map(merged(up.minutes, minutes).map((minute) => [Math.round(time(minute.at) / 1000), minute]));
      up.minutes = [...byTime.values()].filter((minute) => time(minute.at) > now() - 86_460_000);
      drawTimeline(up);
    }
  },
  journal(entries) {
    journal.push(...entries);
    journal.splice(0, journal.length - KEPT_ENTRIES);
    drawJournal();
  },
  missed(count) {
    say(`${many(count, "entry").replace("entrys", "entries")} of the journal came too fast and are not shown`);
  },
};

function trouble(words) {
  const box = $("#trouble");
  document.body.classList.toggle("stale", words !== null);
  box.hidden = words === null;
  put(box, words ?? "");
}

function listen() {
  stream?.close();
  stream = new EventSource("/api/events");
  let fresh = true;
  for (const [name, hear] of Object.entries(HEAR)) {
    stream.addEventListener(name, (event) => {
      lastHeard = Date.now();
      if (fresh) {
        // All of it comes again.
        fresh = false;
        journal = [];
        trouble(null);
      }
      hear(JSON.parse(event.data));
    });
  }
  stream.addEventListener("error", lost);
}

// What is shown was true when it was last heard, and is said to be no newer.
async function lost() {
  stream?.close();
  stream = null;
  if (document.hidden) return;
  const since = lastHeard ? `What is shown was true at ${clock(lastHeard + ahead)}.` : "";
  trouble(`relatch does not answer. ${since} Trying again …`);
  const answer = await fetch("/api/status").catch(() => null);
  if (answer?.status === 403) {
    trouble(`This page is not signed in any more. ${since} Run \`relatch page\` to open it again.`);
    return;
  }
  setTimeout(() => stream === null && !document.hidden && listen(), 1000);
}

// A page that nobody looks at needs no stream; browsers have few for each host.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    stream?.close();
    stream = null;
  } else if (stream === null) {
    listen();
  }
});
window.addEventListener("resize", draw);
for (const input of document.querySelectorAll("#ranges input")) {
  input.addEventListener("change", () => {
    range = Number(input.value);
    for (const up of upstreams.values()) up.cursor = null;
    draw();
  });
}
setInterval(() => {
  if (stream && lastHeard && Date.now() - lastHeard > SILENT_MS) lost();
  else if (!document.hidden) draw();
}, 1000);

explained = await fetch("/api/explain").then((answer) => (answer.ok ? answer.json() : {})).catch(() => ({}));
listen();
