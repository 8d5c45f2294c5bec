"""Hand-written pages of reference, compared with the program: paths of `serve`, variables, fields of status."""

import http.client
import json
import os
import re
import subprocess

from pages import ROOT, Wrong
from stage import Stage


def rows(page):
    for line in (ROOT / page).read_text().splitlines():
        if line.startswith("|") and not line.startswith("| ---"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]


def environment():
    """Each variable that the source reads is on the page, and none that it does not read."""
    page = (ROOT / "docs/reference/environment.md").read_text() + (ROOT / "docs/reference/tracing.md").read_text()
    told = set(re.findall(r"`([A-Z][A-Z0-9_]{3,})`", "\n".join(row[0] for row in rows("docs/reference/environment.md"))))
    read = set()
    for path in (ROOT / "crates").glob("relatch*/src/**/*.rs"):
        if any(part in str(path) for part in ("relatch-fuzz", "relatch-sim", "/tests.rs")):
            continue
        code = path.read_text().split("#[cfg(test)]")[0]
        read |= set(re.findall(r"(?:var|var_os|try_from_env|set)\(\s*\"([A-Z][A-Z0-9_]+)\"", code))

    def all_told(name):
        if not re.search(rf"`{name}\b", page):
            raise Wrong("the program reads it, the page does not name it")

    def all_read(name):
        sources = (path.read_text() for path in (ROOT / "crates").glob("relatch*/src/**/*.rs"))
        if not any(name in text for text in sources):
            raise Wrong("the page names it, no source does")

    for name in sorted(read - {"RELATCH_WRITE_DOCS", "RELATCH_FUZZ_STORY"}):
        yield f"docs/reference/environment.md has {name}", lambda name=name: all_told(name)
    for name in sorted(told):
        yield f"docs/reference/environment.md: {name} is read", lambda name=name: all_read(name)


def http_paths():
    """Each row of the table is asked for: with the token, without it, and from a foreign host."""
    asked = []
    for row in rows("docs/reference/http.md"):
        match = re.match(r"`(GET|POST|DELETE) (/\S*)`$", row[0])
        if match and len(row) >= 4:
            asked.append((match.group(1), match.group(2), row[1], row[2]))

    def ask():
        if len(asked) < 10:
            raise Wrong("the table of paths was not found")
        with Stage() as stage:
            stage.serve("relatch serve gmail=http://127.0.0.1:8761/mcp")
            token = stage.token()
            for method, path, with_token, without in asked:
                for given, expected in ((True, with_token), (False, without)):
                    connection = http.client.HTTPConnection("127.0.0.1", stage.port(7332), timeout=10)
                    body = None
                    headers = {"Relatch-Token": token} if given else {}
                    if method == "POST":
                        headers |= {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
                        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": stage.INITIALIZE}) if path.endswith("/mcp") else ""
                    connection.request(method, path.replace("NAME", "gmail"), body=body, headers=headers)
                    status = connection.getresponse().status
                    connection.close()
                    if str(status) != expected.split()[0]:
                        raise Wrong(f"{method} {path} {'with' if given else 'without'} the token is {status}, not {expected}")

    yield "docs/reference/http.md: every path and status", ask


def status_fields():
    """Every field of a real status is on the page that is made of the source."""

    def look():
        told = {row[0].strip("`") for row in rows("docs/reference/status.md")}
        with Stage() as stage:
            stage.direct("attach gmail")
            out = subprocess.run([os.environ["RELATCH"], "status", "--json"], env=stage.environment, capture_output=True, text=True, timeout=20)
            status = json.loads(out.stdout)
        seen = set()

        def walk(node):
            for value in node if isinstance(node, list) else []:
                walk(value)
            for name, value in node.items() if isinstance(node, dict) else []:
                seen.add(name)
                walk(value)

        walk(status)
        if "generation" not in seen:
            raise Wrong(f"the status has no session: {out.stdout}")
        if missing := seen - told:
            raise Wrong(f"fields that are not told: {', '.join(sorted(missing))}")

    yield "docs/reference/status.md has every field of a real status", look
