"""What is right: every call ever made, held against the servers' ledger and against what was done to the world.

Pure: records in, findings out. It knows neither processes nor sockets, so that a planted lie can be shown to it (see
../test_judge.py).
"""

import json
import re
from collections import Counter
from dataclasses import dataclass

# Words with which clients report their own trouble with the connection to relatch. Nothing with an HTTP status is among
# them: relatch answers requests, it does not fail them.
OWN_TROUBLE = re.compile(
    r"fetch failed|terminated|ECONNREFUSED|ECONNRESET|socket hang up|other side closed|"
    r"connection (was )?(closed|reset|refused|error|lost)|error sending request|error decoding|body error|"
    r"All connection attempts failed|ReadError|ConnectError|RemoteProtocolError|WriteError|ClosedResource|BrokenResource|"
    r"peer closed connection|Server disconnected|incomplete chunked read|transport (closed|terminated|error|channel closed)|"
    r"not connected|client is closed|stream (ended|disconnected|closed)|Failed to reconnect|SSE stream|EPIPE|Broken pipe|"
    r"Transport send error|channel closed",
    re.IGNORECASE,
)
HTTP_STATUS = re.compile(r"\bHTTP (status )?[45]\d\d\b|\(?status(code)?:? ?[45]\d\d|\b(404|400|500|502|503|504) (Not Found|Bad|Internal|Service|Gateway)|session not found", re.IGNORECASE)
OWN_TIME_LIMIT = re.compile(r"timed? ?out|timeout|deadline", re.IGNORECASE)
CODES = {
    "internal", "delivery-unknown", "upstream-down", "endpoint-missing", "session-flapping", "state-lost", "keeper-full",
    "hold-full", "credentials-refused", "redirected", "upstream-status", "not-mcp", "cancelled", "session-ended",
    "body-too-large", "certificate-refused", "unknown-host", "resend-refused", "never-replayed", "answer-broken",
    "handshake-refused", "upstream-busy", "draining", "proxy-refused",
}  # fmt: skip
# What no fault of these tests may lead to.
NEVER_HERE = {"internal", "not-mcp", "redirected", "certificate-refused", "unknown-host", "proxy-refused", "credentials-refused", "session-ended"}


@dataclass
class Call:
    """One call of one client. Times are seconds since the lane began."""

    key: str
    client: str
    # Whether the client speaks to `relatch stdio` or to `relatch serve`.
    side: str
    what: str
    began: float
    # It has to have ended after so many seconds.
    bound: float
    # It may run at most once.
    once: bool = True
    # The client itself took it back.
    cancelled: bool = False
    ended: float | None = None
    # The client contract's answer line, or None when there is none.
    line: dict | None = None
    # Why there is no answer: the client's process was killed by a fault, or left the call alone after one.
    without: str | None = None

    def took(self):
        return None if self.ended is None else self.ended - self.began

    def told(self):
        """What relatch said in the error, if it was relatch."""
        if not self.line or self.line.get("ok"):
            return None
        data = self.line["error"].get("data")
        # An SDK may wrap the data of an error in its own.
        for _ in range(3):
            if isinstance(data, dict) and isinstance(data.get("relatch"), dict):
                return data["relatch"]
            data = data.get("data") if isinstance(data, dict) else None
        return None


@dataclass
class Hurt:
    """A span in which a client's own connection to relatch was broken by a fault: the connection cut, or `serve` killed."""

    # None: every client of `relatch serve`.
    client: str | None
    since: float
    until: float

    def meets(self, call):
        ended = call.ended if call.ended is not None else float("inf")
        whose = self.client == call.client if self.client else call.side == "http"
        return whose and self.since <= ended and call.began <= self.until


@dataclass(frozen=True)
class Finding:
    call: Call | None
    kind: str
    words: str


def outcome(call, hurts):
    """(word for the count, Finding or None) for how the call ended; the ledger is looked at elsewhere."""
    bad = lambda kind, words: (kind, Finding(call, kind, words))
    hurt = any(hurt.meets(call) for hurt in hurts)
    if call.line is None:
        if call.without:
            return call.without, None
        if hurt:
            return "left alone by its client after its connection was broken", None
        return bad("hang", f"no answer within {call.bound:.1f} s")
    if call.took() > call.bound:
        return bad("hang", f"answered after {call.took():.1f} s, the bound is {call.bound:.1f} s")
    if call.line["ok"]:
        if (call.line.get("result") or {}).get("isError"):
            return bad("strange answer", f"the tool reported an error: {json.dumps(call.line['result'])[:300]}")
        if call.key and call.key not in json.dumps(call.line.get("result")):
            return bad("strange answer", f"the answer is about something else: {json.dumps(call.line['result'])[:300]}")
        cut = hurt and any(hurt.meets(call) and call.began < hurt.since for hurt in hurts)
        return ("answered although its client's connection broke meanwhile" if cut else "answered"), None
    error = call.line["error"]
    said = json.dumps(error)
    if told := call.told():
        if told.get("code") not in CODES or told.get("executed") not in ("no", "unknown") or not told.get("upstream"):
            return bad("untruthful error", f"relatch's own data is incomplete: {json.dumps(told)}")
        if told["code"] in NEVER_HERE:
            return bad("untruthful error", f"nothing here leads to `{told['code']}`: {said[:400]}")
        if told["code"] == "cancelled" and not call.cancelled and not hurt and not OWN_TIME_LIMIT.search(said):
            return bad("untruthful error", f"nobody cancelled it: {said[:400]}")
        return f"{told['code']}, executed {told['executed']}", None
    if call.cancelled:
        return "cancelled by its client", None
    if HTTP_STATUS.search(said):
        return bad("untruthful error", f"a bare HTTP error reached the client: {said[:400]}")
    if OWN_TIME_LIMIT.search(said):
        if hurt:
            return "client's own time limit after its connection was broken", None
        return bad("hang", f"the client's own time limit ended it: {said[:300]}")
    if hurt and OWN_TROUBLE.search(said):
        return "client's own connection error", None
    return bad("untruthful error", f"neither relatch's data nor excused by a fault: {said[:400]}")


def ledger_finding(call, ran):
    """Whether the executions in the ledger fit what the call was told."""
    if not call.key:
        return None
    if call.once and ran > 1:
        return Finding(call, "ran twice", f"`{call.key}` ran {ran} times")
    answered = call.line is not None and call.line["ok"]
    if answered and ran < 1:
        return Finding(call, "answered without running", f"`{call.key}` got a result and is not in the ledger")
    told = call.told()
    if told and told.get("executed") == "no" and ran:
        return Finding(call, "false `executed: no`", f"`{call.key}` ran {ran} times, and its error ({told.get('code')}) says that it did not")
    return None


def judge(calls, ledger, hurts):
    """(findings, outcomes counted). `ledger` counts executions by key."""
    findings, outcomes = [], Counter()
    known = Counter(call.key for call in calls if call.key)
    for call in calls:
        word, finding = outcome(call, hurts)
        outcomes[word] += 1
        if finding:
            findings.append(finding)
        if wrong := ledger_finding(call, ledger.get(call.key, 0)):
            findings.append(wrong)
    for key, times in known.items():
        if times > 1:
            findings.append(Finding(None, "harness", f"the key `{key}` was used for {times} calls"))
    for key in ledger:
        if key not in known:
            findings.append(Finding(None, "unknown execution", f"`{key}` ran and nobody called it"))
    return findings, outcomes
