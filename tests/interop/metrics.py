#!/usr/bin/env python3
"""Reads `/metrics` of a running keeper with the official Prometheus client's parser.

Compares what is read with the page that documents the names, and with what was done. Needs RELATCH=/path/to/relatch.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parent.parent.parent


def must(holds, words):
    if not holds:
        sys.exit(f"metrics: {words}")


def get(url, headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def status_of(url, headers):
    try:
        return get(url, headers) and 200
    except urllib.error.HTTPError as refused:
        return refused.code


class Client:
    def __init__(self, url, token):
        self.url, self.token, self.session, self.id = url, token, None, 0

    def post(self, method, params, answered=True):
        self.id += 1
        message = {"jsonrpc": "2.0", "method": method, "params": params} | ({"id": self.id} if answered else {})
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Relatch-Token": self.token}
        if self.session:
            headers["Mcp-Session-Id"] = self.session
        request = urllib.request.Request(self.url, json.dumps(message).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            self.session = answer.headers["Mcp-Session-Id"] or self.session
            return answer.read().decode()


def main():
    relatch = os.environ.get("RELATCH") or sys.exit("metrics: set RELATCH=/path/to/relatch")
    documented = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", (ROOT / "docs/reference/metrics.md").read_text(), re.M))
    with tempfile.TemporaryDirectory() as home:
        env = os.environ | {"HOME": home, "XDG_STATE_HOME": home, "RELATCH_RUNTIME_DIR": f"{home}/run"}
        server = subprocess.Popen([relatch, "drill-server", "--port", "0", "--ledger", f"{home}/ledger"], stdout=subprocess.PIPE, text=True, env=env)
        port = json.loads(server.stdout.readline())["port"]
        # Nothing listens at the discard port.
        line = [relatch, "serve", "--listen", "127.0.0.1:0", "--hold", "100ms", f"up=http://127.0.0.1:{port}/mcp", "away=http://127.0.0.1:9/mcp"]
        keeper = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=env)
        try:
            address = re.search(r"http://([\d.:]+)/", keeper.stdout.readline())[1]
            token = (Path(home) / "relatch/token").read_text().strip()
            started = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": 'evil"} 1\n', "version": "1"}}
            for name, calls in (("up", 3), ("away", 0)):
                client = Client(f"http://{address}/{name}/mcp", token)
                client.post("initialize", started)
                if calls:
                    client.post("notifications/initialized", {}, answered=False)
                for _ in range(calls):
                    client.post("tools/call", {"name": "write", "arguments": {"note": "x"}})

            metrics = f"http://{address}/metrics"
            must(status_of(metrics, {}) == 403, "they are read without the token")
            must(status_of(metrics, {"Authorization": "Bearer wrong"}) == 403, "they are read with a wrong token")
            must(status_of(f"http://{address}/api/status", {"Authorization": f"Bearer {token}"}) == 403, "a bearer opens more than it should")
            must(status_of(metrics, {"Relatch-Token": token}) == 200, "the token's own header is not taken")
            kind, text = get(metrics, {"Authorization": f"Bearer {token}"})
            must(kind == "text/plain; version=0.0.4; charset=utf-8", f"the content type is {kind}")
            must("evil" not in text, "what a client says is in the text")

            families = {}
            for family in text_string_to_metric_families(text):
                # The parser leaves `_total` out of the names of counters.
                name = family.name + ("_total" if family.type == "counter" else "")
                must(name not in families, f"{name} comes twice")
                families[name] = family
            types = {name: family.type for name, family in families.items()}
            must(types == documented, f"the documented names and types are not those read: {types} {documented}")

            def value(name, **labels):
                found = [s.value for f in families.values() for s in f.samples if s.name == name and s.labels == labels]
                must(len(found) == 1, f"{name} {labels} has {len(found)} samples")
                return found[0]

            must(value("relatch_upstream_health", upstream="up", state="healthy") == 1, "`up` is not healthy")
            must(value("relatch_upstream_health", upstream="away", state="down") == 1, "`away` is not down")
            for upstream in ("up", "away"):
                states = ("healthy", "recovering", "degraded", "down", "unknown")
                must(sum(value("relatch_upstream_health", upstream=upstream, state=s) for s in states) == 1, "not one state")
            must(value("relatch_calls_total", upstream="up") == 4, "`initialize` and three calls are not counted")
            must(value("relatch_call_duration_seconds_count", upstream="up") == 3, "three calls are not measured")
            must(value("relatch_given_back_total", upstream="away") == 1, "the refused handshake is not counted")
            must(value("relatch_upstream_condition", upstream="away", code="upstream-down") == 1, "the condition is missing")
            must(value("relatch_sessions", upstream="up") == 1 and value("relatch_generation", upstream="up") == 1, "one session")
            must(value("relatch_sockets", upstream="up") >= 0, "sockets are not counted")
            print(f"metrics: {len(families)} families, {sum(len(f.samples) for f in families.values())} samples, all as documented")
        finally:
            for process in (keeper, server):
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
